# SPDX-License-Identifier: Apache-2.0
"""The table of the daemon's parts, under the types and ids by which containerd's clients look for them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from orlop.api.introspection_pb2 import Plugin as PluginMessage
from orlop.api.types_pb2 import Platform
from orlop.containerd.core.idmaps import kernel_maps_layers
from orlop.unix import quota

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orlop.containerd.config import ProxyPlugin

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}


class Plugin(NamedTuple):
    """One part of the daemon: its type, its id among those of the type, and the types of the parts it needs."""

    type: str
    id: str
    requires: Sequence[str] = ()
    platform: bool = False  # works for this machine's platform only
    exports: Mapping[str, str] = {}
    capabilities: Sequence[str] = ()

    def to_proto(self) -> PluginMessage:
        """The plugin as the Introspection service tells of it."""
        message = PluginMessage(
            type=self.type,
            id=self.id,
            requires=self.requires,
            exports=self.exports,
            capabilities=self.capabilities,
        )
        if self.platform:
            machine = os.uname().machine
            message.platforms.append(Platform(os="linux", architecture=_ARCHITECTURES.get(machine, machine)))
        return message


CONTENT = "io.containerd.content.v1"
DIFF = "io.containerd.differ.v1"
EVENT = "io.containerd.event.v1"
GC = "io.containerd.gc.v1"
GRPC = "io.containerd.grpc.v1"
LEASE = "io.containerd.lease.v1"
INTERNAL = "io.containerd.internal.v1"
METADATA = "io.containerd.metadata.v1"
MOUNT_MANAGER = "io.containerd.mount-manager.v1"
RUNTIME = "io.containerd.runtime.v2"
SANDBOX_CONTROLLER = "io.containerd.sandbox.controller.v1"
SANDBOX_STORE = "io.containerd.sandbox.store.v1"
SHIM = "io.containerd.shim.v1"
SNAPSHOTTER = "io.containerd.snapshotter.v1"
STREAMING = "io.containerd.streaming.v1"
TRANSFER = "io.containerd.transfer.v1"
TTRPC = "io.containerd.ttrpc.v1"

_FIXED = (
    Plugin(CONTENT, "content"),
    Plugin(EVENT, "exchange"),
    Plugin(METADATA, "bolt", (EVENT, CONTENT, SNAPSHOTTER)),
    Plugin(LEASE, "manager", (METADATA,)),
    Plugin(GC, "scheduler", (METADATA,)),
    Plugin(DIFF, "walking", (METADATA,), platform=True),
    Plugin(SHIM, "manager", (EVENT, METADATA)),
    Plugin(RUNTIME, "task", (EVENT, METADATA, SHIM), platform=True),
    Plugin(MOUNT_MANAGER, "local", (METADATA,)),
    Plugin(SANDBOX_STORE, "local", (METADATA,)),
    Plugin(SANDBOX_CONTROLLER, "shim", (SHIM, EVENT)),
    Plugin(STREAMING, "manager", (METADATA,)),
    Plugin(TRANSFER, "local", (LEASE, METADATA, DIFF)),
    Plugin(GRPC, "containers", (METADATA, EVENT)),
    Plugin(GRPC, "content", (METADATA,)),
    Plugin(GRPC, "diff", (DIFF,)),
    Plugin(GRPC, "events", (EVENT,)),
    Plugin(GRPC, "healthcheck"),
    Plugin(GRPC, "images", (METADATA, GC)),
    Plugin(GRPC, "introspection"),
    Plugin(GRPC, "leases", (LEASE,)),
    Plugin(GRPC, "mounts", (MOUNT_MANAGER,)),
    Plugin(GRPC, "namespaces", (METADATA,)),
    Plugin(GRPC, "sandbox-controllers", (SANDBOX_CONTROLLER, EVENT)),
    Plugin(GRPC, "sandboxes", (SANDBOX_STORE,)),
    Plugin(GRPC, "snapshots", (METADATA,)),
    Plugin(GRPC, "streaming", (STREAMING,)),
    Plugin(GRPC, "tasks", (RUNTIME,)),
    Plugin(GRPC, "transfer", (TRANSFER, STREAMING)),
    Plugin(GRPC, "version"),
    Plugin(TTRPC, "events", (EVENT,)),
)


_PROXY_TYPES = {"snapshot": SNAPSHOTTER, "diff": DIFF, "content": CONTENT}


def _snapshotter(root: str, name: str) -> Plugin:
    directory = os.path.join(root, f"{SNAPSHOTTER}.{name}")
    capabilities = []
    if name == "overlayfs":
        capabilities += ["quota"] if quota.supported(directory) else []
        capabilities += ["remap-ids"] if kernel_maps_layers() else []
    return Plugin(
        SNAPSHOTTER,
        name,
        platform=True,
        exports={"root": directory},
        capabilities=capabilities,
    )


def table(root: str, opt: str, snapshotters: Iterable[str], proxies: Sequence[ProxyPlugin] = ()) -> list[Plugin]:
    """All parts of a daemon whose kept state is below `root`, and whose programs are below `opt`."""
    remote = {plugin.name for plugin in proxies if plugin.type == "snapshot"}
    made = [_snapshotter(root, name) for name in snapshotters if name not in remote]
    made += [
        Plugin(
            _PROXY_TYPES[each.type],
            each.name,
            exports={"address": each.address, **each.exports},
            capabilities=each.capabilities,
        )
        for each in proxies
    ]
    ours = [each for each in _FIXED if each.type != CONTENT or not any(one.type == "content" for one in proxies)]
    return [*made, Plugin(INTERNAL, "opt", exports={"path": opt}), *ours]
