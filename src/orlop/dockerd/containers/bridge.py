# SPDX-License-Identifier: Apache-2.0
"""Between the event loop and the threads in which trees are read and written: streams of bytes, both ways."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator


async def from_thread(pieces: Iterator[bytes], close: Callable[[], None]) -> AsyncIterator[bytes]:
    """What a blocking iterator gives, each piece made in a thread while the one before is being used.

    `close` is called in the end, when no thread works on the iterator any more, however that end comes.
    """
    waiting: asyncio.Future[bytes | None] | None = None
    try:
        while True:
            waiting = waiting or _next(pieces)
            piece = await waiting
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


def into_thread(chunks: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> Iterator[bytes]:
    """What an asynchronous iterator gives, for a thread that consumes it. Raises what the iterator raises."""

    async def following() -> bytes | None:
        return await anext(chunks, None)

    while (chunk := asyncio.run_coroutine_threadsafe(following(), loop).result()) is not None:
        yield chunk
