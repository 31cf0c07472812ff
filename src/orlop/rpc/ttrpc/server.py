# SPDX-License-Identifier: Apache-2.0
"""A synchronous ttrpc server that lives in somebody's selector loop: no threads, no asyncio."""

import os
import select
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from orlop.api.ttrpc_pb2 import Request
from orlop.errdefs import DeadlineExceededError
from orlop.rpc.ttrpc import frame, methods

_READ = 65536
_MAX_BACKLOG = 16 << 20
"""Bytes of unsent replies after which a peer that does not read is dropped."""


class Timer(Protocol):
    """What `Loop.call_later` returns."""

    def cancel(self) -> None:
        """Do not call after all."""


class Loop(Protocol):
    """What the server needs of the loop it lives in. Events are epoll's."""

    def add(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call `callback(events)` whenever `fd` is ready."""

    def modify(self, fd: int, events: int) -> None:
        """Change the events waited for."""

    def remove(self, fd: int) -> None:
        """Forget `fd`, before it is closed."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call once after that time."""


class Call:
    """One call to be answered once with `reply` or `fail`, at once or later. Later answers are dropped."""

    __slots__ = ("_connection", "_stream", "_timer", "metadata", "method")

    def __init__(self, connection: "_Connection", stream: int, request: Request) -> None:
        self._connection: _Connection | None = connection
        self._stream = stream
        self._timer: Timer | None = None
        self.method = request.method
        self.metadata = {pair.key: pair.value for pair in request.metadata}

    @property
    def done(self) -> bool:
        """Whether it has been answered, or the peer is gone."""
        return self._connection is None

    def reply(self, response: Message) -> None:
        """Answer with success."""
        if self._connection is not None:
            self._finish(methods.encode_reply(self._stream, response))

    def fail(self, error: BaseException) -> None:
        """Answer with the status that stands for `error`."""
        if self._connection is not None:
            self._finish(methods.encode_error(self._stream, error))

    def limit(self, loop: Loop, seconds: float) -> None:
        """Answer with DEADLINE_EXCEEDED when nothing else has been answered after `seconds`."""
        self._timer = loop.call_later(
            seconds, lambda: self.fail(DeadlineExceededError(f"{self.method}: context deadline exceeded"))
        )

    def abandon(self) -> None:
        """Forget the peer, which is gone."""
        self._connection = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _finish(self, data: bytes) -> None:
        connection = self._connection
        self.abandon()
        if connection is not None:
            connection.calls.discard(self)
            connection.send(data)


Handler = Callable[[Any, Call], Message | None]
"""Serves one method: takes the request message, returns the response, or None when it answers the Call later."""


class Server:
    """Serves services on the connections of one listening socket.

    A handler that raises an OrlopError answers with its status; any other exception answers UNKNOWN and is told to
    `on_unexpected(method, error)`. Only peers of the same user, and root, are served.
    """

    def __init__(self, loop: Loop, on_unexpected: Callable[[str, Exception], None] | None = None) -> None:
        self.loop = loop
        self._on_unexpected = on_unexpected
        self._services: dict[str, tuple[ServiceDescriptor, Callable[[str], Handler | None]]] = {}
        self._connections: set[_Connection] = set()
        self._listener: socket.socket | None = None

    def add_service(
        self, service: ServiceDescriptor, handlers: Mapping[str, Handler] | Callable[[str], Handler | None]
    ) -> None:
        """Serve `service`: `handlers` by method name, or what finds the one for a name that the service has.

        A method without a handler is answered with UNIMPLEMENTED.
        """
        if isinstance(handlers, Mapping):
            for name in handlers:
                methods.method_of(service, name)
            handlers = handlers.get
        self._services[service.full_name] = (service, handlers)

    def listen(self, sock: socket.socket) -> None:
        """Accept connections on a listening Unix socket, which the server owns from now on."""
        sock.setblocking(False)
        self._listener = sock
        self.loop.add(sock.fileno(), select.EPOLLIN, self._accept)

    def serve(self, sock: socket.socket) -> None:
        """Serve one connected socket, which the server owns from now on."""
        sock.setblocking(False)
        self._connections.add(_Connection(self, sock))

    def close(self) -> None:
        """Stop listening and close every connection."""
        if self._listener is not None:
            self.loop.remove(self._listener.fileno())
            self._listener.close()
            self._listener = None
        for connection in list(self._connections):
            connection.close()

    @property
    def idle(self) -> bool:
        """Whether no reply is waiting to be sent."""
        return not any(connection.backlog for connection in self._connections)

    def _accept(self, _events: int) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # the peer went away between connect and accept
        _, uid, _ = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in (0, os.geteuid()):
            sock.close()
            return
        self.serve(sock)

    def dispatch(self, request: Request, call: Call) -> None:
        """Run the handler of one call and answer with what it returns or raises."""
        try:
            found = self._services.get(request.service)
            if found is None:
                raise methods.unknown_service(request.service)
            service, find = found
            method = methods.methods_of(service).get(request.method)
            handler = find(request.method) if method is not None else None
            if method is None or handler is None:
                raise methods.unknown_method(request.method)
            message = methods.decode_payload(request, method)
            response = handler(message, call)
            if response is not None:
                call.reply(response)
            elif request.timeout_nano > 0 and not call.done:
                call.limit(self.loop, request.timeout_nano / 1e9)
        except Exception as error:  # noqa: BLE001 - the edge: every error becomes a status
            self.unexpected(request.method, error)
            call.fail(error)

    def unexpected(self, method: str, error: Exception) -> None:
        """Report an error that is no OrlopError, that is, a bug."""
        if self._on_unexpected is not None and type(error).__module__ != "orlop.errdefs":
            self._on_unexpected(method, error)

    def forget(self, connection: "_Connection") -> None:
        """Called by a connection that has closed."""
        self._connections.discard(connection)


class _Connection:
    __slots__ = ("_decoder", "_last", "_out", "_server", "_sock", "_writing", "backlog", "calls")

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self._server = server
        self._sock: socket.socket | None = sock
        self._decoder = frame.Decoder()
        self._last = -1
        self._out: list[bytes] = []
        self._writing = False
        self.backlog = 0
        self.calls: set[Call] = set()
        server.loop.add(sock.fileno(), select.EPOLLIN, self._ready)

    def _ready(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._flush()
        if events & ~select.EPOLLOUT:
            self._read()

    def _read(self) -> None:
        if self._sock is None:
            return
        try:
            data = self._sock.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:  # whatever part of a frame came before, the peer is gone
            self.close()
            return
        for received in self._decoder.feed(data):
            try:
                request = methods.decode_request(received, self._last)
            except Exception as error:  # noqa: BLE001 - the edge: every error becomes a status
                self.send(methods.encode_error(received.stream, error))
                continue
            self._last = received.stream
            call = Call(self, received.stream, request)
            self.calls.add(call)
            self._server.dispatch(request, call)

    def send(self, data: bytes) -> None:
        if self._sock is None:
            return
        self._out.append(data)
        self.backlog += len(data)
        if not self._writing:
            self._flush()
        if self.backlog > _MAX_BACKLOG:
            self.close()

    def _flush(self) -> None:
        if self._sock is None:
            return
        while self._out:
            try:
                sent = self._sock.send(self._out[0])
            except BlockingIOError:
                break
            except OSError:
                self.close()
                return
            self.backlog -= sent
            if sent < len(self._out[0]):
                self._out[0] = self._out[0][sent:]
            else:
                del self._out[0]
        writing = bool(self._out)
        if writing != self._writing:
            self._writing = writing
            events = select.EPOLLIN | (select.EPOLLOUT if writing else 0)
            self._server.loop.modify(self._sock.fileno(), events)

    def close(self) -> None:
        if self._sock is None:
            return
        self._server.loop.remove(self._sock.fileno())
        self._sock.close()
        self._sock = None
        self._out.clear()
        self.backlog = 0
        for call in self.calls:
            call.abandon()
        self.calls.clear()
        self._server.forget(self)
