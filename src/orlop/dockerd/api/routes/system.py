# SPDX-License-Identifier: Apache-2.0
"""Ping, version, info, events, disk usage."""

from collections.abc import AsyncIterator
from typing import Any, Protocol

from aiohttp import web

from orlop.dockerd import timestamps
from orlop.dockerd.api import legacy
from orlop.dockerd.api.request import ApiRequest
from orlop.dockerd.api.router import ANY, Route
from orlop.dockerd.api.streams import (
    JSON_LINES,
    accepted_json_stream,
    empty_response,
    framed,
    json_response,
    pump,
    start_stream,
)
from orlop.dockerd.events import Subscription
from orlop.dockerd.filters import Filters
from orlop.errdefs import InvalidArgumentError


class System(Protocol):
    """What the daemon tells of itself."""

    async def version(self) -> dict[str, Any]: ...
    async def info(self) -> dict[str, Any]: ...


class EventSource(Protocol):
    """Past and coming events."""

    def subscribe(self, since: int | None, until: int | None, filters: Filters) -> Subscription: ...


class DiskUsage(Protocol):
    """GET /system/df."""

    async def __call__(self, kinds: set[str]) -> dict[str, Any]: ...


class SystemRoutes:
    """The endpoints."""

    def __init__(self, system: System, events: EventSource, disk_usage: DiskUsage) -> None:
        self._system = system
        self._events = events
        self._disk_usage = disk_usage

    def routes(self) -> list[Route]:
        """The table."""
        return [
            Route("OPTIONS", f"/{ANY}", self.options),
            Route("GET", "/_ping", self.ping),
            Route("HEAD", "/_ping", self.ping),
            Route("GET", "/version", self.version),
            Route("GET", "/info", self.info),
            Route("GET", "/events", self.events),
            Route("GET", "/system/df", self.df),
        ]

    async def ping(self, request: ApiRequest) -> web.StreamResponse:
        """`OK`, with the headers by which clients choose their API version and builder."""
        headers = {
            "Builder-Version": "1",
            "Cache-Control": "no-cache, no-store, must-revalidate",
            "Pragma": "no-cache",
            "Swarm": "inactive",
            "Content-Type": "text/plain; charset=utf-8",
        }
        if request.http.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": "0"})
        return web.Response(body=b"OK", headers=headers)

    async def options(self, request: ApiRequest) -> web.StreamResponse:
        """OPTIONS of anything: 200 and nothing else, as with Docker."""
        return empty_response(200)

    async def version(self, request: ApiRequest) -> web.StreamResponse:
        """Versions of the engine and its parts."""
        return json_response(await self._system.version())

    async def info(self, request: ApiRequest) -> web.StreamResponse:
        """Facts about engine and host."""
        return json_response(legacy.info(await self._system.info(), request.version))

    async def events(self, request: ApiRequest) -> web.StreamResponse:
        """A stream of events, one JSON object each."""
        first, last = request.query("since"), request.query("until")
        since = timestamps.parse(first, name="since") if first else None
        until = timestamps.parse(last, name="until") if last else None
        if since is not None and until is not None and since > until:
            raise InvalidArgumentError(f"`since` time ({first}) cannot be after `until` time ({last})")
        filters = request.filters()
        show_legacy = request.version < (1, 52)
        content_type = "application/json" if show_legacy else accepted_json_stream(request) or JSON_LINES
        subscription = self._events.subscribe(since, until, filters)

        async def lines() -> AsyncIterator[bytes]:
            async for event in subscription:
                if request.version < (1, 46) and event.type == "image" and event.action == "create":
                    continue
                yield framed(event.message(legacy=show_legacy), content_type)

        try:
            response = await start_stream(request, content_type)
            await pump(request, response, lines())
        finally:
            subscription.close()
        return response

    async def df(self, request: ApiRequest) -> web.StreamResponse:
        """Disk space by images, containers, volumes and build cache."""
        everything = {"container", "image", "volume", "build-cache"}
        kinds = set(request.query_all("type")) or everything
        unknown = kinds - everything
        if unknown:
            raise InvalidArgumentError(f"unknown object type: {sorted(unknown)[0]}")
        if request.version < (1, 42):
            kinds = everything
        usage = await self._disk_usage(kinds)
        return json_response(legacy.disk_usage(usage, request.version, verbose=request.flag("verbose")))
