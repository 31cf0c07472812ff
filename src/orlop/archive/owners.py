# SPDX-License-Identifier: Apache-2.0
"""Gives the members of a tar stream to other owners."""

from collections.abc import Callable, Iterator

from orlop.archive.tar import BLOCK, Stream, TarReader
from orlop.archive.write import header, padding

_END = bytes(2 * BLOCK)


def with_owners(chunks: Iterator[bytes], owner: Callable[[int, int], tuple[int, int]]) -> Iterator[bytes]:
    """The same archive with `owner(uid, gid)` of each member as its ids, sparse files written out.

    Raises ArchiveError.
    """
    reader = TarReader(Stream(chunks))
    for entry in reader:
        entry.uid, entry.gid = owner(entry.uid, entry.gid)
        pieces = entry.sparse
        if pieces is not None:
            entry.size, entry.sparse = entry.real_size, None
        yield header(entry)
        if pieces is None:
            yield from map(bytes, reader.data())
        else:
            yield from _filled(pieces, reader, entry.size)
        yield padding(entry.size)
    yield _END


def _filled(pieces: list[tuple[int, int]], reader: TarReader, size: int) -> Iterator[bytes]:
    """A sparse file's data with the holes between."""
    data = Stream(map(bytes, reader.data()))
    place = 0
    for offset, length in pieces:
        yield from _zeros(offset - place)
        for _ in range(length // _STEP):
            yield data.exactly(_STEP)
        yield data.exactly(length % _STEP)
        place = offset + length
    yield from _zeros(size - place)


_STEP = 1 << 20


def _zeros(count: int) -> Iterator[bytes]:
    while count > 0:
        yield bytes(min(count, _STEP))
        count -= _STEP
