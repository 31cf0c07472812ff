# SPDX-License-Identifier: Apache-2.0
"""One call of a gRPC server: messages in and out, and the task that runs its handler."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import deque
from types import AsyncGeneratorType, CoroutineType
from typing import TYPE_CHECKING, Any, NamedTuple

from orlop.errdefs import (
    DeadlineExceededError,
    NotImplementedByUsError,
    OrlopError,
    ResourceExhaustedError,
    UnavailableError,
)
from orlop.rpc import status
from orlop.rpc.grpc_server import head as heads
from orlop.rpc.grpc_server.head import MalformedError
from orlop.rpc.http2.stream import Stream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from orlop.rpc.grpc_server.head import Head, Metadata
    from orlop.rpc.grpc_server.server import Observed, Server
    from orlop.rpc.http2.connection import Connection

    _Later = AsyncGenerator[Any, None] | Coroutine[Any, Any, Any]

_EXPECTED = (OrlopError, MalformedError, asyncio.CancelledError)
_PREFIX = struct.Struct(">BI")  # whether the message is compressed, and its length
_AHEAD = 1 << 20  # bytes of messages that may wait for the handler before the client waits too


class Method(NamedTuple):
    """How a method is served; what the generated `add_…Servicer_to_server` says about it.

    One that is `plain` is no coroutine function: it is called as soon as its message is there, without a task, and
    returns its answer, or an iterator of answers. A coroutine or an async generator that it returns gets a task.
    """

    path: str
    behaviour: Callable[[Any, Any], Any]
    many_requests: bool
    many_answers: bool
    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]
    plain: bool


class Call(Stream):
    """The context that handlers get, and, where there are many requests, what they iterate.

    A handler may answer with bytes instead of a message: they are sent as they are.
    """

    def __init__(self, server: Server, connection: Connection[Head], number: int, head: Head) -> None:
        super().__init__(connection, number)
        self._server = server
        self._head = head
        self._method: Method | None = None
        self._started = False
        self._expired = False
        self._failure: OrlopError | None = None  # why the client's messages cannot be read
        self._parts: list[bytes] = []  # of a message that is not complete
        self._have, self._need = 0, _PREFIX.size
        self._messages: deque[bytes] = deque()
        self._ahead = 0
        self._arrived: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    # What the connection calls.

    def begin(self, ended: bool) -> None:
        """Look for the method, and let it begin if it takes many messages."""
        self._ended = ended
        if not self._head.is_grpc:
            self.finish(heads.NOT_GRPC)
            return
        try:
            self._method = self._server.method(self._head)
        except (OrlopError, MalformedError) as error:
            self._end(error)
            return
        if self._head.timeout is not None:
            self._timer = asyncio.get_running_loop().call_later(self._head.timeout, self._expire)
        if ended or self._method.many_requests:
            self._run(self._method)

    def receive(self, data: bytes, ended: bool) -> None:
        """Take what the client has sent."""
        if self._method is None:
            return
        if data and self._failure is None:
            try:
                self._assemble(data)
            except OrlopError as error:
                self._failure = error
                ended = True
        if ended:
            self._ended = True
            if self._task is None:
                self._run(self._method)
        if self._ahead < _AHEAD:
            self.give_back()
        if self._arrived is not None and (self._messages or self._ended) and not self._arrived.done():
            self._arrived.set_result(None)

    def lost(self) -> None:
        """Nobody waits for the answer."""
        super().lost()
        if self._task is not None:
            self._task.cancel()

    # What handlers call.

    def invocation_metadata(self) -> Metadata:
        """What the client sent besides its messages."""
        return self._head.metadata

    async def send_initial_metadata(self, _metadata: object = ()) -> None:
        """Send the head of the answer before there is a message."""
        self._start()

    def __aiter__(self) -> Call:
        return self

    async def __anext__(self) -> Any:
        while not self._messages:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                raise StopAsyncIteration
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        data = self._messages.popleft()
        self._ahead -= len(data)
        if self._ahead < _AHEAD:
            self.give_back()
        assert self._method is not None
        return _decode(self._method, data)

    # The task.

    @property
    def task(self) -> asyncio.Task[None] | None:
        """What runs the handler, if it has begun."""
        return self._task

    def _run(self, method: Method) -> None:
        observed = self._server.observe(method)
        result: _Later | None = None
        if method.plain and not self._server.has_unbegun:  # calls begin in the order in which they come
            result = self._serve_plain(method, observed)
            if result is None:
                return
        self._task = asyncio.get_running_loop().create_task(self._serve(method, observed, result))
        self._server.running(self._task)

    def _serve_plain(self, method: Method, observed: Observed | None) -> _Later | None:
        """Call the handler and answer; or give back its result, if that is to be waited for."""
        error: Exception | None = None
        try:
            result = method.behaviour(self._request(method, observed), self)
            if isinstance(result, (CoroutineType, AsyncGeneratorType)):
                return result
            if method.many_answers:
                for answer in result:
                    self._answer(method, answer, observed)
            else:
                self._answer(method, result, observed, last=True)
        except Exception as caught:  # noqa: BLE001 - the edge: every error becomes a status
            error = caught
        self._end(error, observed)
        return None

    async def _serve(self, method: Method, observed: Observed | None, begun: _Later | None) -> None:
        assert self._task is not None
        self._server.begun(self._task)
        if method.plain and begun is None:
            begun = self._serve_plain(method, observed)
            if begun is None:
                return
        error: BaseException | None = None
        try:
            result: Any = method.behaviour(self._request(method, observed), self) if begun is None else begun
            if method.many_answers:
                async with contextlib.aclosing(result):
                    async for answer in result:
                        self._answer(method, answer, observed)
                        if self.clogged:
                            await self.drained()
            else:
                self._answer(method, await result, observed, last=True)
        except Exception as caught:  # noqa: BLE001 - the edge: every error becomes a status
            error = caught
        except asyncio.CancelledError as caught:
            error = self._why(caught)
        self._end(error, observed)

    def _why(self, cancelled: asyncio.CancelledError) -> BaseException:
        """The error of a call that was cancelled."""
        if self._expired:
            return DeadlineExceededError("Deadline Exceeded")
        return UnavailableError("the server is shutting down") if self._server.stopping else cancelled

    def _request(self, method: Method, observed: Observed | None) -> Any:
        request = self if method.many_requests else self._only_message(method)
        return request if observed is None else observed.requests(request)

    def _only_message(self, method: Method) -> Any:
        if self._failure is not None:
            raise self._failure
        if len(self._messages) != 1:
            raise MalformedError(f"{method.path}: expected one message, got {len(self._messages)}")
        return _decode(method, self._messages[0])

    def _answer(self, method: Method, answer: Any, observed: Observed | None, *, last: bool = False) -> None:
        data = answer if type(answer) is bytes else method.encode(answer)
        if len(data) > self._server.max_send:
            raise ResourceExhaustedError(f"Sent message larger than max ({len(data)} vs. {self._server.max_send})")
        data = _PREFIX.pack(0, len(data)) + data
        if last and not self._started:
            self._started = True
            self.answer(heads.START, data, heads.DONE)
        else:
            self._start()
            self.send(data)
        if observed is not None:
            observed.sent()

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self.start(heads.START)

    def _end(self, error: BaseException | None, observed: Observed | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if error is None:
            self.finish(heads.end(status.OK, alone=not self._started))
        else:
            if self._method is not None and not isinstance(error, _EXPECTED):
                self._server.report(self._method.path, error)
            self.finish(heads.end(_code(error), status.message_of(error), alone=not self._started))
        if observed is not None:
            observed.ended(status.OK if error is None else _code(error))

    def _expire(self) -> None:
        self._expired = True
        if self._task is not None:
            self._task.cancel()
        else:
            self._end(DeadlineExceededError("Deadline Exceeded"))

    # Messages from the client.

    def _assemble(self, data: bytes) -> None:
        """Split what comes into messages. Raises ResourceExhaustedError, NotImplementedByUsError."""
        if self._parts:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return
            data = b"".join(self._parts)
            self._parts.clear()
        at, need = 0, _PREFIX.size
        while len(data) - at >= _PREFIX.size:
            compressed, length = _PREFIX.unpack_from(data, at)
            if compressed:
                raise NotImplementedByUsError("compressed messages are not served: use grpc-encoding identity")
            if length > self._server.max_receive:
                limit = self._server.max_receive
                raise ResourceExhaustedError(f"Received message larger than max ({length} vs. {limit})")
            need = _PREFIX.size + length
            if len(data) - at < need:
                break
            self._messages.append(data[at + _PREFIX.size : at + need])
            self._ahead += length
            at, need = at + need, _PREFIX.size
        if at < len(data):
            self._parts.append(data[at:])
            self._have, self._need = len(data) - at, need


def _decode(method: Method, data: bytes) -> Any:
    try:
        return method.decode(data)
    except Exception as error:  # noqa: BLE001 - protobuf's DecodeError, or what another decoder raises
        raise MalformedError(f"{method.path}: the message cannot be read: {error}") from None


def _code(error: BaseException) -> int:
    if isinstance(error, MalformedError):
        return status.INTERNAL
    return status.CANCELLED if isinstance(error, asyncio.CancelledError) else status.code_of(error)
