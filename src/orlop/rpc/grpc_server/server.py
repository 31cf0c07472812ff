# SPDX-License-Identifier: Apache-2.0
"""Serves the servicers of generated code on Unix sockets.

Why not grpcio's server: a call takes it half a millisecond of CPU, most of it in threads that wake each other, and
a `ctr run` makes forty calls (figures in docs/dependencies.md).
"""

from __future__ import annotations

import asyncio
from inspect import isasyncgenfunction, iscoroutinefunction
from typing import TYPE_CHECKING, Any, Protocol

from orlop.errdefs import NotImplementedByUsError
from orlop.rpc.grpc_server.call import Call, Method
from orlop.rpc.grpc_server.head import Head, MalformedError, interpret
from orlop.rpc.http2.connection import Connection

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

DEFAULT_MAX_RECEIVE = 16 << 20
DEFAULT_MAX_SEND = 16 << 20
_FAREWELL = 1.0  # seconds that peers are given to read the last of what was sent


class Observed(Protocol):
    """Is told of one call."""

    def requests(self, request: Any) -> Any:
        """Give the handler this instead of its message, or of the iterator of its messages."""
        ...

    def sent(self) -> None:
        """A message has been sent."""
        ...

    def ended(self, code: int) -> None:
        """The call is over, with this status code."""
        ...


class Server:
    """One server. The generated `add_…Servicer_to_server(servicer, server)` adds services to it.

    A handler that raises an OrlopError ends its call with that error's status; `on_unexpected(method, error)` is
    told of any other error, which is a bug and becomes UNKNOWN. `max_receive`, `max_send`: bytes of a message.
    """

    def __init__(
        self,
        on_unexpected: Callable[[str, BaseException], None] | None = None,
        observe: Callable[[Method], Observed] | None = None,
        max_receive: int = DEFAULT_MAX_RECEIVE,
        max_send: int = DEFAULT_MAX_SEND,
    ) -> None:
        self.max_receive = max_receive
        self.max_send = max_send
        self._on_unexpected = on_unexpected
        self._observe = observe
        self._methods: dict[str, Method] = {}
        self._services: set[str] = set()
        self._listeners: list[asyncio.Server] = []
        self._connections: set[Connection[Head]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._unbegun: set[asyncio.Task[None]] = set()
        self.stopping = False
        self._nobody: asyncio.Future[None] | None = None  # done when the last connection is gone

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Called by generated code, which says the same once more in `add_registered_method_handlers`."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Serve a service; called by generated code."""
        self._services.add(service)
        for name, one in handlers.items():
            behaviour = one.unary_unary or one.unary_stream or one.stream_unary or one.stream_stream
            self._methods[f"/{service}/{name}"] = Method(
                f"/{service}/{name}",
                behaviour,
                one.request_streaming,
                one.response_streaming,
                one.request_deserializer or bytes,
                one.response_serializer or bytes,
                not (iscoroutinefunction(behaviour) or isasyncgenfunction(behaviour) or one.request_streaming),
            )

    async def listen(self, sock: socket.socket) -> None:
        """Accept connections on a listening Unix socket, until `stop`."""
        loop = asyncio.get_running_loop()
        # not create_unix_server, which from Python 3.13 on removes the socket's file when it closes
        self._listeners.append(await loop.create_server(self._connect, sock=sock))

    async def stop(self, grace: float = 0.0) -> None:
        """Accept nothing more; calls under way have `grace` seconds to end before they are cancelled."""
        for listener in self._listeners:
            listener.close()
        for connection in self._connections:
            connection.go_away()
        if self._tasks and grace:
            await asyncio.wait(self._tasks, timeout=grace)
        self.stopping = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for connection in list(self._connections):
            connection.close()
        if self._connections:
            self._nobody = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._nobody}, timeout=_FAREWELL)
        for connection in list(self._connections):
            connection.abort()

    # What connections and calls call.

    def method(self, head: Head) -> Method:
        """What a request asks for. Raises NotImplementedByUsError, MalformedError."""
        if head.fault:
            raise MalformedError(head.fault)
        found = self._methods.get(head.path)
        if found is None:
            service, slash, name = head.path.removeprefix("/").rpartition("/")
            if not slash:
                raise MalformedError(f'malformed method name: "{head.path}"')
            if service in self._services:
                raise NotImplementedByUsError(f"unknown method {name} for service {service}")
            raise NotImplementedByUsError(f"unknown service {service}")
        return found

    def observe(self, method: Method) -> Observed | None:
        """A call of this method begins."""
        return self._observe(method) if self._observe is not None else None

    def running(self, task: asyncio.Task[None]) -> None:
        """Keep the task of a call while it runs."""
        self._tasks.add(task)
        self._unbegun.add(task)
        task.add_done_callback(self._ended)

    def begun(self, task: asyncio.Task[None]) -> None:
        """The task has taken its first step."""
        self._unbegun.discard(task)

    @property
    def has_unbegun(self) -> bool:
        """Whether there are calls whose task has still to take its first step."""
        return bool(self._unbegun)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._unbegun.discard(task)

    def report(self, path: str, error: BaseException) -> None:
        """Tell of an error that is a bug."""
        if self._on_unexpected is not None:
            self._on_unexpected(path, error)

    def _connect(self) -> Connection[Head]:
        connection = Connection(interpret, lambda where, number, head: Call(self, where, number, head), self._gone)
        self._connections.add(connection)
        return connection

    def _gone(self, connection: Connection[Head]) -> None:
        self._connections.discard(connection)
        if self._nobody is not None and not self._connections and not self._nobody.done():
            self._nobody.set_result(None)
