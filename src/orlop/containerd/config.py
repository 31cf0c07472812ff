# SPDX-License-Identifier: Apache-2.0
"""The daemon's configuration: containerd.toml (version 2 and 3, the keys that apply), overlaid by flags."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from orlop.errdefs import InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_PATH = "/etc/orlop/containerd.toml"
LEVELS = ("trace", "debug", "info", "warn", "error", "fatal", "panic")


class Config(NamedTuple):
    """Everything that can be set. The field comments name the key in containerd.toml."""

    root: str = "/var/lib/orlop/containerd"  # root
    state: str = "/run/orlop/containerd"  # state
    address: str = "/run/orlop/containerd/containerd.sock"  # grpc.address
    uid: int = 0  # grpc.uid
    gid: int = 0  # grpc.gid; the socket is mode 0660 where this is not 0
    max_receive: int = 16 << 20  # grpc.max_recv_message_size, bytes
    max_send: int = 16 << 20  # grpc.max_send_message_size, bytes
    ttrpc_address: str = ""  # ttrpc.address; empty: the gRPC address and ".ttrpc"
    level: str = "info"  # debug.level
    oom_score: int = 0  # oom_score; 0: leave as it is
    snapshotter: str = "overlayfs"  # for requests that name none
    shim_socket_dir: str = ""  # plugins."io.containerd.shim.v1.manager".socket_dir; empty: <state>/s
    shim_env: Sequence[str] = ()  # plugins."io.containerd.shim.v1.manager".env
    load_timeout: float = 5.0  # timeouts."io.containerd.timeout.shim.load", seconds
    cleanup_timeout: float = 5.0  # timeouts."io.containerd.timeout.shim.cleanup"
    shutdown_timeout: float = 3.0  # timeouts."io.containerd.timeout.shim.shutdown"

    @property
    def ttrpc(self) -> str:
        """The socket that shims forward events to."""
        return self.ttrpc_address or self.address + ".ttrpc"

    @property
    def socket_dir(self) -> str:
        """The directory of the shims' sockets."""
        return self.shim_socket_dir or os.path.join(self.state, "s")


# Where the keys are that apply: path in the file -> field and type. Others are the original's business.
_KEYS: dict[tuple[str, ...], tuple[str, type]] = {
    ("root",): ("root", str),
    ("state",): ("state", str),
    ("oom_score",): ("oom_score", int),
    ("grpc", "address"): ("address", str),
    ("grpc", "uid"): ("uid", int),
    ("grpc", "gid"): ("gid", int),
    ("grpc", "max_recv_message_size"): ("max_receive", int),
    ("grpc", "max_send_message_size"): ("max_send", int),
    ("ttrpc", "address"): ("ttrpc_address", str),
    ("debug", "level"): ("level", str),
    ("plugins", "io.containerd.shim.v1.manager", "socket_dir"): ("shim_socket_dir", str),
    ("plugins", "io.containerd.shim.v1.manager", "env"): ("shim_env", list),
    ("timeouts", "io.containerd.timeout.shim.load"): ("load_timeout", float),
    ("timeouts", "io.containerd.timeout.shim.cleanup"): ("cleanup_timeout", float),
    ("timeouts", "io.containerd.timeout.shim.shutdown"): ("shutdown_timeout", float),
}
_DURATION_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def load(path: str | None, flags: Mapping[str, str]) -> Config:
    """The configuration of the file at `path`, with the flags that were given (field name -> value) over it.

    Without a path, DEFAULT_PATH is read if it exists. Raises NotFoundError for a missing file, and
    InvalidArgumentError that names the file and the key.
    """
    values = _read(path or DEFAULT_PATH, required=path is not None)
    values.update(flags)
    config = Config(**values)  # type: ignore[arg-type]  # _KEYS has made each value of its field's type
    _validate(config)
    return config


def _read(path: str, *, required: bool) -> dict[str, object]:
    try:
        with open(path, "rb") as file:
            import tomllib

            try:
                document = tomllib.load(file)
            except tomllib.TOMLDecodeError as error:
                raise InvalidArgumentError(f"{path}: {error}") from None
    except FileNotFoundError:
        if required:
            raise NotFoundError(f"{path}: no such configuration file") from None
        return {}
    version = document.get("version", 1)
    if version not in (2, 3, 4):
        raise InvalidArgumentError(f"{path}: version: expected 2 or 3, got {version}")
    values: dict[str, object] = {}
    for keys, (field, kind) in _KEYS.items():
        found = _lookup(document, keys)
        if found is not None and found != "":
            values[field] = _typed(found, kind, f"{path}: {'.'.join(keys)}")
    return values


def _lookup(document: object, keys: Sequence[str]) -> object:
    for key in keys:
        if not isinstance(document, dict):
            return None
        document = document.get(key)
    return document


def _typed(value: object, kind: type, where: str) -> object:
    if kind is float and isinstance(value, str):
        return parse_duration(value, where)
    if kind is list and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    if kind in (str, int) and isinstance(value, kind) and not isinstance(value, bool):
        return value
    raise InvalidArgumentError(f"{where}: expected {_KIND_NAMES[kind]}, got {value!r}")


_KIND_NAMES: dict[type, str] = {
    str: "a string",
    int: "an integer",
    float: "a duration such as 5s",
    list: "strings",
}


def parse_duration(text: str, where: str) -> float:
    """Seconds in a Go duration such as `1m30s`. Raises InvalidArgumentError that names `where`."""
    import re

    parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidArgumentError(f"{where}: expected a duration such as 5s, got {text!r}")
    return sum(float(number) * _DURATION_UNITS[unit] for number, unit in parts)


def _validate(config: Config) -> None:
    for name in ("root", "state", "address", "ttrpc", "socket_dir"):
        value = getattr(config, name)
        if not os.path.isabs(value):
            raise InvalidArgumentError(f"{name}: expected an absolute path, got {value!r}")
    if config.root == config.state:
        raise InvalidArgumentError("root and state must be different directories")
    if len(config.ttrpc) > 107:
        raise InvalidArgumentError(f"address: a socket's path has 107 bytes at most: {config.ttrpc}")
    if len(config.socket_dir) > 107 - 65:
        # A shim's socket is named by a SHA-256 in hexadecimal.
        raise InvalidArgumentError(f"socket_dir: longer than 42 bytes: {config.socket_dir}")
    if config.level not in LEVELS:
        raise InvalidArgumentError(f"level: expected one of {', '.join(LEVELS)}, got {config.level!r}")
    if not -1000 <= config.oom_score <= 1000:
        raise InvalidArgumentError(f"oom_score: expected -1000 to 1000, got {config.oom_score}")


def dump(config: Config) -> str:
    """The configuration as a containerd.toml that gives it again."""
    quote = _quote
    env = ", ".join(quote(item) for item in config.shim_env)
    return f"""\
version = 3
root = {quote(config.root)}
state = {quote(config.state)}
oom_score = {config.oom_score}

[grpc]
  address = {quote(config.address)}
  uid = {config.uid}
  gid = {config.gid}
  max_recv_message_size = {config.max_receive}
  max_send_message_size = {config.max_send}

[ttrpc]
  address = {quote(config.ttrpc)}

[debug]
  level = {quote(config.level)}

[plugins]
  [plugins."io.containerd.shim.v1.manager"]
    socket_dir = {quote(config.socket_dir)}
    env = [{env}]

[timeouts]
  "io.containerd.timeout.shim.cleanup" = "{config.cleanup_timeout:g}s"
  "io.containerd.timeout.shim.load" = "{config.load_timeout:g}s"
  "io.containerd.timeout.shim.shutdown" = "{config.shutdown_timeout:g}s"
"""


def _quote(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)  # a TOML basic string has JSON's escapes
