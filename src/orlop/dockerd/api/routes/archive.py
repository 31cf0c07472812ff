# SPDX-License-Identifier: Apache-2.0
"""Files of containers: copied out and in, exported, compared. Translation only."""

import base64
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from aiohttp import web

from orlop import codec
from orlop.dockerd.api.request import ApiRequest
from orlop.dockerd.api.router import Route
from orlop.dockerd.api.streams import empty_response, json_response, pump, start_stream
from orlop.dockerd.containers.archive_in import ArchiveIn, Wanted
from orlop.dockerd.containers.archive_out import ArchiveOut
from orlop.dockerd.containers.bridge import fed
from orlop.dockerd.containers.changes import Changes
from orlop.dockerd.containers.export import Export
from orlop.errdefs import InvalidArgumentError

_STAT = "X-Docker-Container-Path-Stat"
_CHUNK = 1 << 20  # bytes of a body at a time


class ArchiveUseCases(NamedTuple):
    """What the endpoints call."""

    out: ArchiveOut
    into: ArchiveIn
    export: Export
    changes: Changes


class ArchiveRoutes:
    """The endpoints."""

    def __init__(self, use: ArchiveUseCases) -> None:
        self._use = use

    def routes(self) -> list[Route]:
        """The table."""
        return [
            Route("HEAD", "/containers/{id}/archive", self.stat),
            Route("GET", "/containers/{id}/archive", self.get),
            Route("PUT", "/containers/{id}/archive", self.put),
            Route("GET", "/containers/{id}/export", self.export),
            Route("GET", "/containers/{id}/changes", self.changes),
        ]

    async def stat(self, request: ApiRequest) -> web.StreamResponse:
        """HEAD /containers/{id}/archive."""
        stat = await self._use.out.stat(request.params["id"], _path(request))
        response = empty_response(200)
        response.headers[_STAT] = _encoded(stat)
        return response

    async def get(self, request: ApiRequest) -> web.StreamResponse:
        """GET /containers/{id}/archive."""
        archive = await self._use.out(request.params["id"], _path(request))
        return await _send(request, archive.chunks, "application/x-tar", {_STAT: _encoded(archive.stat)})

    async def put(self, request: ApiRequest) -> web.StreamResponse:
        """PUT /containers/{id}/archive."""
        wanted = Wanted(
            path=_path(request),
            container_owner=request.flag("copyUIDGID"),
            keep_kinds=request.flag("noOverwriteDirNonDir"),
        )
        if (upload := request.connection.upload) is not None:
            await self._use.into(request.params["id"], wanted, upload)
            return empty_response(200)
        async with fed(aiter(request.http.content.iter_chunked(_CHUNK))) as incoming:
            await self._use.into(request.params["id"], wanted, incoming)
        return empty_response(200)

    async def export(self, request: ApiRequest) -> web.StreamResponse:
        """GET /containers/{id}/export."""
        chunks = await self._use.export(request.params["id"])
        return await _send(request, chunks, "application/octet-stream", {})

    async def changes(self, request: ApiRequest) -> web.StreamResponse:
        """GET /containers/{id}/changes."""
        found = await self._use.changes(request.params["id"])
        return json_response([{"Path": change.path, "Kind": change.kind} for change in found] or None)


async def _send(
    request: ApiRequest, chunks: AsyncIterator[bytes], content_type: str, headers: dict[str, str]
) -> web.StreamResponse:
    response = await start_stream(request, content_type, headers)
    await pump(request, response, chunks)
    return response


def _path(request: ApiRequest) -> str:
    path = request.query("path")
    if not path:
        raise InvalidArgumentError("bad parameter: path cannot be empty")
    return path


def _encoded(stat: dict[str, Any]) -> str:
    return base64.b64encode(codec.encode(stat)).decode()
