# SPDX-License-Identifier: Apache-2.0
"""What the header fields of a gRPC request say, and those of an answer.

Source: "gRPC over HTTP2", https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.
"""

import base64
import binascii
from functools import lru_cache
from typing import NamedTuple

from orlop.rpc import status
from orlop.rpc.http2.fields import Field
from orlop.rpc.http2.headers import write_block

Metadata = tuple[tuple[str, str | bytes], ...]

_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_LONGEST_MESSAGE = 8192  # bytes; peers take header lists of 16 KiB
_OWN = ("content-type", "te", "user-agent", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding")
_CONTENT_TYPE = ("content-type", b"application/grpc")


class MalformedError(Exception):
    """The peer sent what cannot be understood: status INTERNAL, as gRPC's libraries say it."""


class Head(NamedTuple):
    """The head of a request. `timeout` is in seconds; `fault` is why it cannot be served."""

    path: str
    metadata: Metadata
    timeout: float | None
    fault: str
    is_grpc: bool


@lru_cache(128)  # each connection of a client begins as the one before
def interpret(fields: tuple[Field, ...]) -> Head:
    """Sort header fields."""
    path = method = content_type = ""
    timeout, fault = None, ""
    metadata: list[tuple[str, str | bytes]] = []
    for name, value in fields:
        if name == ":path":
            path = value
        elif name == ":method":
            method = value
        elif name == "content-type":
            content_type = value
        elif name == "grpc-timeout":
            try:
                timeout = int(value[:-1]) * _UNITS[value[-1:]]
            except (ValueError, KeyError):
                fault = f"malformed grpc-timeout {value!r}"
        elif name.endswith("-bin"):
            try:
                metadata.append((name, base64.b64decode(value + "=" * (-len(value) % 4), validate=True)))
            except binascii.Error:
                fault = f"malformed binary metadata {name}"
        elif not name.startswith(":") and name not in _OWN:
            metadata.append((name, value))
    is_grpc = method == "POST" and content_type.startswith("application/grpc")
    return Head(path, tuple(metadata), timeout, fault, is_grpc)


START = write_block(((":status", b"200"), _CONTENT_TYPE))
"""The header block in front of messages."""

NOT_GRPC = write_block(((":status", b"415"),))
"""The whole answer to what is no gRPC request."""

DONE = write_block((("grpc-status", b"0"),))
"""The header block behind messages that are all of the answer."""


def end(code: int, message: str = "", *, alone: bool = False) -> bytes:
    """The header block behind messages; `alone` if there were none, and no `START`."""
    if code == status.OK and not alone:
        return DONE
    fields = [(":status", b"200"), _CONTENT_TYPE] if alone else []
    fields.append(("grpc-status", b"%d" % code))
    if message:
        fields.append(("grpc-message", _percent_encoded(message)))
    return write_block(fields)


def _percent_encoded(message: str) -> bytes:
    raw = message.encode("utf-8", "replace")[:_LONGEST_MESSAGE]
    return b"".join(b"%c" % byte if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte for byte in raw)
