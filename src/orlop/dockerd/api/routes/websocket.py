# SPDX-License-Identifier: Apache-2.0
"""Attaching by websocket: the raw output in binary messages one way, input in messages the other way."""

import asyncio

from aiohttp import WSMsgType, web

from orlop.dockerd.api.request import ApiRequest
from orlop.dockerd.api.router import Route
from orlop.dockerd.api.streams import or_gone
from orlop.dockerd.containers.attach import Attach, AttachRequest
from orlop.errdefs import CanceledError, InvalidArgumentError
from orlop.rpc import stdcopy

_GOODBYE_SECONDS = 2.0
"""How long a client may take to answer that the connection is closed."""


class WebSocketRoutes:
    """The endpoint."""

    def __init__(self, attach: Attach) -> None:
        self._attach = attach

    def routes(self) -> list[Route]:
        """The table."""
        return [Route("GET", "/containers/{id}/attach/ws", self.attach)]

    async def attach(self, request: ApiRequest) -> web.StreamResponse:
        """GET /containers/{id}/attach/ws."""
        chosen = request.version >= (1, 42)  # before, all three streams were attached
        wanted = AttachRequest(
            stdin=request.flag("stdin") or not chosen,
            stdout=request.flag("stdout") or not chosen,
            stderr=request.flag("stderr") or not chosen,
            stream=request.flag("stream"),
            logs=request.flag("logs"),
            detach_keys=request.query("detachKeys"),
        )
        tty = self._attach.check(request.params["id"], wanted)
        socket = web.WebSocketResponse(compress=False, timeout=_GOODBYE_SECONDS)
        socket.headers.update(request.common_headers)
        if not socket.can_prepare(request.http):
            raise InvalidArgumentError("not a websocket handshake: Upgrade and Sec-WebSocket-Key are needed")
        await socket.prepare(request.http)
        client = _Client(socket, multiplexed=not tty, binary=request.version >= (1, 28))
        listening = asyncio.ensure_future(client.listen())
        try:
            await or_gone(request, self._attach(request.params["id"], wanted, client))
        except CanceledError:
            pass  # the client has left, or the daemon is to end
        finally:
            listening.cancel()
            await asyncio.wait({listening})
            await socket.close()
        return socket


class _Client:
    """The client's end, as attaching wants it; both outputs come as one."""

    def __init__(self, socket: web.WebSocketResponse, *, multiplexed: bool, binary: bool) -> None:
        self.left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._socket = socket
        self._decoder = stdcopy.Decoder() if multiplexed else None
        self._binary = binary
        self._input: asyncio.Queue[bytes] = asyncio.Queue(maxsize=64)
        self._output: list[bytes] = []

    async def listen(self) -> None:
        """Take messages until the client goes away or closes."""
        async for message in self._socket:
            if message.type in (WSMsgType.BINARY, WSMsgType.TEXT):
                data = message.data
                await self._input.put(data if isinstance(data, bytes) else data.encode())
        if not self.left.done():
            self.left.set_result(None)
        await self._input.put(b"")

    async def read(self) -> bytes:
        """The next message; empty after the last one."""
        while True:
            data = await self._input.get()
            if data or self.left.done():
                return data

    def write(self, data: bytes) -> None:
        """Queue output for `drain`."""
        if self._decoder is not None:
            data = b"".join(payload for _, payload in self._decoder.feed(data))
        self._output.append(data)

    async def drain(self) -> None:
        """Send what is queued and wait for room. Raises ConnectionError."""
        data = b"".join(self._output)
        self._output.clear()
        if not data:
            return
        if self._binary:
            await self._socket.send_bytes(data)
        else:
            await self._socket.send_str(data.decode(errors="replace"))
