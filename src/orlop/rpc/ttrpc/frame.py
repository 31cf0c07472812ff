# SPDX-License-Identifier: Apache-2.0
"""ttrpc frames: `length u32 be, stream id u32 be, type u8, flags u8`, then the payload."""

import struct
from typing import NamedTuple

REQUEST = 1
RESPONSE = 2
DATA = 3

FLAG_REMOTE_CLOSED = 0x1
FLAG_REMOTE_OPEN = 0x2
FLAG_NO_DATA = 0x4

MAX_PAYLOAD = 4 << 20
"""Bytes in one frame at most; a longer one is skipped and answered with RESOURCE_EXHAUSTED."""

_HEADER = struct.Struct(">IIBB")
HEADER_SIZE = _HEADER.size


class Frame(NamedTuple):
    """One frame as received. `payload` is None when it was longer than MAX_PAYLOAD and has been skipped."""

    stream: int
    type: int
    flags: int
    payload: bytes | None
    length: int


def encode(stream: int, kind: int, flags: int, payload: bytes) -> bytes:
    """One frame on the wire."""
    return _HEADER.pack(len(payload), stream, kind, flags) + payload


class Decoder:
    """Cuts a byte stream into frames; holds at most one unfinished frame and never more than MAX_PAYLOAD of it."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._skip: list[int] | None = None  # [bytes still to skip, stream, type, flags, length]

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes in; returns the frames they complete, in order."""
        frames: list[Frame] = []
        if self._skip is not None:
            data = self._skip_some(data, self._skip, frames)
            if not data:
                return frames
        rest = self._rest
        rest += data
        start = 0
        while len(rest) - start >= HEADER_SIZE:
            length, stream, kind, flags = _HEADER.unpack_from(rest, start)
            if length > MAX_PAYLOAD:
                left = bytes(rest[start + HEADER_SIZE :])
                rest.clear()
                self._skip = [length, stream, kind, flags, length]
                left = self._skip_some(left, self._skip, frames)
                return frames + self.feed(left) if left else frames
            end = start + HEADER_SIZE + length
            if end > len(rest):
                break
            frames.append(Frame(stream, kind, flags, bytes(rest[start + HEADER_SIZE : end]), length))
            start = end
        del rest[:start]
        return frames

    def _skip_some(self, data: bytes, skip: list[int], frames: list[Frame]) -> bytes:
        taken = min(skip[0], len(data))
        skip[0] -= taken
        if skip[0] == 0:
            frames.append(Frame(skip[1], skip[2], skip[3], None, skip[4]))
            self._skip = None
        return data[taken:]

    @property
    def pending(self) -> bool:
        """Whether the stream stands in the middle of a frame."""
        return bool(self._rest) or self._skip is not None
