# SPDX-License-Identifier: Apache-2.0
"""The common form of netlink(7) messages: headers and attributes, packed and taken apart (pure functions)."""

import os
import struct
from typing import NamedTuple

HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 1, 4, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_F_NESTED = 0x8000

_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF


class Packet(NamedTuple):
    """A message as received; of a notification, `port` is the socket whose request caused it."""

    type: int
    flags: int
    sequence: int
    payload: bytes
    port: int


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """A message with its header."""
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


def messages(data: bytes) -> list[Packet]:
    """The messages of a datagram."""
    found, offset = [], 0
    while offset + HEADER.size <= len(data):
        length, kind, flags, sequence, port = HEADER.unpack_from(data, offset)
        if length < HEADER.size:
            break
        found.append(Packet(kind, flags, sequence, data[offset + HEADER.size : offset + length], port))
        offset += (length + 3) & ~3
    return found


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute, padded."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + b"\0" * (-length % 4)


def attributes(payload: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes from `offset` on, by their type without its flags."""
    found = {}
    while offset + _ATTRIBUTE.size <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _TYPE_MASK] = payload[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found


def error_of(payload: bytes, about: str) -> OSError | None:
    """The error in an NLMSG_ERROR's payload; None if it is an acknowledgement."""
    number = -struct.unpack_from("=i", payload)[0]
    return OSError(number, os.strerror(number), about) if number else None
