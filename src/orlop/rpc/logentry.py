# SPDX-License-Identifier: Apache-2.0
"""Writes Docker's `local` log format: protobuf entries (api/logdriver.proto), each between its length twice.

By hand, as the shim writes many of these and must not load protobuf for it. Messages are read with `orlop.api`.
"""

import os
from collections.abc import Mapping

PARTIAL = 16384
"""A longer line is cut into entries of this many bytes."""

_SOURCES = {1: b"\x0a\x06stdout", 2: b"\x0a\x06stderr"}


class Encoder:
    """Turns the bytes of one stream (1 stdout, 2 stderr) into entries; keeps the unfinished line.

    `attrs` are encoded attributes, from `encode_attrs`. Times are in nanoseconds since 1970.
    """

    def __init__(self, stream: int, attrs: bytes = b"") -> None:
        self._source = _SOURCES[stream]
        self._attrs = attrs
        self._rest = b""
        self._cut: tuple[bytes, int] | None = None  # id and pieces so far of a line that is being cut

    def feed(self, data: bytes, now: int) -> bytes:
        """The entries of all lines that are complete now."""
        *lines, rest = (self._rest + data).split(b"\n")
        head = self._source + b"\x10" + varint(now)
        out: list[bytes] = []
        for whole_line in lines:
            line = self._pieces(head, whole_line, out)
            out.append(self._last(head, line) if self._cut else _frame(head + _line(line) + self._attrs))
        self._rest = self._pieces(head, rest, out)
        return b"".join(out)

    def flush(self, now: int) -> bytes:
        """The entry of a last line without a newline: to Docker, a piece of which the end never came."""
        rest, self._rest = self._rest, b""
        if not rest:
            return b""
        return self._piece(self._source + b"\x10" + varint(now), rest, last=False)

    def _pieces(self, head: bytes, line: bytes, out: list[bytes]) -> bytes:
        while len(line) >= PARTIAL:
            out.append(self._piece(head, line[:PARTIAL], last=False))
            line = line[PARTIAL:]
        return line

    def _last(self, head: bytes, line: bytes) -> bytes:
        piece = self._piece(head, line, last=True)
        self._cut = None
        return piece

    def _piece(self, head: bytes, line: bytes, *, last: bool) -> bytes:
        identity, count = self._cut or (os.urandom(32).hex().encode(), 0)
        self._cut = identity, count + 1
        about = (b"\x08\x01" if last else b"") + _bytes(b"\x12", identity) + b"\x18" + varint(count + 1)
        return _frame(head + _line(line) + b"\x20\x01" + _bytes(b"\x2a", about) + self._attrs)


def encode_attrs(attrs: Mapping[str, str]) -> bytes:
    """Attributes as every entry carries them."""
    return b"".join(
        _bytes(b"\x32", _bytes(b"\x0a", key.encode()) + _bytes(b"\x12", value.encode()))
        for key, value in sorted(attrs.items())
    )


def crossing(entries: bytes, at: int) -> int:
    """Where the entry ends that has byte `at` - 1 of whole entries."""
    end = 0
    while end < at:
        end += int.from_bytes(entries[end : end + 4], "big") + 8
    return end


def whole(fd: int, size: int) -> int:
    """How much of a file of `size` bytes is whole entries."""
    length = int.from_bytes(os.pread(fd, 4, size - 4), "big") if size >= 8 else size
    if length + 8 <= size and os.pread(fd, 4, size - 8 - length) == length.to_bytes(4, "big"):
        return size
    end = 0
    while True:
        length = int.from_bytes(os.pread(fd, 4, end), "big")
        after = end + length + 8
        if after > size or os.pread(fd, 4, after - 4) != length.to_bytes(4, "big"):
            return end
        end = after


def _frame(message: bytes) -> bytes:
    length = len(message).to_bytes(4, "big")
    return length + message + length


def _line(line: bytes) -> bytes:
    return _bytes(b"\x1a", line) if line else b""


def _bytes(tag: bytes, value: bytes) -> bytes:
    return tag + varint(len(value)) + value


def varint(number: int) -> bytes:
    """A number as protobuf writes it, such as the length of what follows."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
