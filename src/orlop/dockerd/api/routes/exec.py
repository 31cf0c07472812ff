# SPDX-License-Identifier: Apache-2.0
"""Execs: extra processes in containers."""

import msgspec
from aiohttp import web

from orlop.dockerd.api.hijack import HijackedResponse, content_type, hijack
from orlop.dockerd.api.request import ApiRequest
from orlop.dockerd.api.router import Route
from orlop.dockerd.api.routes.containers import size_of
from orlop.dockerd.api.streams import empty_response, json_response, or_gone
from orlop.dockerd.containers.exec import Execs, ExecStart
from orlop.dockerd.containers.inspect import exec_view
from orlop.engine.types import ExecConfig
from orlop.errdefs import OrlopError
from orlop.rpc import stdcopy


class _StartBody(msgspec.Struct, rename="pascal"):
    detach: bool = False
    tty: bool = False
    console_size: list[int] | None = None


class ExecRoutes:
    """The endpoints."""

    def __init__(self, execs: Execs) -> None:
        self._execs = execs

    def routes(self) -> list[Route]:
        """The table."""
        return [
            Route("POST", "/containers/{id}/exec", self.create),
            Route("POST", "/exec/{id}/start", self.start),
            Route("POST", "/exec/{id}/resize", self.resize),
            Route("GET", "/exec/{id}/json", self.inspect),
        ]

    async def create(self, request: ApiRequest) -> web.StreamResponse:
        """POST /containers/{id}/exec."""
        config = await request.json(ExecConfig)
        if request.version < (1, 42):
            config.console_size = None
        return json_response({"Id": await self._execs.create(request.params["id"], config)}, 201)

    async def start(self, request: ApiRequest) -> web.StreamResponse:
        """POST /exec/{id}/start: takes the connection over unless detached."""
        exec_id = request.params["id"]
        body = await request.json(_StartBody)
        tty = self._execs.check(exec_id)
        size = body.console_size if request.version >= (1, 42) else None
        wanted = ExecStart(body.detach, body.tty, size)
        if body.detach:
            await self._execs.start(exec_id, wanted, None)
            return empty_response(200)
        stream = hijack(request, content_type(request, tty=body.tty), with_headers=True)
        try:
            await or_gone(request, self._execs.start(exec_id, wanted, stream))
        except ConnectionError:
            return HijackedResponse()
        except OrlopError as error:
            text = f"{error}\r\n".encode()
            stream.write(text if tty and body.tty else stdcopy.encode(stdcopy.STDOUT, text))
        return HijackedResponse()

    async def resize(self, request: ApiRequest) -> web.StreamResponse:
        """POST /exec/{id}/resize."""
        height, width = size_of(request)
        await self._execs.resize(request.params["id"], height, width)
        return empty_response(200)

    async def inspect(self, request: ApiRequest) -> web.StreamResponse:
        """GET /exec/{id}/json."""
        return json_response(exec_view(self._execs.get(request.params["id"])))
