# SPDX-License-Identifier: Apache-2.0
"""inotify(7): a descriptor that becomes readable when a watched file changes."""

import ctypes
import os

from orlop.unix._libc import Path, cstring, libc, oserror

IN_MODIFY = 0x2
IN_CLOSE_WRITE = 0x8
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_IGNORED = 0x8000

_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC

_init = libc.inotify_init1
_init.restype, _init.argtypes = ctypes.c_int, [ctypes.c_int]
_add = libc.inotify_add_watch
_add.restype, _add.argtypes = ctypes.c_int, [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]


def watch(path: Path, mask: int) -> int:
    """A new non-blocking inotify descriptor that watches one path for the events in `mask`."""
    fd: int = _init(_NONBLOCK_CLOEXEC)
    if fd < 0:
        raise oserror()
    if _add(fd, cstring(path), mask) < 0:
        error = oserror(path)
        os.close(fd)
        raise error
    return fd


def drain(fd: int) -> None:
    """Read away what is waiting, so that the descriptor is readable only for the next event."""
    try:
        os.read(fd, 65536)
    except BlockingIOError:
        return
