# SPDX-License-Identifier: Apache-2.0
"""Memory by address: mappings, and machine code that was never both writable and executable."""

import ctypes
import fcntl
import os

from orlop.unix._libc import libc, oserror
from orlop.unix.fs import (
    F_ADD_SEALS,
    F_SEAL_GROW,
    F_SEAL_SEAL,
    F_SEAL_SHRINK,
    F_SEAL_WRITE,
    MFD_ALLOW_SEALING,
    MFD_CLOEXEC,
    memfd_create,
)

PAGE = 4096
PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS = 1, 2, 16, 32
SEALS = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE

_mmap = libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
munmap = libc.munmap
munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def map_memory(address: int, length: int, protection: int, flags: int, file: int) -> int:
    """mmap(2) from the beginning of a file; the address. Raises OSError."""
    result: int = _mmap(address, length, protection, flags, file, 0)
    if result in (None, 2**64 - 1):
        raise oserror("mmap")
    return result


def map_code(code: bytes) -> int:
    """The address of the code, on a page of its own. Raises OSError where memory may not be executed or sealed."""
    file = memfd_create("orlop-code", MFD_CLOEXEC | MFD_ALLOW_SEALING)
    try:
        os.write(file, code)
        fcntl.fcntl(file, F_ADD_SEALS, SEALS)
        return map_memory(0, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, file)
    finally:
        os.close(file)
