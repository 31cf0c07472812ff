# SPDX-License-Identifier: Apache-2.0
"""Between the event loop and the threads in which trees are read and written: streams of bytes, both ways."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Protocol

from orlop.errdefs import CanceledError


async def from_thread(pieces: Iterator[bytes], close: Callable[[], None]) -> AsyncGenerator[bytes, None]:
    """What a blocking iterator gives, each piece made in a thread while the one before is being used.

    `close` is called in the end, when no thread works on the iterator any more, however that end comes.
    """
    waiting: asyncio.Future[bytes | None] | None = None
    try:
        while True:
            waiting = waiting or _next(pieces)
            piece = await asyncio.shield(waiting)  # a thread cannot be cancelled
            if piece is None:
                return
            waiting = _next(pieces)
            yield piece
    finally:
        if waiting is not None:
            await asyncio.wait({waiting})
            waiting.exception()
        await asyncio.to_thread(_end, pieces, close)


def _next(pieces: Iterator[bytes]) -> "asyncio.Future[bytes | None]":
    return asyncio.ensure_future(asyncio.to_thread(next, pieces, None))


def _end(pieces: Iterator[bytes], close: Callable[[], None]) -> None:
    """Let the iterator's own cleaning up run before its descriptors are closed."""
    try:
        stop = getattr(pieces, "close", None)
        if stop is not None:
            stop()
    finally:
        close()


class Incoming(Protocol):
    """A stream of bytes for one thread. A piece is valid until the next one is asked for."""

    def __iter__(self) -> Iterator[bytes | memoryview]: ...

    def stop(self) -> None:
        """End it, from another thread: the one that waits for a piece gets a CanceledError."""
        ...


class Inlet:
    """A stream of bytes that the event loop feeds and one thread consumes.

    What arrives while the thread is busy is given to it at once: small pieces cost a change of threads only when
    the thread has nothing else to do. Beyond `limit` bytes the client is held back.
    """

    def __init__(self, limit: int = 8 << 20) -> None:
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._room = asyncio.Event()
        self._room.set()
        self._pieces: list[bytes] = []
        self._size = 0
        self._ended = False
        self._error: BaseException | None = None

    async def feed(self, chunks: AsyncIterator[bytes]) -> None:
        """Pass everything on. What the iterator raises, the thread raises."""
        try:
            async for chunk in chunks:
                self._put(chunk)
                await self._room.wait()
        except BaseException as error:
            self._end(error)
            raise
        self._end(None)

    def __iter__(self) -> Iterator[bytes]:
        """For the thread: what has come, in pieces. Raises what `feed` raised."""
        while True:
            with self._changed:
                while not self._pieces and not self._ended:
                    self._changed.wait()
                data = b"".join(self._pieces)
                self._pieces.clear()
                self._size = 0
            self._loop.call_soon_threadsafe(self._room.set)
            if data:
                yield data
            elif self._error is not None:
                raise CanceledError("the client went away") from self._error
            else:
                return

    def stop(self) -> None:
        """As `Incoming` has it."""
        self._end(asyncio.CancelledError())

    def _put(self, chunk: bytes) -> None:
        with self._changed:
            self._pieces.append(chunk)
            self._size += len(chunk)
            if self._size >= self._limit:
                self._room.clear()
            self._changed.notify()

    def _end(self, error: BaseException | None) -> None:
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify()


@asynccontextmanager
async def fed(chunks: AsyncIterator[bytes]) -> AsyncGenerator[Inlet, None]:
    """An inlet that is fed until the end of the block. What the iterator raises, the thread has raised."""
    incoming = Inlet()
    feeding = asyncio.ensure_future(incoming.feed(chunks))
    try:
        yield incoming
    finally:
        feeding.cancel()  # where it has not ended: what follows the archive, or after an error
        await asyncio.wait({feeding})
        if not feeding.cancelled():
            feeding.exception()
