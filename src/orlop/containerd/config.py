# SPDX-License-Identifier: Apache-2.0
"""The daemon's configuration: containerd.toml (versions 2 to 4, the keys that apply), overlaid by flags."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from orlop.errdefs import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_PATH = "/etc/orlop/containerd.toml"
LEVELS = ("trace", "debug", "info", "warn", "error", "fatal", "panic")
PROXY_TYPES = ("snapshot", "diff", "content")


class ProxyPlugin(NamedTuple):
    """A part that another process serves over a socket: a snapshotter, a differ, or the content store."""

    name: str
    type: str
    address: str
    exports: Mapping[str, str] = {}
    capabilities: Sequence[str] = ()


class StreamProcessor(NamedTuple):
    """A program that turns layers of the media types `accepts` into `returns`, from stdin to stdout."""

    name: str
    accepts: Sequence[str]
    returns: str
    path: str
    args: Sequence[str] = ()
    env: Sequence[str] = ()


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
    format: str = "text"  # debug.format: text or json
    debug_address: str = ""  # debug.address, a socket's path; empty: none
    debug_uid: int = 0  # debug.uid
    debug_gid: int = 0  # debug.gid
    metrics_address: str = ""  # metrics.address, HOST:PORT; empty: none
    grpc_histogram: bool = False  # metrics.grpc_histogram
    oom_score: int = 0  # oom_score; 0: leave as it is
    snapshotter: str = "overlayfs"  # for requests that name none
    overlay_options: Sequence[str] = ()  # plugins."io.containerd.snapshotter.v1.overlayfs".mount_options
    overlay_upper_label: bool = False  # ….upperdir_label
    differs: Sequence[str] = ("walking",)  # plugins."io.containerd.service.v1.diff-service".default, in order
    opt: str = ""  # plugins."io.containerd.internal.v1.opt".path, programs of `ctr install`; empty: <root>/opt
    shim_socket_dir: str = ""  # plugins."io.containerd.shim.v1.manager".socket_dir; empty: <state>/s
    shim_env: Sequence[str] = ()  # plugins."io.containerd.shim.v1.manager".env
    gc_pause_threshold: float = 0.02  # plugins."io.containerd.gc.v1.scheduler".pause_threshold, share of time
    gc_mutation_threshold: int = 100  # ….mutation_threshold, changes that make a collection due
    gc_schedule_delay: float = 0.0  # ….schedule_delay, seconds
    gc_startup_delay: float = 0.1  # ….startup_delay, seconds
    downloads: int = 3  # plugins."io.containerd.transfer.v1.local".max_concurrent_downloads
    disabled_plugins: Sequence[str] = ()  # disabled_plugins: snapshotters that are not wanted, by type and id
    required_plugins: Sequence[str] = ()  # required_plugins: without these the daemon does not start
    proxy_plugins: Sequence[ProxyPlugin] = ()  # proxy_plugins
    stream_processors: Sequence[StreamProcessor] = ()  # stream_processors
    load_timeout: float = 5.0  # timeouts."io.containerd.timeout.shim.load", seconds
    cleanup_timeout: float = 5.0  # timeouts."io.containerd.timeout.shim.cleanup"
    shutdown_timeout: float = 3.0  # timeouts."io.containerd.timeout.shim.shutdown"

    @property
    def content_stores(self) -> Sequence[ProxyPlugin]:
        """The content stores among the proxy plugins."""
        return [plugin for plugin in self.proxy_plugins if plugin.type == "content"]

    @property
    def ttrpc(self) -> str:
        """The socket that shims forward events to."""
        return self.ttrpc_address or self.address + ".ttrpc"

    @property
    def opt_dir(self) -> str:
        """The directory of the programs that `ctr install` brings, in `bin`, and their libraries, in `lib`."""
        return self.opt or os.path.join(self.root, "opt")

    @property
    def socket_dir(self) -> str:
        """The directory of the shims' sockets."""
        return self.shim_socket_dir or os.path.join(self.state, "s")


def load(path: str | None, flags: Mapping[str, str]) -> Config:
    """The configuration of the file at `path`, with the flags that were given (field name -> value) over it.

    Without a path, DEFAULT_PATH is read if it exists. Raises NotFoundError for a missing file, and
    InvalidArgumentError that names the file and the key.
    """
    from orlop.containerd.config_file import read

    values = read(path or DEFAULT_PATH, required=path is not None)
    values.update(flags)
    config = Config(**values)  # type: ignore[arg-type]  # each value has been made of its field's type
    _validate(config)
    return config


def _validate(config: Config) -> None:
    for name in ("root", "state", "address", "ttrpc", "socket_dir", "opt_dir", "debug_address"):
        value = getattr(config, name)
        if not os.path.isabs(value) and (value or name != "debug_address"):
            raise InvalidArgumentError(f"{name}: expected an absolute path, got {value!r}")
    if config.root == config.state:
        raise InvalidArgumentError("root and state must be different directories")
    for path in (config.ttrpc, config.debug_address):
        if len(path) > 107:
            raise InvalidArgumentError(f"address: a socket's path has 107 bytes at most: {path}")
    if len(config.socket_dir) > 107 - 65:
        # A shim's socket is named by a SHA-256 in hexadecimal.
        raise InvalidArgumentError(f"socket_dir: longer than 42 bytes: {config.socket_dir}")
    if config.level not in LEVELS:
        raise InvalidArgumentError(f"level: expected one of {', '.join(LEVELS)}, got {config.level!r}")
    if config.format not in ("text", "json"):
        raise InvalidArgumentError(f"debug.format: expected text or json, got {config.format!r}")
    if not -1000 <= config.oom_score <= 1000:
        raise InvalidArgumentError(f"oom_score: expected -1000 to 1000, got {config.oom_score}")
    if not 0 < config.gc_pause_threshold <= 0.5:
        raise InvalidArgumentError(f"pause_threshold: expected a share up to 0.5, got {config.gc_pause_threshold}")
    if config.downloads < 1:
        raise InvalidArgumentError(f"max_concurrent_downloads: expected 1 or more, got {config.downloads}")
    if len(config.content_stores) > 1:
        names = ", ".join(plugin.name for plugin in config.content_stores)
        raise InvalidArgumentError(f"proxy_plugins: expected at most one of the type content, got {names}")
    for plugin in config.proxy_plugins:
        if plugin.type not in PROXY_TYPES:
            raise InvalidArgumentError(
                f"proxy_plugins.{plugin.name}.type: expected one of {', '.join(PROXY_TYPES)}, got {plugin.type!r}"
            )
        if not os.path.isabs(plugin.address.removeprefix("unix://")):
            raise InvalidArgumentError(
                f"proxy_plugins.{plugin.name}.address: expected a socket's path, got {plugin.address!r}"
            )
