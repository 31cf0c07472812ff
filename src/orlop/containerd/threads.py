# SPDX-License-Identifier: Apache-2.0
"""Blocking work of a request in a worker thread, never left behind by a cancelled request."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


async def in_thread(workers: Executor, work: Callable[[], T], cancel: Callable[[], None] | None = None) -> T:
    """Run `work` in a worker thread and await it.

    When the caller is cancelled, `cancel` is called, and the cancellation goes on only after the work has ended:
    so the caller's cleanup never closes a file that a thread still writes.
    """
    future = asyncio.get_running_loop().run_in_executor(workers, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if cancel is not None:
            cancel()
        while not future.done():
            try:
                await asyncio.wait({future})
            except asyncio.CancelledError:
                continue
        if not future.cancelled():
            future.exception()  # seen: the request is gone, nobody waits for it
        raise
