# SPDX-License-Identifier: Apache-2.0
"""Volumes."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Protocol

from aiohttp import web

from orlop.dockerd.api.request import ApiRequest
from orlop.dockerd.api.router import Route
from orlop.dockerd.api.streams import empty_response, json_response
from orlop.dockerd.filters import Filters
from orlop.dockerd.volumes import Volume
from orlop.engine.types import VolumeCreateRequest
from orlop.errdefs import ConflictError, NotFoundError

_LIST_FILTERS = ("dangling", "driver", "label", "name")
_PRUNE_FILTERS = ("label", "label!", "all")


class Volumes(Protocol):
    """What is asked of the volumes. All calls block."""

    def create(
        self,
        name: str = "",
        driver: str = "local",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Volume: ...
    def get(self, name: str) -> Volume: ...
    def list(self) -> list[Volume]: ...
    def remove(self, name: str, force: bool = False) -> None: ...
    def disk_usage(self, name: str) -> int: ...


class VolumeRoutes:
    """The endpoints. `users_of(name)` answers which containers refer to a volume."""

    def __init__(
        self,
        volumes: Volumes,
        users_of: Callable[[str], list[str]],
        publish: Callable[[str, str, Mapping[str, str]], object],
    ) -> None:
        self._volumes = volumes
        self._users_of = users_of
        self._publish = publish

    def routes(self) -> list[Route]:
        """The table."""
        return [
            Route("GET", "/volumes", self.list),
            Route("POST", "/volumes/create", self.create),
            Route("POST", "/volumes/prune", self.prune),
            Route("GET", "/volumes/{name}", self.inspect),
            Route("DELETE", "/volumes/{name}", self.remove),
        ]

    async def list(self, request: ApiRequest) -> web.StreamResponse:
        """GET /volumes."""
        filters = request.filters(_LIST_FILTERS)
        found = await asyncio.to_thread(self._volumes.list)
        shown = [volume.inspect() for volume in found if self._passes(volume, filters)]
        return json_response({"Volumes": shown, "Warnings": None})

    async def create(self, request: ApiRequest) -> web.StreamResponse:
        """POST /volumes/create."""
        body = await request.json(VolumeCreateRequest)
        known = {volume.name for volume in await asyncio.to_thread(self._volumes.list)}
        driver = body.driver or "local"
        volume = await asyncio.to_thread(
            self._volumes.create, body.name, driver, body.driver_opts, request.claim(body.labels)
        )
        if volume.name not in known:
            self._publish("create", volume.name, {"driver": volume.driver})
        return json_response(volume.inspect(), 201)

    async def inspect(self, request: ApiRequest) -> web.StreamResponse:
        """GET /volumes/{name}."""
        volume = await asyncio.to_thread(self._volumes.get, request.params["name"])
        return json_response(volume.inspect())

    async def remove(self, request: ApiRequest) -> web.StreamResponse:
        """DELETE /volumes/{name}."""
        name, driver = request.params["name"], "local"
        with contextlib.suppress(NotFoundError):
            driver = (await asyncio.to_thread(self._volumes.get, name)).driver
        await asyncio.to_thread(self._volumes.remove, name, request.flag("force"))
        self._publish("destroy", name, {"driver": driver})
        return empty_response()

    async def prune(self, request: ApiRequest) -> web.StreamResponse:
        """POST /volumes/prune: anonymous ones, with `all` (and before API 1.42) also named ones."""
        filters = request.filters(_PRUNE_FILTERS)
        everything = request.version < (1, 42) or filters.flag("all", False)
        deleted: list[str] = []
        reclaimed = 0
        for volume in await asyncio.to_thread(self._volumes.list):
            wanted = filters.labels("label", volume.labels) and (
                "label!" not in filters or not filters.labels("label!", volume.labels)
            )
            # The others are their plugins' business; with options one may be of another machine, as with NFS.
            wanted = wanted and volume.driver == "local" and not volume.options
            if not wanted or self._users_of(volume.name) or not (everything or volume.anonymous):
                continue
            size = await asyncio.to_thread(self._volumes.disk_usage, volume.name)
            try:
                await asyncio.to_thread(self._volumes.remove, volume.name)
            except ConflictError:
                continue  # somebody has just taken it
            self._publish("destroy", volume.name, {"driver": volume.driver})
            deleted.append(volume.name)
            reclaimed += size
        self._publish("prune", "", {"reclaimed": str(reclaimed)})
        return json_response({"VolumesDeleted": deleted, "SpaceReclaimed": reclaimed})

    def _passes(self, volume: Volume, filters: Filters) -> bool:
        if "dangling" in filters and filters.flag("dangling", False) == bool(self._users_of(volume.name)):
            return False
        return (
            filters.matches("name", volume.name)
            and filters.exact("driver", volume.driver)
            and filters.labels("label", volume.labels)
        )
