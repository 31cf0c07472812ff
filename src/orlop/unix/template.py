# SPDX-License-Identifier: Apache-2.0
"""Memory that forked processes go on sharing: what they write and then undo costs them nothing.

Forked interpreters part from their parent page by page, mostly for reference counts, which soon have their old
values again. The kernel does not notice that such a page equals the one it was copied from. So `Template.take`
moves everything this process can write to behind a file in memory, mapped privately: the contents stay, but there
is an original to compare with. `Template.settle`, in this process or any forked from it, compares the pages that
have been written since and gives back those which equal their original; the next access finds the original.

Between a comparison and what follows from it nothing may write to the page. Python code cannot promise that of the
memory it lives in, some 200 bytes of machine code can: two functions that write to registers and to memory outside
of the template only. Neither changes what anybody reads anywhere.
"""

import ctypes
import fcntl
import os
import re

from orlop.unix._libc import MACHINE, libc
from orlop.unix.fs import F_ADD_SEALS, MFD_ALLOW_SEALING, MFD_CLOEXEC, memfd_create
from orlop.unix.machine_code import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_PRIVATE,
    MAP_SHARED,
    PAGE,
    PROT_READ,
    PROT_WRITE,
    SEALS,
    map_code,
    map_memory,
    munmap,
)

_MADV_DONTNEED = 4
_NR_MMAP, _NR_PWRITE64 = 9, 18  # asm/unistd_64.h; the code below is for x86-64 alone

# long carry_out(struct {long number, arguments[6], expected;} *calls, long count)
#    Makes the system calls in order, stops at the first whose result is not the expected one; returns how many
#    were not made.
#       push rbx; push rbp; mov rbx,rdi; mov rbp,rsi
#    1: test rbp,rbp; jz 2f
#       mov rax,[rbx]; mov rdi,[rbx+8]; mov rsi,[rbx+16]; mov rdx,[rbx+24]; mov r10,[rbx+32]; mov r8,[rbx+40]
#       mov r9,[rbx+48]; syscall; cmp rax,[rbx+56]; jne 2f
#       add rbx,64; dec rbp; jmp 1b
#    2: mov rax,rbp; pop rbp; pop rbx; ret; (one byte of padding)
# long give_back(int pagemap, u64 *entries, long count, char *page, const char *original)
#    Reads the entries of the pages from /proc/self/pagemap. Each page that is present (bit 63), not swapped (62),
#    and no page of the file but a copy (61), and equals the original: madvise(page, 4096, MADV_DONTNEED). If it is
#    another page than the original then (its mapping has been replaced), the original is copied to it. Returns how
#    many were given back.
#       push rbx; push rbp; push r12; push r13; push r14
#       mov rbx,rsi; mov rbp,rdx; mov r12,rcx; mov r13,r8
#       shl rdx,3; mov r10,rcx; shr r10,9; mov eax,17; syscall                 pread64(pagemap, entries, ...)
#       xor r14d,r14d; lea rcx,[rbp*8]; cmp rax,rcx; jne 5f
#    3: test rbp,rbp; jz 5f
#       mov rax,[rbx]; shr rax,61; cmp eax,4; jne 4f
#       mov rsi,r12; mov rdi,r13; mov ecx,512; repe cmpsq; jne 4f
#       mov eax,28; mov rdi,r12; mov esi,4096; mov edx,4; syscall; inc r14      madvise
#       mov rsi,r12; mov rdi,r13; mov ecx,512; repe cmpsq; je 4f
#       mov rsi,r13; mov rdi,r12; mov ecx,512; rep movsq
#    4: add rbx,8; add r12,4096; add r13,4096; dec rbp; jmp 3b
#    5: mov rax,r14; pop r14; pop r13; pop r12; pop rbp; pop rbx; ret
_CODE = bytes.fromhex(
    "53554889fb4889f54885ed742c488b03488b7b08488b7310488b53184c8b53204c8b43284c8b4b300f05483b43387509"
    "4883c34048ffcdebcf4889e85d5bc39053554154415541564889f34889d54989cc4d89c548c1e2034989ca49c1ea09b8"
    "110000000f054531f6488d0ced000000004839c8756d4885ed7468488b0348c1e83d83f80475454c89e64c89efb90002"
    "0000f348a77535b81c0000004c89e7be00100000ba040000000f0549ffc64c89e64c89efb900020000f348a7740e4c89"
    "ee4c89e7b900020000f348a54883c3084981c4001000004981c50010000048ffcdeb934c89f0415e415d415c5d5bc3"
)
_GIVE_BACK = 64

_MAPPING = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) rw-p \S+ \S+ \S+ *(.*)")

_madvise = libc.madvise
_madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Template:
    """The memory of this process at one moment, as the original of its own and its children's pages."""

    def __init__(self, code: int, original: int, regions: list[tuple[int, int, int]]) -> None:
        word = ctypes.c_long
        self._original = original
        self._regions = regions  # (address, pages, offset in the original)
        self._size = sum(pages for _, pages, _ in regions) * PAGE
        self._give_back = ctypes.CFUNCTYPE(word, word, word, word, word, word)(code + _GIVE_BACK)

    @classmethod
    def take(cls) -> "Template | None":
        """Make the template of this process, which has one thread only; None where that cannot be.

        Call once. Memory that is mapped later is not part of it.
        """
        if MACHINE != "x86_64" or os.sysconf("SC_PAGESIZE") != PAGE:
            return None
        try:
            return _take()
        except OSError:
            return None  # memory that may not be executed, or not be sealed: then pages part for good, as always

    @classmethod
    def rehearse(cls) -> None:
        """Run `settle` on nothing until the interpreter has specialized it, for a `take` that comes later."""
        if MACHINE != "x86_64":
            return
        try:
            empty = cls(map_code(_CODE), 0, [(0, 0, 0)] * 64)
        except OSError:
            return  # as `take`
        for _ in range(4):
            empty.settle()

    def settle(self) -> int:
        """Give back the pages that have been written but are as they were; how many. Raises OSError."""
        given = 0
        length = self._size // PAGE * 8 + PAGE
        entries = map_memory(0, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1)
        pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        try:
            for address, pages, offset in self._regions:
                given += self._give_back(pagemap, entries, pages, address, self._original + offset)
        finally:
            os.close(pagemap)
            munmap(entries, length)
        # Having looked at the original is not to count as memory in use.
        _madvise(self._original, self._size, _MADV_DONTNEED)
        return given


def _take() -> Template:
    regions, size = _regions()
    code = map_code(_CODE)
    file = memfd_create("orlop-template", MFD_CLOEXEC | MFD_ALLOW_SEALING)
    try:
        os.ftruncate(file, size)
        _move(code, file, regions)
        fcntl.fcntl(file, F_ADD_SEALS, SEALS)
        # By a descriptor that cannot write: the seal refuses shared mappings of others.
        reader = os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            original = map_memory(0, size, PROT_READ, MAP_SHARED, reader)
        finally:
            os.close(reader)
    finally:
        os.close(file)
    return Template(code, original, regions)


def _move(code: int, file: int, regions: list[tuple[int, int, int]]) -> None:
    """Put the regions behind the file; those that have not been, have no original, are taken off the list."""
    carry_out = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long, ctypes.c_long)(code)
    calls = [call for region in regions for call in _calls(file, *region)]
    length = (len(calls) * 64 + PAGE - 1) // PAGE * PAGE
    # Not in the heap: that is moved while this is read.
    table = map_memory(0, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1)
    try:
        words = (ctypes.c_long * (len(calls) * 8)).from_address(table)
        words[:] = [word for call in calls for word in call]
        left = carry_out(table, len(calls))
    finally:
        munmap(table, length)
    if left:
        del regions[(len(calls) - left) // 2 :]


def _regions() -> tuple[list[tuple[int, int, int]], int]:
    """What this process can write to, but its stack: (address, pages, offset in the file), and their size."""
    found: list[tuple[int, int, int]] = []
    size = 0
    with open("/proc/self/maps", "rb", buffering=0) as file:
        maps = file.readall()
    for start, end, name in _MAPPING.findall(maps):
        if name != b"[stack]":
            address, length = int(start, 16), int(end, 16) - int(start, 16)
            found.append((address, length // PAGE, size))
            size += length
    return found, size


def _calls(file: int, address: int, pages: int, offset: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Copy a region to the file, then map the file in its place."""
    length = pages * PAGE
    return (
        (_NR_PWRITE64, file, address, length, offset, 0, 0, length),
        (
            _NR_MMAP,
            address,
            length,
            PROT_READ | PROT_WRITE,
            MAP_PRIVATE | MAP_FIXED,
            file,
            offset,
            address,
        ),
    )
