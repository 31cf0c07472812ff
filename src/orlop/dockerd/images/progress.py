# SPDX-License-Identifier: Apache-2.0
"""Progress of a transfer as the Engine API's stream of messages."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from orlop.containerd.client.fetch import Progress

INTERVAL = 0.1
"""Seconds between two messages about one layer's bytes."""

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]
T = TypeVar("T")


class Messages:
    """A queue of messages. Those about a layer's bytes come at most every `INTERVAL`, the others always."""

    def __init__(self, statuses: Mapping[str, str]) -> None:
        """`statuses` are Docker's words for the steps; a step without one makes no message."""
        self._statuses = statuses
        self._queue: asyncio.Queue[Message | None] = asyncio.Queue()
        self._last: dict[str, float] = {}

    def put(self, message: Message) -> None:
        """Any message."""
        self._queue.put_nowait(message)

    def layer(self, progress: Progress) -> None:
        """A step of a layer."""
        if progress.step not in self._statuses:
            return
        layer = progress.descriptor.digest.partition(":")[2][:12]
        detail: dict[str, int] = {}
        if progress.step in ("downloading", "uploading", "extracting"):
            now = time.monotonic()
            if now - self._last.get(layer, 0.0) < INTERVAL and progress.current < progress.total:
                return
            self._last[layer] = now
            detail = {"current": progress.current, "total": progress.total}
        self.put(
            {
                "status": self._statuses[progress.step].format(source=progress.source),
                "progressDetail": detail,
                "id": layer,
            }
        )

    async def during(self, work: Coroutine[Any, Any, T], send: Send, last: Callable[[T], list[Message]]) -> T:
        """Do the work, sending the messages meanwhile, and `last` of its result after it.

        A client that is gone (`send` raises) ends the work; the work's own error is raised as it is.
        """
        sending = asyncio.create_task(self._forward(send))
        working = asyncio.create_task(work)
        try:
            await asyncio.wait({sending, working}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                for message in last(working.result()):
                    self.put(message)
                self._queue.put_nowait(None)
            await sending
            return await working
        finally:
            for task in (working, sending):
                task.cancel()
            await asyncio.wait({working, sending})

    async def _forward(self, send: Send) -> None:
        while (message := await self._queue.get()) is not None:
            await send(message)
