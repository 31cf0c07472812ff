# SPDX-License-Identifier: Apache-2.0
"""The open streams of the daemon: bounded queues between a client's call and whoever serves its request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from orlop.errdefs import AlreadyExistsError, InvalidArgumentError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from google.protobuf.any_pb2 import Any

T = TypeVar("T")
DEPTH = 16
"""Messages that wait in each direction; one that is full makes the other side wait."""


class QueuedStream:
    """A `client.streams.Stream`; the call feeds `incoming` and empties `outgoing`, and None ends either."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[Any | None] = asyncio.Queue(DEPTH)
        self.outgoing: asyncio.Queue[Any | None] = asyncio.Queue(DEPTH)
        self._ended = asyncio.Event()
        self._closing = False
        self._no_more = False

    async def send(self, message: Any) -> None:
        """Queue a message for the client."""
        if self._closing or self._ended.is_set():
            raise UnavailableError("stream is closed")
        try:
            self.outgoing.put_nowait(message)
        except asyncio.QueueFull:
            await self._unless_ended(self.outgoing.put(message))

    async def receive(self) -> Any | None:
        """The client's next message; None when it sends no more."""
        if self._no_more:
            return None
        try:
            message: Any | None = self.incoming.get_nowait()
        except asyncio.QueueEmpty:
            try:
                message = await self._unless_ended(self.incoming.get())
            except UnavailableError:
                message = None
        self._no_more = message is None
        return message

    def close(self) -> None:
        """End the stream once what was sent has left."""
        if not self._closing:
            self._closing = True
            try:
                self.outgoing.put_nowait(None)
            except asyncio.QueueFull:
                # The client is slow: the call looks at `closing` when the queue is empty.
                pass

    @property
    def closing(self) -> bool:
        """Whether nothing more will be sent."""
        return self._closing

    def end(self) -> None:
        """The call is over: wake everybody who waits."""
        self._ended.set()

    async def _unless_ended(self, work: Coroutine[object, object, T]) -> T:
        """Await `work`, but not for longer than the call lives. Raises UnavailableError."""
        task = asyncio.ensure_future(work)
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait((task, ended), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise UnavailableError("stream has been ended by the client")
        finally:
            task.cancel()
            ended.cancel()


class StreamManager:
    """The streams that are open, by namespace and id."""

    def __init__(self) -> None:
        self._streams: dict[tuple[str, str], QueuedStream] = {}

    def register(self, namespace: str, id: str) -> QueuedStream:
        """Open a stream. Raises AlreadyExistsError, InvalidArgumentError for an empty id."""
        if not id:
            raise InvalidArgumentError("stream id must not be empty")
        if (namespace, id) in self._streams:
            raise AlreadyExistsError(f"stream {id} already exists")
        stream = self._streams[namespace, id] = QueuedStream()
        return stream

    def unregister(self, namespace: str, id: str) -> None:
        """Forget a stream whose call is over."""
        self._streams.pop((namespace, id)).end()

    def get(self, namespace: str, id: str) -> QueuedStream:
        """An open stream. Raises NotFoundError."""
        stream = self._streams.get((namespace, id))
        if stream is None:
            raise NotFoundError(f'stream "{id}" not found')
        return stream
