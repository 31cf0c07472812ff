# SPDX-License-Identifier: Apache-2.0
"""The memory of a captured process: what of it goes into the file, and what must not stay as it is."""

import ctypes
import struct
from typing import NamedTuple

from orlop.unix._libc import libc
from orlop.unix.unexec.elf import Region

_FLAGS = {"r": 4, "w": 2, "x": 1}
# Regions that the kernel gives to each process anew.
_KERNELS = ("[vvar]", "[vvar_vclock]", "[vsyscall]", "[stack]")
_STARTSTACK = 28 - 1  # /proc/<pid>/stat, counted from 0 (proc_pid_stat(5))

# The functions of the vDSO (vdso(7)), and the system calls that do the same.
_VDSO = {
    b"__vdso_clock_gettime": 228,
    b"__vdso_gettimeofday": 96,
    b"__vdso_time": 201,
    b"__vdso_getcpu": 309,
    b"__vdso_clock_getres": 229,
    b"__vdso_getrandom": 318,
}
_SHT_DYNSYM = 11


class Arguments(NamedTuple):
    """The top of a process's first stack: arguments, environment, auxiliary vector and their strings."""

    start: int
    end: int


def regions(pid: int | str) -> list[Region]:
    """The regions of a process that hold anything of its own."""
    found = []
    with open(f"/proc/{pid}/maps", encoding="utf-8") as file:
        for line in file:
            span, permissions, _, _, _, *name = line.split(maxsplit=5)
            start, end = (int(address, 16) for address in span.split("-"))
            flags = sum(_FLAGS.get(letter, 0) for letter in permissions)
            label = name[0].strip() if name else ""
            if flags and label not in _KERNELS:
                found.append(Region(start, end, flags, label))
    return found


def arguments() -> Arguments:
    """Where this process's arguments are."""
    with open("/proc/self/stat", encoding="utf-8") as file:
        start = int(file.read().rpartition(")")[2].split()[_STARTSTACK - 2])
    with open("/proc/self/maps", encoding="utf-8") as file:
        end = next(int(line.split("-")[1].split()[0], 16) for line in file if "[stack]" in line)
    return Arguments(start, end)


class Corrections:
    """What the bytes of a captured process become in the file.

    - Pointers to the arguments that are in variables of the interpreter and the C library point to a copy of them,
      at `copy`. Variables alone: in memory that is given out, half of an old pointer may be the unused half of a
      word that means something else.
    - The C library asks the kernel anew where the end of the data segment (brk(2)) is.
    - The functions of the vDSO become system calls.
    """

    def __init__(self, copied: Arguments, copy: int) -> None:
        self._copied = copied
        self._by = copy - copied.start
        self._break = ctypes.addressof(ctypes.c_void_p.in_dll(libc, "__curbrk"))

    def __call__(self, region: Region, contents: bytes) -> bytes:
        """The corrected contents of a region."""
        if region.name == "[vdso]":
            return without_vdso(contents)
        words = (ctypes.c_ulong * (len(contents) // 8)).from_buffer_copy(contents)
        start, end = self._copied
        if region.name.startswith("/") and not region.flags & _FLAGS["x"]:
            for index in [index for index, word in enumerate(words) if start <= word < end]:
                words[index] += self._by
        if region.start <= self._break < region.end:
            words[(self._break - region.start) // 8] = 0
        return bytes(words)


def without_vdso(image: bytes) -> bytes:
    """The vDSO with system calls as its functions. Raises ValueError where none is found."""
    changed = bytearray(image)
    found = 0
    for name, value in _symbols(image):
        if name in _VDSO:
            # mov eax,number; syscall; ret
            stub = b"\xb8" + _VDSO[name].to_bytes(4, "little") + b"\x0f\x05\xc3"
            changed[value : value + len(stub)] = stub
            found += 1
    if not found:
        raise ValueError("the kernel's vDSO has none of the functions that it is known for")
    return bytes(changed)


def _symbols(image: bytes) -> list[tuple[bytes, int]]:
    """Names and values of an ELF object's dynamic symbols (elf(5))."""
    (table,) = struct.unpack_from("<Q", image, 40)
    size, count = struct.unpack_from("<HH", image, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", image, table + size * index) for index in range(count)]
    found = []
    for _, kind, _, _, offset, length, link, _, _, entry in sections:
        if kind != _SHT_DYNSYM:
            continue
        names = sections[link][4]
        for position in range(offset, offset + length, entry):
            name, _, _, _, value, _ = struct.unpack_from("<IBBHQQ", image, position)
            end = image.index(b"\0", names + name)
            found.append((image[names + name : end], value))
    return found
