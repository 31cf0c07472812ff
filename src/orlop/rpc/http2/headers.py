# SPDX-License-Identifier: Apache-2.0
"""Header blocks (HPACK, RFC 7541): of requests, read by the hpack library, and of answers, written plainly."""

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from hpack import Decoder
from hpack.exceptions import HPACKError
from hpack.table import HeaderTable

from orlop.rpc.http2.frames import COMPRESSION_ERROR, ConnectionFault

MAX_LIST = 64 << 10  # bytes of the header fields of one request
_REMEMBERED = 64
T = TypeVar("T")


class BlockReader(Generic[T]):
    """Reads the blocks of one connection, in order, and remembers what those meant that changed no state.

    A client repeats itself: after the first calls a block is a few references into the table that both sides keep,
    and the same bytes mean the same for as long as that table stays as it is.
    """

    def __init__(self, interpret: Callable[[Iterable[tuple[Any, Any]]], T]) -> None:
        self._interpret = interpret
        self._decoder = Decoder(max_header_list_size=MAX_LIST)
        self._known: dict[bytes, T] = {}

    def read(self, block: bytes) -> T:
        """What a block means. Raises ConnectionFault for one that is malformed."""
        known = self._known.get(block)
        if known is not None:
            return known
        table = self._decoder.header_table
        size, count, newest = table.maxsize, len(table.dynamic_entries), _first(table)
        try:
            meaning = self._interpret(self._decoder.decode(block))
        except (HPACKError, UnicodeDecodeError) as error:
            raise ConnectionFault(COMPRESSION_ERROR, f"malformed header block: {error}") from None
        # What is added to the table is a new object in front, what is removed makes it shorter.
        if _first(table) is not newest or (table.maxsize, len(table.dynamic_entries)) != (size, count):
            self._known.clear()
        elif len(self._known) < _REMEMBERED:
            self._known[block] = meaning
        return meaning


def _first(table: HeaderTable) -> object:
    return table.dynamic_entries[0] if table.dynamic_entries else None


def write_block(fields: Iterable[tuple[str, bytes]]) -> bytes:
    """A block of literals that leaves the peer's table alone (section 6.2.2), without Huffman's code."""
    return b"".join(b"\0" + _string(name.encode("ascii")) + _string(value) for name, value in fields)


def _string(text: bytes) -> bytes:
    """Section 5.2; its length as in section 5.1, with a prefix of seven bits."""
    left = len(text)
    if left < 127:
        return bytes((left,)) + text
    length, left = bytearray((127,)), left - 127
    while left >= 128:
        length.append(left & 127 | 128)
        left >>= 7
    length.append(left)
    return bytes(length) + text
