# SPDX-License-Identifier: Apache-2.0
"""ttrpc for asyncio: a client with any number of calls under way, and a server."""

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from orlop.api.ttrpc_pb2 import Request
from orlop.errdefs import CanceledError, DeadlineExceededError, PermissionDeniedError, UnavailableError
from orlop.rpc.ttrpc import frame, methods
from orlop.rpc.ttrpc.client import socket_path

Handler = Callable[[Any, dict[str, str]], Awaitable[Message]]
"""Serves one method: takes the request message and the call's metadata, returns the response message."""


class Client(asyncio.Protocol):
    """One connection to a ttrpc server. Make it with `connect` or `wrap`."""

    def __init__(self, on_close: Callable[[], None] | None = None) -> None:
        self._on_close = on_close
        self._transport: asyncio.Transport | None = None
        self._decoder = frame.Decoder()
        self._stream = -1
        self._waiting: dict[int, asyncio.Future[frame.Frame]] = {}
        self._closed = asyncio.get_running_loop().create_future()

    @classmethod
    async def connect(cls, address: str, *, on_close: Callable[[], None] | None = None) -> "Client":
        """Connect to `unix:///path` or a path; `on_close` is called once when the connection is gone.

        Raises UnavailableError.
        """
        loop = asyncio.get_running_loop()
        try:
            _, client = await loop.create_unix_connection(lambda: cls(on_close), socket_path(address))
        except OSError as error:
            raise UnavailableError(f"connect to {address}: {error.strerror or error}") from None
        return client

    @classmethod
    async def wrap(cls, sock: socket.socket, *, on_close: Callable[[], None] | None = None) -> "Client":
        """Speak on a socket that is connected already."""
        loop = asyncio.get_running_loop()
        _, client = await loop.create_unix_connection(lambda: cls(on_close), sock=sock)
        return client

    async def call(
        self,
        service: ServiceDescriptor,
        method: str,
        request: Message,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Any:
        """Make one call and return its response message; calls may overlap.

        `timeout` is in seconds. Raises the errdefs error of the peer's status, UnavailableError when the
        connection is or gets lost, DeadlineExceededError.
        """
        types = methods.method_of(service, method)
        if self._transport is None:
            raise UnavailableError(f"{method}: ttrpc: closed")
        self._stream += 2
        stream = self._stream
        data = methods.encode_request(stream, service, method, request, timeout=timeout, metadata=metadata)
        future: asyncio.Future[frame.Frame] = asyncio.get_running_loop().create_future()
        self._waiting[stream] = future
        self._transport.write(data)
        try:
            async with asyncio.timeout(timeout):
                answer = await future
        except TimeoutError:
            raise DeadlineExceededError(f"{method}: no answer within {timeout} s") from None
        finally:
            self._waiting.pop(stream, None)
        return methods.decode_response(answer, types)

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return self._closed.done()

    async def wait_closed(self) -> None:
        """Return when the connection is gone, for whatever reason."""
        await asyncio.shield(self._closed)

    async def close(self) -> None:
        """Close the connection; calls under way fail with UnavailableError."""
        if self._transport is not None:
            self._transport.close()
            await self.wait_closed()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        for answer in self._decoder.feed(data):
            future = self._waiting.get(answer.stream)
            if future is not None and not future.done():
                future.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._transport = None
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(UnavailableError(f"ttrpc: closed{f': {exc}' if exc else ''}"))
        if not self._closed.done():
            self._closed.set_result(None)
        if self._on_close is not None:
            self._on_close()


class Server:
    """Serves services on Unix sockets to peers of the same user (and root)."""

    def __init__(self, on_unexpected: Callable[[str, Exception], None] | None = None) -> None:
        self._services: dict[str, tuple[ServiceDescriptor, Mapping[str, Handler]]] = {}
        self._on_unexpected = on_unexpected
        self._connections: set[_Connection] = set()
        self._listeners: list[asyncio.Server] = []

    def add_service(self, service: ServiceDescriptor, handlers: Mapping[str, Handler]) -> None:
        """Serve `service`: `handlers` by method name. A method without one is answered with UNIMPLEMENTED."""
        for name in handlers:
            methods.method_of(service, name)
        self._services[service.full_name] = (service, handlers)

    async def listen(self, sock: socket.socket) -> None:
        """Accept connections on a listening Unix socket, until `close`."""
        loop = asyncio.get_running_loop()
        # not create_unix_server, which from Python 3.13 on removes the socket's file when it closes
        self._listeners.append(await loop.create_server(lambda: _Connection(self), sock=sock))

    async def close(self) -> None:
        """Stop listening, cancel the calls under way and close every connection."""
        for listener in self._listeners:
            listener.close()
        tasks = [task for connection in self._connections for task in connection.stop()]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def dispatch(self, call: Request) -> Message:
        """Run the handler of one call. Raises what the handler raises, NotImplementedByUsError without one."""
        found = self._services.get(call.service)
        if found is None:
            raise methods.unknown_service(call.service)
        service, handlers = found
        handler = handlers.get(call.method)
        if handler is None:
            raise methods.unknown_method(call.method)
        request = methods.decode_payload(call, methods.method_of(service, call.method))
        timeout = call.timeout_nano / 1e9 if call.timeout_nano > 0 else None
        try:
            async with asyncio.timeout(timeout):
                return await handler(request, {pair.key: pair.value for pair in call.metadata})
        except TimeoutError:
            raise DeadlineExceededError(f"{call.method}: context deadline exceeded") from None

    def unexpected(self, method: str, error: Exception) -> None:
        """Report an error that is no OrlopError, that is, a bug."""
        if self._on_unexpected is not None:
            self._on_unexpected(method, error)


class _Connection(asyncio.Protocol):
    def __init__(self, server: Server) -> None:
        self._server = server
        self._decoder = frame.Decoder()
        self._last = -1
        self._transport: asyncio.Transport | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        try:
            check_peer(transport.get_extra_info("socket"))
        except PermissionDeniedError as error:
            self._server.unexpected("accept", error)
            transport.abort()
            return
        self._transport = transport
        self._server._connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        for received in self._decoder.feed(data):
            try:
                call = methods.decode_request(received, self._last)
            except Exception as error:  # noqa: BLE001 - the edge: every error becomes a status
                self._transport.write(methods.encode_error(received.stream, error))
                continue
            self._last = received.stream
            task = asyncio.get_running_loop().create_task(self._serve(received.stream, call))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, stream: int, call: Request) -> None:
        try:
            data = methods.encode_reply(stream, await self._server.dispatch(call))
        except asyncio.CancelledError:
            self._write(methods.encode_error(stream, CanceledError(f"{call.method}: context canceled")))
            raise
        except Exception as error:  # noqa: BLE001 - the edge: every error becomes a status
            if type(error).__module__ != "orlop.errdefs":
                self._server.unexpected(call.method, error)
            data = methods.encode_error(stream, error)
        self._write(data)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def stop(self) -> list[asyncio.Task[None]]:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if self._transport is not None:
            self._transport.close()
        return tasks

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._server._connections.discard(self)
        for task in self._tasks:
            task.cancel()


def check_peer(sock: Any) -> None:
    """Raise PermissionDeniedError unless the peer of a Unix socket runs as this user or as root (SO_PEERCRED)."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _, uid, _ = struct.unpack("iII", raw)
    if uid not in (0, os.geteuid()):
        raise PermissionDeniedError(f"peer with uid {uid} may not connect")
