# SPDX-License-Identifier: Apache-2.0
"""`-info`: what the shim can do, as containerd asks it for plugin information."""

import os
import sys

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from orlop.api.types_pb2 import RuntimeInfo
from orlop.errdefs import InvalidArgumentError
from orlop.shim.service import VERSION


def print_info() -> None:
    """Read the options (an Any) from standard input and write RuntimeInfo to standard output."""
    info = RuntimeInfo(name="io.containerd.orlop.v2")
    info.version.version = VERSION
    raw = b"" if sys.stdin.isatty() else sys.stdin.buffer.read()
    if raw:
        try:
            info.options.CopyFrom(Any.FromString(raw))
        except DecodeError as error:
            raise InvalidArgumentError(f"standard input is no options message: {error}") from None
    data = info.SerializeToString()
    while data:
        data = data[os.write(1, data) :]
