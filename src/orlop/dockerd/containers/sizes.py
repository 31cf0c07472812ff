# SPDX-License-Identifier: Apache-2.0
"""Disk space of containers: what each has written, and that with its image."""

import asyncio
from collections.abc import Iterable, Sequence

from orlop.containerd.client import Client
from orlop.containerd.client.snapshots import Snapshots
from orlop.dockerd.containers.container import Container
from orlop.errdefs import NotFoundError

Sizes = tuple[int, int]
"""Bytes written, and these plus the image's; zeros while the container is being removed."""


async def sizes(client: Client, containers: Sequence[Container]) -> list[Sizes]:
    """Of each, in order. Layers that several share are asked for once, and what stands on what in one call."""
    found: dict[str, Sizes] = {}
    for snapshotter in {container.record.snapshotter for container in containers}:
        keys = [container.id for container in containers if container.record.snapshotter == snapshotter]
        found |= await _sizes(client.snapshots(snapshotter), keys)
    return [found[container.id] for container in containers]


async def _sizes(snapshots: Snapshots, keys: Sequence[str]) -> dict[str, Sizes]:
    parents = await _parents(snapshots, keys)
    layers = {key: _below(key, parents) for key in keys}
    usages = await _usages(snapshots, {*keys, *(layer for below in layers.values() for layer in below)})
    found = {}
    for key in keys:
        parts = [usages[each] for each in (key, *layers[key])]
        known = [part for part in parts if part is not None]
        found[key] = (known[0], sum(known)) if len(known) == len(parts) else (0, 0)
    return found


async def _parents(snapshots: Snapshots, keys: Sequence[str]) -> dict[str, str]:
    """By snapshot what it stands on; empty for the lowest, missing for one that is gone."""
    if len(keys) > 1:
        return {info.name: info.parent async for info in snapshots.list()}
    parents: dict[str, str] = {}
    key = keys[0]
    try:
        while key:
            parents[key] = (await snapshots.stat(key)).parent
            key = parents[key]
    except NotFoundError:
        pass  # it is being removed
    return parents


def _below(key: str, parents: dict[str, str]) -> list[str]:
    below = []
    while key := parents.get(key, ""):
        below.append(key)
    return below


async def _usages(snapshots: Snapshots, keys: Iterable[str]) -> dict[str, int | None]:
    """Bytes of each by itself; None for one that is gone."""

    async def usage(key: str) -> tuple[str, int | None]:
        try:
            return key, (await snapshots.usage(key)).size
        except NotFoundError:
            return key, None

    return dict(await asyncio.gather(*map(usage, keys)))
