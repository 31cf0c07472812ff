# SPDX-License-Identifier: Apache-2.0
"""An executable of regions of memory (elf(5), ET_EXEC)."""

import functools
import operator
import os
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

_PAGE = 4096
_WRITE = 2
_ET_EXEC, _EM_X86_64, _PT_LOAD, _PT_GNU_STACK = 2, 62, 1, 0x6474E551
_HEADER, _PROGRAM = struct.Struct("<16sHHIQQQIHHHHHH"), struct.Struct("<IIQQQQQQ")
_IDENTITY = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")


class Region(NamedTuple):
    """Pages with the same protection: their first and the next address, `p_flags`, and where they come from."""

    start: int
    end: int
    flags: int
    name: str


def write(path: str, regions: Sequence[Region], read: Callable[[Region], bytes], entry: int) -> None:
    """Write the executable. Raises OSError.

    `read` is asked for the bytes of each region. Pages of zeros are holes of the file.
    """
    loaded = segments(regions)
    headers = _PROGRAM.size * (len(loaded) + 1) + _HEADER.size
    offset = -(-headers // _PAGE) * _PAGE
    table = []
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o755)
    try:
        for segment in loaded:
            start, length = segment[0].start, segment[-1].end - segment[0].start
            flags = functools.reduce(operator.or_, [region.flags for region in segment])
            table.append(_PROGRAM.pack(_PT_LOAD, flags, offset, start, start, length, length, _PAGE))
            for region in segment:
                _write_pages(file, read(region), offset + region.start - start)
            offset += length
        os.ftruncate(file, offset)
        table.append(_PROGRAM.pack(_PT_GNU_STACK, 6, 0, 0, 0, 0, 0, 16))
        header = _HEADER.pack(
            _IDENTITY, _ET_EXEC, _EM_X86_64, 1, entry, _HEADER.size, 0, 0, _HEADER.size, _PROGRAM.size,
            len(table), 64, 0, 0,
        )  # fmt: skip
        os.pwrite(file, header + b"".join(table), 0)
    finally:
        os.close(file)


def segments(regions: Sequence[Region]) -> list[list[Region]]:
    """The regions by segment: those that touch, if their protection is the same or neither may be written to.

    That makes constants executable, as linkers long did, and leaves half of the mappings at each start. Linux 6.1
    (load_elf_phdrs in fs/binfmt_elf.c) refuses a table of headers of more than a page, which has room for 73.
    """
    found: list[list[Region]] = []
    for region in regions:
        last = found[-1][-1] if found else None
        if last and last.end == region.start and _together(last.flags, region.flags):
            found[-1].append(region)
        else:
            found.append([region])
    return found


def _together(one: int, other: int) -> bool:
    return one == other or not (one | other) & _WRITE


def _write_pages(file: int, contents: bytes, offset: int) -> None:
    """Write what is not zero, in as few calls as there are runs of such pages."""
    begin = None
    for position in range(0, len(contents) + 1, _PAGE):
        page = contents[position : position + _PAGE]
        if page.count(0) != len(page):
            begin = position if begin is None else begin
        elif begin is not None:
            os.pwrite(file, contents[begin:position], offset + begin)
            begin = None
