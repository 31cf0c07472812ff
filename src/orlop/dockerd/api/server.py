# SPDX-License-Identifier: Apache-2.0
"""The HTTP server: one handler for every request, over any number of listening sockets."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, cast

from aiohttp import web

from orlop.dockerd.access.gate import Gate
from orlop.dockerd.access.policy import Level
from orlop.dockerd.api import version as api_version
from orlop.dockerd.api.connection import Connection, ConnectionServer, Hijacked
from orlop.dockerd.api.errors import error_response, message_response, status_of
from orlop.dockerd.api.grpc import GrpcFront
from orlop.dockerd.api.request import ApiRequest
from orlop.dockerd.api.router import Match, Route, Router
from orlop.dockerd.metrics import Metrics
from orlop.dockerd.plugins.authorization import Authorization
from orlop.errdefs import CanceledError, InternalError, OrlopError

if TYPE_CHECKING:
    from orlop.dockerd.api.tls import TlsServer

log = logging.getLogger("orlop.dockerd.api")

# Bodies that are read whole are JSON; streamed bodies (tar) are not subject to it.
_MAX_JSON = 16 * 1024 * 1024
# Bytes of an upload that wait for whoever takes them in: reading goes on meanwhile.
_READ_AHEAD = 1 << 20
# For what does not take the end of its connection, or of its task, for its own.
_CUT_SECONDS = 1.0


class Listener(NamedTuple):
    """A listening socket, and how clients have to talk TLS there."""

    socket: socket.socket
    tls: ssl.SSLContext | None = None


class ApiServer:
    """Serves the given routes; `server_version` is for the Server header, `min_version` the oldest API served."""

    def __init__(
        self,
        routes: Iterable[Route],
        *,
        server_version: str,
        min_version: api_version.Version,
        experimental: bool,
        grpc: GrpcFront,
        gate: Gate,
        authorization: Authorization,
        metrics: Metrics,
    ) -> None:
        self._router = Router(routes)
        self._min_version = min_version
        self._common = {
            "Server": f"Docker/{server_version} (linux)",
            "Api-Version": api_version.text(api_version.MAX),
            "Ostype": "linux",
            "Docker-Experimental": "true" if experimental else "false",
        }
        self._protocols: ConnectionServer | None = None
        self._listeners: list[asyncio.Server | TlsServer] = []
        self._tls: list[TlsServer] = []
        self._grpc = grpc
        self._gate = gate
        self._authorization = authorization
        self._metrics = metrics
        self._in_progress = 0
        self._idle: asyncio.Future[None] | None = None

    async def serve(self, listeners: Iterable[Listener]) -> None:
        """Accept on listening sockets from now on."""
        loop = asyncio.get_running_loop()
        self._protocols = ConnectionServer(
            self._handle,
            http2=self._serve_grpc,
            request_factory=_make_request,
            access_log=None,
            logger=log,
            keepalive_timeout=3600,
            read_bufsize=_READ_AHEAD,
        )
        for listening, context in listeners:
            if context is not None:
                from orlop.dockerd.api.tls import TlsServer

                front = TlsServer(context, self._protocols)
                await front.serve(listening)
                self._tls.append(front)
                self._listeners.append(front)
                continue
            # not create_unix_server, which from Python 3.13 on removes the socket's file when it closes
            server = await loop.create_server(self._protocols, sock=listening, backlog=1024)
            self._listeners.append(server)

    async def close(self, timeout: float | None) -> None:
        """Accept no more, give requests in progress `timeout` seconds (None: any), then cut them."""
        for listener in self._listeners:
            listener.close()
        if self._protocols is not None:
            self._protocols.pre_shutdown()
            for connection in self._protocols.connections:
                cast(Connection, connection).let_go()
            await self._answered(timeout)
            await self._protocols.shutdown(_CUT_SECONDS)
        for front in self._tls:
            await front.cut()
        await self._grpc.close()

    async def _answered(self, timeout: float | None) -> None:
        """Wait until the requests in progress are answered, so many seconds at most."""
        if self._in_progress:
            self._idle = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._idle}, timeout=timeout)

    async def _serve_grpc(self, stream: Hijacked) -> None:
        if self._gate.viewer(stream.socket).level is Level.ALL:
            await self._grpc.serve(stream)
        else:
            stream.close()

    async def _handle(self, http: web.BaseRequest) -> web.StreamResponse:
        connection = cast(Connection, http.protocol)
        connection.check_body(http)
        self._in_progress += 1
        try:
            response = await self._answer(http, connection)
            await connection.end_upload()
            return response
        finally:
            connection.release()
            self._in_progress -= 1
            if self._idle is not None and not self._in_progress and not self._idle.done():
                self._idle.set_result(None)

    async def _answer(self, http: web.BaseRequest, connection: Connection) -> web.StreamResponse:
        match = self._router.find(http.method, http.path)
        if match is None:
            missing: web.StreamResponse = message_response(404, "page not found")
            missing.headers["Server"] = self._common["Server"]
            return missing
        request: ApiRequest | None = None
        plain = False
        try:
            version = api_version.parse(match.version) if match.version else api_version.MAX
            plain = version < api_version.FLOOR
            viewer = self._gate.viewer(connection.socket)
            request = ApiRequest(http, connection, version, match.params, self._common, viewer)
            api_version.check(version, self._min_version)
            await self._gate.check(match.route, request)
            response = await self._serve(match, request)
        except (ConnectionError, CanceledError) as error:
            log.debug("%s %s: client went away: %s", http.method, http.path, error)
            response = message_response(499, str(error))
        except OrlopError as error:
            _log_failure(match, http, error)
            response = error_response(error, plain=plain)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # the edge: a defect in one request must not end the daemon
            log.exception("%s %s failed", http.method, http.path)
            response = error_response(InternalError(f"{type(error).__name__}: {error}"), plain=plain)
        if not response.prepared:
            for name, value in self._common.items():
                response.headers.setdefault(name, value)
        return response

    async def _serve(self, match: Match, request: ApiRequest) -> web.StreamResponse:
        with self._metrics.timed(match.route.method, match.route.path):
            if not self._authorization.active:
                return await match.route.handler(request)
            question = await self._authorization.before(request.http, request.connection)
            try:
                response = await match.route.handler(request)
            except OrlopError as error:
                await self._authorization.after(question, request.http.path, error_response(error))
                raise
            await self._authorization.after(question, request.http.path, response)
            return response


def _log_failure(match: Match, http: web.BaseRequest, error: OrlopError) -> None:
    status = status_of(error)
    level = logging.ERROR if status >= 500 else logging.DEBUG
    log.log(level, "%s %s: %d: %s", match.route.method, http.path, status, error)


def _make_request(message, payload, protocol, writer, task):  # type: ignore[no-untyped-def]
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=_MAX_JSON)
