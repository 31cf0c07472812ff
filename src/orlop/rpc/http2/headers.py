# SPDX-License-Identifier: Apache-2.0
"""Header blocks (HPACK, RFC 7541): what those of requests mean, and those of answers, written plainly."""

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from orlop.rpc.http2.fields import Field, FieldReader

MAX_LIST = 64 << 10  # bytes of the header fields of one request
_REMEMBERED = 64
T = TypeVar("T")


class BlockReader(Generic[T]):
    """Reads the blocks of one connection, in order, and remembers what those meant that changed no state.

    A client repeats itself: after the first calls a block is a few references into the table that both sides keep,
    and the same bytes mean the same for as long as that table stays as it is.
    """

    def __init__(self, interpret: Callable[[tuple[Field, ...]], T]) -> None:
        self._interpret = interpret
        self._fields = FieldReader(MAX_LIST)
        self._known: dict[bytes, T] = {}

    def read(self, block: bytes) -> T:
        """What a block means. Raises ConnectionFault for one that is malformed."""
        known = self._known.get(block)
        if known is not None:
            return known
        changed = self._fields.changed
        meaning = self._interpret(self._fields.read(block))
        if self._fields.changed != changed:
            self._known.clear()
        elif len(self._known) < _REMEMBERED:
            self._known[block] = meaning
        return meaning


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
