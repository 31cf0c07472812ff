# SPDX-License-Identifier: Apache-2.0
"""How much a container uses, once or every second."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from orlop.api import cgroup_metrics_v1_pb2 as v1
from orlop.api import cgroup_metrics_v2_pb2 as v2
from orlop.containerd.client import Client, typeurl
from orlop.dockerd import timestamps
from orlop.dockerd.containers.container import Container
from orlop.dockerd.containers.metrics import (
    NO_BLKIO,
    NO_CPU,
    Stats,
    parse_net_dev,
    parse_system_cpu,
    stats_v1,
    stats_v2,
)
from orlop.dockerd.containers.registry import Registry
from orlop.errdefs import InternalError, NotFoundError

_INTERVAL = 1.0


class GetStats:
    """The use case."""

    def __init__(self, registry: Registry, client: Client) -> None:
        self._registry = registry
        self._client = client
        self._memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self._ticks = os.sysconf("SC_CLK_TCK")

    async def once(self, reference: str, *, one_shot: bool) -> Stats:
        """One measurement; unless `one_shot` with another a second earlier as `precpu_stats`."""
        container = self._registry.get(reference)
        if one_shot or not _measurable(container):
            return await self._measure(container, None)
        previous = await self._measure(container, None)
        await asyncio.sleep(_INTERVAL)
        return await self._measure(container, previous)

    async def stream(self, reference: str) -> AsyncIterator[Stats]:
        """A measurement a second while the container exists; zeros while it does not run."""
        container = self._registry.get(reference)
        previous = None
        while container.id in self._registry:
            previous = await self._measure(container, previous)
            yield previous
            await asyncio.sleep(_INTERVAL)

    async def _measure(self, container: Container, previous: Stats | None) -> Stats:
        measured: Stats = {}
        if _measurable(container):
            try:
                measured = await self._metrics(container)
            except NotFoundError:
                measured = {}  # it has ended just now
        before = previous or {}
        identity = {"id": container.id, "name": f"/{container.name}", "os_type": "linux"}
        moments = {
            "read": timestamps.rfc3339(timestamps.now()) if measured else timestamps.ZERO,
            "preread": before.get("read", timestamps.ZERO),
        }
        empty = {"pids_stats": {}, "blkio_stats": NO_BLKIO, "cpu_stats": NO_CPU, "memory_stats": {}}
        return {
            **identity,
            **moments,
            "num_procs": 0,
            "storage_stats": {},
            **empty,
            **measured,
            "precpu_stats": before.get("cpu_stats", NO_CPU),
        }

    async def _metrics(self, container: Container) -> Stats:
        found = await self._client.tasks.metrics(f"id=={container.id}")
        if not found:
            raise NotFoundError(f"no metrics of container {container.id}")
        packed = found[0].data
        kind = typeurl.name(packed)
        if kind == v1.Metrics.DESCRIPTOR.full_name:
            stats = stats_v1(typeurl.unpack(packed, v1.Metrics), self._memory)
        elif kind == v2.Metrics.DESCRIPTOR.full_name:
            stats = stats_v2(typeurl.unpack(packed, v2.Metrics), self._memory)
        else:
            raise InternalError(f"unexpected type of metrics {kind}")
        system, cpus = parse_system_cpu(Path("/proc/stat").read_text(), self._ticks)
        stats["cpu_stats"] |= {"system_cpu_usage": system, "online_cpus": cpus}
        networks = _networks(container)
        if networks is not None:
            stats["networks"] = networks
        return stats


def _measurable(container: Container) -> bool:
    state = container.record.state
    return state.running and not state.restarting


def _networks(container: Container) -> Stats | None:
    if container.record.host_config.network_mode == "host":
        return None
    try:
        return parse_net_dev(Path(f"/proc/{container.record.state.pid}/net/dev").read_text())
    except OSError:
        return None  # it has ended just now
