# SPDX-License-Identifier: Apache-2.0
"""The frames of HTTP/2 (RFC 9113, sections 4 and 6): their numbers, and how those of a server are written."""

import struct
from collections.abc import Mapping

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD = struct.Struct(">HBBBI")
"""Length (upper 16 bits, lower 8), type, flags, stream."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20

MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 3, 4, 5, 6

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0, 1, 2, 3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = 5, 6, 7, 8, 9
ENHANCE_YOUR_CALM = 11

FRAME_SIZE = 16384  # bytes of the longest frame, where nothing else is agreed on
WINDOW = 65535  # bytes of a window, where nothing else is agreed on
MAX_WINDOW = (1 << 31) - 1


class ConnectionFault(Exception):
    """The peer broke the protocol: the connection ends with this code (section 7)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def head(length: int, kind: int, flags: int, stream: int) -> bytes:
    """The nine bytes in front of a payload."""
    return HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream)


def settings(values: Mapping[int, int]) -> bytes:
    """SETTINGS."""
    return head(6 * len(values), SETTINGS, 0, 0) + b"".join(struct.pack(">HI", *item) for item in values.items())


def window_update(stream: int, increment: int) -> bytes:
    """WINDOW_UPDATE: the peer may send so many more bytes."""
    return head(4, WINDOW_UPDATE, 0, stream) + increment.to_bytes(4, "big")


def rst_stream(stream: int, code: int) -> bytes:
    """RST_STREAM."""
    return head(4, RST_STREAM, 0, stream) + code.to_bytes(4, "big")


def goaway(last_stream: int, code: int, reason: str = "") -> bytes:
    """GOAWAY: streams after the last one are not served."""
    debug = reason.encode()
    return head(8 + len(debug), GOAWAY, 0, 0) + struct.pack(">II", last_stream, code) + debug


def unpadded(payload: bytes, flags: int) -> bytes:
    """The payload of a DATA or HEADERS frame without its padding. Raises ConnectionFault."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(PROTOCOL_ERROR, "the padding is longer than the frame")
    return payload[1 : len(payload) - payload[0]]
