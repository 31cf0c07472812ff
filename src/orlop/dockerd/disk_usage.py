# SPDX-License-Identifier: Apache-2.0
"""GET /system/df: disk space by kind of object."""

import asyncio
from collections.abc import Callable
from typing import Any

from orlop.dockerd.containers.list import List
from orlop.dockerd.filters import Filters
from orlop.dockerd.images.service import ImageService
from orlop.dockerd.volumes import VolumeService

View = dict[str, Any]


class DiskUsage:
    """The use case."""

    def __init__(
        self,
        containers: List,
        images: ImageService,
        volumes: VolumeService,
        users_of: Callable[[str], list[str]],
    ) -> None:
        self._containers = containers
        self._images = images
        self._volumes = volumes
        self._users_of = users_of

    async def __call__(self, kinds: set[str]) -> View:
        """The lists as before API 1.52, and the summaries since."""
        view: View = {}
        if "image" in kinds:
            view |= await self._image_usage()
        if "container" in kinds:
            view |= await self._container_usage()
        if "volume" in kinds:
            view |= await self._volume_usage()
        if "build-cache" in kinds:
            view |= {"BuildCache": [], "BuildCacheUsage": _summary(0, 0, 0, 0)}
        return view

    async def _image_usage(self) -> View:
        shown = await self._images.list(Filters(), shared_size=True)
        total = sum(max(image["Size"] - max(image["SharedSize"], 0), 0) for image in shown)
        total += max((image["SharedSize"] for image in shown), default=0)
        active = [image for image in shown if image["Containers"] > 0]
        free = sum(image["Size"] - max(image["SharedSize"], 0) for image in shown if image["Containers"] <= 0)
        return {
            "LayersSize": total,
            "Images": shown,
            "ImageUsage": _summary(len(active), len(shown), free, total),
        }

    async def _container_usage(self) -> View:
        shown = await self._containers(Filters(), all=True, size=True)
        active = [container for container in shown if container["State"] in ("running", "paused", "restarting")]
        total = sum(container["SizeRw"] for container in shown)
        free = total - sum(container["SizeRw"] for container in active)
        return {"Containers": shown, "ContainerUsage": _summary(len(active), len(shown), free, total)}

    async def _volume_usage(self) -> View:
        shown, active, free, total = [], 0, 0, 0
        for volume in await asyncio.to_thread(self._volumes.list):
            size = await asyncio.to_thread(self._volumes.disk_usage, volume.name)
            users = len(self._users_of(volume.name))
            shown.append({**volume.inspect(), "UsageData": {"Size": size, "RefCount": users}})
            size = max(size, 0)
            total += size
            active += users > 0
            free += 0 if users else size
        return {"Volumes": shown, "VolumeUsage": _summary(active, len(shown), free, total)}


def _summary(active: int, count: int, reclaimable: int, total: int) -> View:
    return {"ActiveCount": active, "TotalCount": count, "Reclaimable": reclaimable, "TotalSize": total}
