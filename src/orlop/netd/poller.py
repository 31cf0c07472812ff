# SPDX-License-Identifier: Apache-2.0
"""The event loop's selector, which calls back by itself for descriptors that are too busy for the loop.

The loop's own readers and writers cost a handle, a key and a context for each event, and a call for each change of
mind; a proxy has ten such for every connection, and a DNS server answers in less time than they take.
"""

import os
import select
import selectors
import time
from collections.abc import Callable
from typing import Any

IN, OUT, GONE = select.EPOLLIN, select.EPOLLOUT, select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
EDGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
"""Everything, once when it begins."""
_EVENTS_A_LOOK = 64
_LOOKS_A_TURN = 8
_MUCH = 2
_LINGER_SECONDS = 100e-6
_LINGERS = 8.0
_LINGERS_A_SECOND = 100.0

Callback = Callable[[int], None]


class Poller(selectors.EpollSelector):
    """Calls back with the events of a descriptor; the loop's own descriptors are the loop's as ever.

    Belongs to one event loop, as its selector (`asyncio.SelectorEventLoop(Poller())`). What a callback raises goes
    to `on_error`, with what was going on in words.
    """

    def __init__(self) -> None:
        super().__init__()
        self._epoll = select.epoll.fromfd(os.dup(self.fileno()))
        self._callbacks: dict[int, Callback] = {}
        self._dropped: set[int] = set()
        self.expecting = False
        """A callback sets it that has answered somebody who is likely to ask again at once: see `_linger`."""
        self._lingers, self._counted = _LINGERS, 0.0
        self.on_error: Callable[[dict[str, Any]], None] | None = None

    def add(self, fd: int, callback: Callback, events: int = EDGES) -> None:
        """Begin with a descriptor; what has happened already counts as beginning now."""
        self._callbacks[fd] = callback
        self._epoll.register(fd, events)

    def replace(self, fd: int, callback: Callback) -> None:
        """Call back somebody else from now on."""
        self._callbacks[fd] = callback

    def remove(self, fd: int) -> None:
        """End; no error if it has not begun."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)
            self._dropped.add(fd)

    def drop(self, fd: int) -> None:
        """End; call just before the descriptor, which has no duplicates, is closed."""
        if self._callbacks.pop(fd, None) is not None:
            self._dropped.add(fd)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Call back for what has happened, and return what has happened to the loop's own descriptors."""
        callbacks, dropped, own = self._callbacks, self._dropped, self.get_map()
        ready: list[tuple[selectors.SelectorKey, int]] = []
        for _ in range(
            _LOOKS_A_TURN
        ):  # where much happens, what has come meanwhile need not wait for a whole turn
            found = self._linger() if self.expecting and timeout != 0 else []
            found = found or self._epoll.poll(timeout, _EVENTS_A_LOOK)
            timeout = 0
            dropped.clear()
            for fd, events in found:
                callback = callbacks.get(fd)
                if fd in dropped:
                    continue  # the number may be another one's by now: this is not its event
                if callback is not None:
                    try:
                        callback(events)
                    except Exception as error:  # noqa: BLE001 - one connection's failure is not the others'
                        self._report(error)
                elif fd in own:
                    key = own[fd]
                    ready.append((key, _asked(events) & key.events))
            if ready or len(found) < _MUCH:
                break
        return ready

    def _linger(self) -> list[tuple[int, int]]:
        """Look for a moment without falling asleep: to be woken takes longer than to answer.

        Costs 1 % of a processor at most where nothing comes of it: what is in vain takes one of `_lingers`, which
        grow back slowly.
        """
        self.expecting = False
        now = time.perf_counter()
        self._lingers = min(self._lingers + (now - self._counted) * _LINGERS_A_SECOND, _LINGERS)
        self._counted = now
        if self._lingers < 1:
            return []
        until = now + _LINGER_SECONDS
        while not (found := self._epoll.poll(0, _EVENTS_A_LOOK)):
            if time.perf_counter() > until:
                self._lingers -= 1
                break
        return found

    def close(self) -> None:
        """Let go of the epoll."""
        self._epoll.close()
        super().close()

    def _report(self, error: Exception) -> None:
        if self.on_error is None:
            raise error
        self.on_error({"message": "a connection or query failed", "exception": error})


def _asked(events: int) -> int:
    """Events as the selectors module puts them."""
    read = selectors.EVENT_READ if events & ~select.EPOLLOUT else 0
    return read | (selectors.EVENT_WRITE if events & ~select.EPOLLIN else 0)
