# SPDX-License-Identifier: Apache-2.0
"""Streams of messages that a client opens under a name, and bytes over them.

The receiver of bytes opens a window, the sender stays within it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from orlop.api.transfer_types_pb2 import Data, WindowUpdate
from orlop.containerd.client import typeurl
from orlop.errdefs import InvalidArgumentError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf.any_pb2 import Any

WINDOW = 1 << 20  # bytes that a sender may be ahead of us
PIECE = 256 << 10  # bytes in one message


class Stream(Protocol):
    """One end of a stream, of messages in both directions. It ends with `close`, or with the other side."""

    async def send(self, message: Any) -> None:
        """Queue a message; waits while the other side is slow. Raises UnavailableError once it has ended."""
        ...

    async def receive(self) -> Any | None:
        """The other side's next message; None when it sends no more."""
        ...

    def close(self) -> None:
        """Send nothing more; what was sent arrives."""
        ...


async def receive_bytes(stream: Stream) -> AsyncIterator[bytes]:
    """What the other side sends, until its end. Raises InvalidArgumentError for a message that is no data."""
    window = 0
    try:
        while True:
            if window <= WINDOW // 2:
                await _open_window(stream, WINDOW - window)
                window = WINDOW
            message = await stream.receive()
            if message is None:
                return
            data = typeurl.unpack(message, Data).data
            window -= len(data)
            if window < 0:
                raise InvalidArgumentError("the sender of a stream went beyond its window")
            yield data
    finally:
        stream.close()


async def _open_window(stream: Stream, size: int) -> None:
    try:
        await stream.send(typeurl.pack(WindowUpdate(update=size)))
    except UnavailableError:
        pass  # the sender is done and gone; what it sent may still wait for us


async def send_bytes(stream: Stream, source: AsyncIterator[bytes]) -> None:
    """Send all of a source, as fast as the other side takes it, and end the stream.

    Raises UnavailableError when the other side has gone before the end.
    """
    window = 0
    async for data in source:
        view = memoryview(data)
        while view:
            if not window:
                message = await stream.receive()
                if message is None:
                    raise UnavailableError("the receiver of a stream has gone")
                window += typeurl.unpack(message, WindowUpdate).update
            piece = view[: min(window, PIECE)]
            await stream.send(typeurl.pack(Data(data=bytes(piece))))
            window -= len(piece)
            view = view[len(piece) :]
    stream.close()
