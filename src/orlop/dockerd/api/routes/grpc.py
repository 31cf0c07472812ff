# SPDX-License-Identifier: Apache-2.0
"""POST /grpc: the connection becomes one of HTTP/2, for clients that cannot begin with it."""

from aiohttp import web

from orlop.dockerd.api.grpc import GrpcFront
from orlop.dockerd.api.hijack import HijackedResponse
from orlop.dockerd.api.request import ApiRequest
from orlop.dockerd.api.router import Route
from orlop.errdefs import InternalError

_HEAD = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"


class GrpcRoutes:
    """The endpoint."""

    def __init__(self, front: GrpcFront) -> None:
        self._front = front

    def routes(self) -> list[Route]:
        """The table."""
        return [Route("POST", "/grpc", self.upgrade)]

    async def upgrade(self, request: ApiRequest) -> web.StreamResponse:
        """Switch to HTTP/2, and serve it to its end."""
        protocol = request.header("Upgrade")
        if not protocol:
            raise InternalError("no upgrade proto in request")
        if protocol != "h2c":
            raise InternalError(f"protocol {protocol} not supported")
        stream = request.connection.hijack()
        stream.write(_HEAD)
        await self._front.serve(stream)
        return HijackedResponse()
