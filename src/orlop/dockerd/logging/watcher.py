# SPDX-License-Identifier: Apache-2.0
"""Tells who reads a log when its directory changes: one inotify descriptor for all, as users have few of them."""

import asyncio
import os
from typing import Any

from orlop.unix import inotify

_MASK = inotify.IN_MODIFY | inotify.IN_CREATE | inotify.IN_MOVED_TO


class Watch:
    """`changed` is set when something has changed since it was last cleared."""

    def __init__(self, watcher: "Watcher", number: int) -> None:
        self.changed = asyncio.Event()
        self.number = number
        self._watcher = watcher

    async def wait(self, *also: "asyncio.Future[Any]") -> None:
        """Wait for a change, or until one of some futures is done."""
        changed = asyncio.ensure_future(self.changed.wait())
        try:
            await asyncio.wait({changed, *also}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
        self.changed.clear()

    def close(self) -> None:
        """Watch no more."""
        self._watcher.leave(self)


class Watcher:
    """Watches directories for as long as anybody wants to know."""

    def __init__(self) -> None:
        self._fd = -1
        self._watches: dict[int, set[Watch]] = {}

    def watch(self, directory: str) -> Watch:
        """Raises OSError."""
        if self._fd < 0:
            self._fd = inotify.init()
            asyncio.get_running_loop().add_reader(self._fd, self._tell)
        try:
            number = inotify.add(self._fd, directory, _MASK)
        except OSError:
            self._close_if_idle()
            raise
        watch = Watch(self, number)
        self._watches.setdefault(number, set()).add(watch)
        return watch

    def leave(self, watch: Watch) -> None:
        """Called by the watch."""
        others = self._watches.get(watch.number, set())
        others.discard(watch)
        if not others and self._watches.pop(watch.number, None) is not None:
            inotify.remove(self._fd, watch.number)
        self._close_if_idle()

    def _tell(self) -> None:
        for number, mask in inotify.events(self._fd):
            for watch in self._watches.get(number, ()):
                watch.changed.set()
            if mask & inotify.IN_IGNORED:  # the directory is gone
                self._watches.pop(number, None)

    def _close_if_idle(self) -> None:
        if not self._watches and self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
