# SPDX-License-Identifier: Apache-2.0
"""`-info`: what the shim can do, as containerd asks it for plugin information."""

import os
import subprocess
import sys

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from orlop.api.types_pb2 import RuntimeInfo
from orlop.errdefs import InvalidArgumentError
from orlop.shim.messages import runc_options
from orlop.shim.service import VERSION

FEATURES = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"


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
    document = _features(info.options)
    if document:
        info.features.type_url = FEATURES
        info.features.value = document
    data = info.SerializeToString()
    while data:
        data = data[os.write(1, data) :]


def _features(options: Any) -> bytes:
    """What the runtime that the options name prints for `features`; nothing where it knows no such command."""
    binary = runc_options(options).binary_name
    ours = [sys.executable, "-P", "-c", "from orlop.runc.entry import main; main()"]
    command = [binary] if binary else ours
    try:
        done = subprocess.run([*command, "features"], capture_output=True, check=False)
    except OSError as error:
        sys.stderr.write(f"runtime {binary}: {error.strerror}\n")
        return b""
    return done.stdout if done.returncode == 0 else b""
