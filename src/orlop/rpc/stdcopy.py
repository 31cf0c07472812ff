# SPDX-License-Identifier: Apache-2.0
"""Docker's framing of several output streams on one connection: `[stream, 0, 0, 0, length u32 be] payload`."""

import struct

from orlop.errdefs import DataLossError

STDIN = 0
STDOUT = 1
STDERR = 2
SYSTEM_ERROR = 3
"""A frame of this stream is the daemon's own error text and ends the connection."""

_HEADER = struct.Struct(">BxxxI")
HEADER_SIZE = _HEADER.size


def header(stream: int, length: int) -> bytes:
    """The 8 bytes before a payload of `length` bytes of `stream`."""
    return _HEADER.pack(stream, length)


def encode(stream: int, payload: bytes | memoryview) -> bytes:
    """One frame."""
    return b"".join((_HEADER.pack(stream, len(payload)), payload))


class Decoder:
    """Cuts a byte stream into frames, whatever the pieces it arrives in."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take the next bytes in; returns the frames they complete as (stream, payload), in order.

        Raises DataLossError for a stream number above 3.
        """
        rest = self._rest
        rest += data
        frames: list[tuple[int, bytes]] = []
        start = 0
        while len(rest) - start >= HEADER_SIZE:
            stream, length = _HEADER.unpack_from(rest, start)
            if stream > SYSTEM_ERROR:
                raise DataLossError(f"stdcopy: unrecognized stream {stream}")
            end = start + HEADER_SIZE + length
            if end > len(rest):
                break
            frames.append((stream, bytes(rest[start + HEADER_SIZE : end])))
            start = end
        del rest[:start]
        return frames

    @property
    def pending(self) -> int:
        """How many bytes of an unfinished frame are held; 0 at a clean end."""
        return len(self._rest)
