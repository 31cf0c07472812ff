# SPDX-License-Identifier: Apache-2.0
"""Edges of many sockets in one epoll(7) of its own, which the event loop sees as one descriptor.

The loop's own readers and writers cost a handle, a key and a context for each event, and a call for each change of
mind; a proxy has ten such for every connection.
"""

import asyncio
import select
from collections.abc import Callable

IN, OUT, GONE = select.EPOLLIN, select.EPOLLOUT, select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_EVERYTHING = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_EVENTS_A_LOOK = 64
_LOOKS_A_TURN = 8


class Poller:
    """Calls back with the events of a descriptor when they begin, and not again while they last."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._loop.add_reader(self._epoll, self._ready)

    def add(self, fd: int, callback: Callable[[int], None]) -> None:
        """Begin with a descriptor; what has happened already counts as beginning now."""
        self._callbacks[fd] = callback
        self._epoll.register(fd, _EVERYTHING)

    def replace(self, fd: int, callback: Callable[[int], None]) -> None:
        """Call back somebody else from now on."""
        self._callbacks[fd] = callback

    def drop(self, fd: int) -> None:
        """End; call just before the descriptor, which has no duplicates, is closed."""
        self._callbacks.pop(fd, None)

    def close(self) -> None:
        """Let go of the epoll."""
        self._loop.remove_reader(self._epoll)
        self._epoll.close()

    def _ready(self) -> None:
        callbacks = self._callbacks
        for _ in range(_LOOKS_A_TURN):  # what has come meanwhile need not wait for a turn of the whole loop
            found = self._epoll.poll(0, _EVENTS_A_LOOK)
            for fd, events in found:
                callback = callbacks.get(fd)
                if callback is not None:  # an earlier callback of this look may have closed it
                    callback(events)
            if not found:
                return
