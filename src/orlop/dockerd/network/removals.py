# SPDX-License-Identifier: Apache-2.0
"""Interfaces of removed networks: deleted beside the work of others, for the kernel takes its time."""

import asyncio
import contextlib
import errno
import logging
from collections.abc import Callable, Sequence

from orlop.dockerd.network import rtnetlink
from orlop.dockerd.network.rtnetlink import RouteSocket

_log = logging.getLogger(__name__)


class Removals:
    """What is being deleted.

    The kernel frees an interface only after all processors have forgotten it: 30 ms and more, in which the caller
    is kept waiting. Who removes a network need not wait; who makes one does, for the name, the subnet and the
    routes shall be free.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, names: Sequence[str], done: Callable[[], None]) -> None:
        """Delete interfaces, then call `done`, in the event loop's thread."""
        task = asyncio.get_running_loop().create_task(self._remove(names, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settled(self) -> None:
        """Wait for what has begun."""
        if self._tasks:
            await asyncio.gather(*self._tasks)

    async def _remove(self, names: Sequence[str], done: Callable[[], None]) -> None:
        try:
            if names:
                await asyncio.to_thread(_delete, names)
        except OSError as error:  # the record stays, not ready: the next start tries again
            _log.error("cannot remove a network's interface: %s: %s", error.filename, error.strerror)
        else:
            done()


def _delete(names: Sequence[str]) -> None:
    with contextlib.closing(RouteSocket()) as route:
        for name in names:
            try:
                route.request(rtnetlink.link_delete(name))
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise
