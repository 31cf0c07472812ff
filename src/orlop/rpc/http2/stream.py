# SPDX-License-Identifier: Apache-2.0
"""One stream of a server's HTTP/2 connection: what waits to be sent, and how much the peer may send."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from orlop.rpc.http2 import frames
from orlop.rpc.http2.connection import STREAM_WINDOW
from orlop.rpc.http2.frames import ConnectionFault

if TYPE_CHECKING:
    from orlop.rpc.http2.connection import Connection


class Stream:
    """Extend it: `begin`, `receive` and `lost` are called by the connection.

    `answer`, `start`, `send`, and `finish` may be called until the stream is over; later they do nothing.
    """

    def __init__(self, connection: Connection[Any], number: int) -> None:
        self.id = number
        self.window = connection.stream_window
        self.over = False
        self._connection = connection
        self._pending: deque[bytes | memoryview] = deque()
        self._trailers: bytes | None = None
        self._drained: asyncio.Future[None] | None = None
        self._ended = False  # the peer has sent everything
        self._taken = 0  # bytes that the peer has sent and not been given back

    # What the connection calls.

    def begin(self, ended: bool) -> None:
        """The stream is open; `ended` if the peer will send nothing."""
        raise NotImplementedError

    def receive(self, data: bytes, ended: bool) -> None:
        """Some bytes have come, the last ones if `ended`."""
        raise NotImplementedError

    def lost(self) -> None:
        """The peer has reset the stream, or is gone. Extend it."""
        self.over = True
        self._pending.clear()
        self._wake()

    def took(self, size: int) -> None:
        """Count what a frame takes of the window. Raises ConnectionFault when it was too small."""
        self._taken += size
        if self._taken > STREAM_WINDOW:
            raise ConnectionFault(frames.FLOW_CONTROL_ERROR, f"stream {self.id} sends more than its window")

    def pump(self) -> None:
        """Send of what is waiting as much as the windows allow."""
        connection, pending = self._connection, self._pending
        while pending:
            allowed = min(self.window, connection.may_send(), connection.frame_size)
            if allowed <= 0:
                if self.window > 0:
                    connection.wait(self)
                return
            data = pending[0]
            if len(data) <= allowed:
                pending.popleft()
            else:
                rest = memoryview(data)  # the rest of a large message is not copied for each of its frames
                data, pending[0] = rest[:allowed], rest[allowed:]
            self.window -= len(data)
            connection.window -= len(data)
            connection.write(frames.head(len(data), frames.DATA, 0, self.id) + data)
        self._wake()
        if self._trailers is not None:
            self._finish(self._trailers)

    # What the owner of the stream calls.

    def start(self, block: bytes) -> None:
        """Send the header block of an answer whose data follows."""
        if not self.over:
            self._connection.write(frames.head(len(block), frames.HEADERS, frames.END_HEADERS, self.id) + block)

    def send(self, data: bytes) -> None:
        """Send bytes, now or when the peer's window allows it; see `drained`."""
        if not self.over:
            self._pending.append(data)
            self.pump()

    def answer(self, block: bytes, data: bytes, trailers: bytes) -> None:
        """All of an answer: `start`, `send` and `finish`."""
        connection, size = self._connection, len(data)
        allowed = min(self.window, connection.may_send(), connection.frame_size)
        if size > allowed or self._pending or self.over:
            self.start(block)
            self.send(data)
            self.finish(trailers)
            return
        connection.window -= size
        connection.write(
            frames.head(len(block), frames.HEADERS, frames.END_HEADERS, self.id)
            + block
            + frames.head(size, frames.DATA, 0, self.id)
            + data
        )
        self._finish(trailers)

    @property
    def clogged(self) -> bool:
        """Whether something waits for the peer."""
        return bool(self._pending)

    async def drained(self) -> None:
        """Return when nothing waits for the peer any more, or the stream is over."""
        while self._pending:
            if self._drained is None:
                self._drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drained)

    def finish(self, block: bytes) -> None:
        """Send a last header block after all data; the stream is over then."""
        if self.over:
            return
        self._trailers = block
        if not self._pending:
            self._finish(block)

    def give_back(self) -> None:
        """Let the peer send again what has been taken so far, when that is worth a frame."""
        if self._taken >= STREAM_WINDOW // 2 and not self._ended and not self.over:
            self._connection.write(frames.window_update(self.id, self._taken))
            self._taken = 0

    def _finish(self, block: bytes) -> None:
        flags = frames.END_HEADERS | frames.END_STREAM
        last = frames.head(len(block), frames.HEADERS, flags, self.id) + block
        if not self._ended:  # the peer need not send the rest (RFC 9113, section 8.1)
            last += frames.rst_stream(self.id, frames.NO_ERROR)
        connection = self._connection
        connection.write(last, soon=False)
        self.over = True
        connection.forget(self)

    def _wake(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None
