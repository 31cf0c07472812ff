# SPDX-License-Identifier: Apache-2.0
"""Reads a tar as it arrives and writes one as it leaves, without touching the file system.

For archives of images, whose members are few and large. The formats are ustar, pax and GNU (POSIX.1-2017 pax,
"ustar Interchange Format" and "pax Interchange Format"); the whole may be compressed by gzip, bzip2, xz or zstd.
"""

from __future__ import annotations

import bz2
import lzma
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from functools import partial
from typing import NamedTuple, cast

import zstandard
from isal import isal_zlib

from orlop.errdefs import InvalidArgumentError

_BROKEN: tuple[type[Exception], ...] = (
    cast("type[Exception]", isal_zlib.IsalError),  # its stub declares an instance
    lzma.LZMAError,
    zstandard.ZstdError,
    OSError,
    EOFError,
    ValueError,
)

BLOCK = 512
PIECE = 1 << 20  # bytes
HEADER_SIZE_MAX = 1 << 20  # bytes of a pax or GNU header


class Member(NamedTuple):
    """A member: its path, what it is (`file`, `link` for both kinds, `directory`, `other`), size, link target."""

    path: str
    kind: str
    size: int
    target: str


class TarReader:
    """The members of a tar; read a member's data with `data` before the next one is asked for, or not at all."""

    def __init__(self, stream: AsyncIterator[bytes]) -> None:
        self._stream = decompressed(stream)
        self._buffer = bytearray()
        self._left = 0  # bytes of the present member's data that have not been read
        self._padding = 0

    async def close(self) -> None:
        """Close the stream."""
        await self._stream.aclose()

    async def members(self) -> AsyncIterator[Member]:
        """Every member in order. Raises InvalidArgumentError for what is no tar, or ends early."""
        extended: dict[str, str] = {}
        while True:
            await self._skip(self._left + self._padding)
            self._left = self._padding = 0
            block = await self._take(BLOCK, may_end=True)
            if not block or not block.strip(b"\0"):
                await self._drain()
                return
            info = _parse_header(block)
            if info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                extended |= _pax_records(await self._small(info.size))
            elif info.type == tarfile.XGLTYPE:
                await self._small(info.size)
            elif info.type == tarfile.GNUTYPE_LONGNAME:
                extended["path"] = _text(await self._small(info.size))
            elif info.type == tarfile.GNUTYPE_LONGLINK:
                extended["linkpath"] = _text(await self._small(info.size))
            else:
                member = _member(info, extended)
                extended = {}
                self._left, self._padding = member.size, -member.size % BLOCK
                yield member

    async def data(self) -> AsyncGenerator[bytes, None]:
        """The present member's data. Raises InvalidArgumentError where the tar ends within it."""
        while self._left:
            if not self._buffer and not await self._fill():
                raise InvalidArgumentError("archive ends within a member")
            chunk = bytes(self._buffer[: self._left])
            del self._buffer[: len(chunk)]
            self._left -= len(chunk)
            yield chunk

    async def whole(self, limit: int) -> bytes:
        """The present member's data at once. Raises InvalidArgumentError beyond `limit` bytes."""
        if self._left > limit:
            raise InvalidArgumentError(f"archive member of {self._left} bytes, more than {limit}")
        return b"".join([chunk async for chunk in self.data()])

    async def _small(self, size: int) -> bytes:
        if size > HEADER_SIZE_MAX:
            raise InvalidArgumentError(f"archive header of {size} bytes, more than {HEADER_SIZE_MAX}")
        data = await self._take(size)
        await self._skip(-size % BLOCK)
        return data

    async def _take(self, count: int, *, may_end: bool = False) -> bytes:
        while len(self._buffer) < count:
            if not await self._fill():
                if may_end and not self._buffer:
                    return b""
                raise InvalidArgumentError("archive ends early")
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    async def _skip(self, count: int) -> None:
        while count:
            if not self._buffer and not await self._fill():
                raise InvalidArgumentError("archive ends early")
            step = min(count, len(self._buffer))
            del self._buffer[:step]
            count -= step

    async def _fill(self) -> bool:
        async for chunk in self._stream:
            if chunk:
                self._buffer += chunk
                return True
        return False

    async def _drain(self) -> None:
        """Read what follows the end, so that the sender is not cut off."""
        self._buffer.clear()
        while await self._fill():
            self._buffer.clear()


def member_header(path: str, size: int) -> bytes:
    """The header of a file for an archive that is being written."""
    info = tarfile.TarInfo(path)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.PAX_FORMAT)


def padding(size: int) -> bytes:
    """What fills the last block of a member of `size` bytes."""
    return b"\0" * (-size % BLOCK)


END = b"\0" * (2 * BLOCK)


def _parse_header(block: bytes) -> tarfile.TarInfo:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise InvalidArgumentError(f"invalid archive: not a tar ({error})") from None
    if info.size < 0:
        raise InvalidArgumentError(f"invalid archive: negative size of {info.name!r}")
    return info


def _member(info: tarfile.TarInfo, extended: dict[str, str]) -> Member:
    path = extended.get("path", info.name)
    size = info.size
    if "size" in extended:
        if not extended["size"].isascii() or not extended["size"].isdigit():
            raise InvalidArgumentError(f"invalid archive: size {extended['size']!r} of {path!r}")
        size = int(extended["size"])
    if info.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
        kind = "directory" if path.endswith("/") else "file"
    elif info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        kind, size = "link", 0
    else:
        kind = "directory" if info.type == tarfile.DIRTYPE else "other"
        size = 0 if kind == "directory" else size
    return Member(_clean(path), kind, size, extended.get("linkpath", info.linkname))


def _clean(path: str) -> str:
    while path.startswith("./"):
        path = path[2:]
    return path.rstrip("/")


def _pax_records(data: bytes) -> dict[str, str]:
    records = {}
    position = 0
    while position < len(data):
        length, space, _ = data[position:].partition(b" ")
        if not space or not length.isdigit() or int(length) <= len(length) + 1:
            raise InvalidArgumentError("invalid archive: malformed pax header")
        record = data[position + len(length) + 1 : position + int(length) - 1]
        key, _, value = record.partition(b"=")
        records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        position += int(length)
    return records


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode("utf-8", "surrogateescape")


async def decompressed(stream: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """A stream without its compression, if it has one, in pieces of bounded size however much it was compressed.

    Raises InvalidArgumentError where the compression is broken.
    """
    head = b""
    async for chunk in stream:
        head += chunk
        if len(head) >= 6:
            break
    expand = _expander(head)
    try:
        for piece in expand(head):
            yield piece
        async for chunk in stream:
            for piece in expand(chunk):
                yield piece
    except _BROKEN as error:
        raise InvalidArgumentError(f"invalid archive: {error}") from None


def decompress(chunks: Iterator[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """As `decompressed`, for a thread; everything happens in this process and no program is called.

    A chunk that is not compressed is passed on as it is: valid for as long as it was.
    """
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= 6:
            break
    expand = _expander(head)
    try:
        yield from expand(head)
        if expand is _as_it_is:
            yield from chunks
        for chunk in chunks:
            yield from expand(bytes(chunk))
    except _BROKEN as error:
        raise InvalidArgumentError(f"invalid archive: {error}") from None


Expand = Callable[[bytes], Iterator[bytes]]
"""Takes the next compressed bytes; gives what they expand to in pieces of at most about `PIECE` bytes."""


def _expander(head: bytes) -> Expand:
    if head.startswith(b"\x1f\x8b"):
        return _Gzip()
    if head.startswith(b"BZh"):
        return partial(_stepwise, bz2.BZ2Decompressor())
    if head.startswith(b"\xfd7zXZ\0"):
        return partial(_stepwise, lzma.LZMADecompressor())
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return partial(_zstd, zstandard.ZstdDecompressor().decompressobj(read_across_frames=True))
    return _as_it_is


def _as_it_is(data: bytes) -> Iterator[bytes]:
    yield data


class _Gzip:
    """gzip, also where several members follow one another."""

    def __init__(self) -> None:
        self._member = isal_zlib.decompressobj(31)

    def __call__(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._member.eof:
                if not data.strip(b"\0"):
                    return  # padding
                self._member = isal_zlib.decompressobj(31)
            yield self._member.decompress(data, PIECE)
            data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail


def _stepwise(decompressor: bz2.BZ2Decompressor | lzma.LZMADecompressor, data: bytes) -> Iterator[bytes]:
    yield decompressor.decompress(data, PIECE)
    while not decompressor.needs_input and not decompressor.eof:
        yield decompressor.decompress(b"", PIECE)


def _zstd(decompressor: zstandard.ZstdDecompressionObj, data: bytes) -> Iterator[bytes]:
    # It has no limit of its own; a block of 128 KiB takes at least 4 bytes of input.
    for start in range(0, len(data), 64):
        yield decompressor.decompress(data[start : start + 64])
