# SPDX-License-Identifier: Apache-2.0
"""Collects the exits of all children (and of orphans: the shim is a subreaper) and tells who waits for them."""

import os
import time
from collections.abc import Callable
from typing import NamedTuple

from orlop.shim.loop import Future


class Exit(NamedTuple):
    """How a process ended: `status` is its exit code, or 128 + signal; `at` is in nanoseconds since the epoch."""

    status: int
    at: int


class Reaper:
    """Call `reap` on SIGCHLD; a pid's exit goes to its watcher.

    A container's process may be over before the runtime command that made it has told its pid. So while any such
    command runs (`starting`), exits of unknown pids are kept, and `watch` hands them out.
    """

    def __init__(self) -> None:
        self._watchers: dict[int, Callable[[Exit], None]] = {}
        self._unclaimed: dict[int, Exit] = {}
        self._starting = 0

    def watch(self, pid: int, callback: Callable[[Exit], None]) -> None:
        """Call once with the exit of a child; at once when it has been collected since `starting`."""
        early = self._unclaimed.pop(pid, None)
        if early is not None:
            callback(early)
        else:
            self._watchers[pid] = callback

    def unwatch(self, pid: int) -> None:
        """Forget a pid."""
        self._watchers.pop(pid, None)

    def wait(self, pid: int) -> Future[Exit]:
        """A future with the exit of a child."""
        future: Future[Exit] = Future()
        self.watch(pid, future.set_result)
        return future

    def starting(self) -> None:
        """From now on keep exits of unknown pids, until `started` has been called as often."""
        self._starting += 1

    def started(self) -> None:
        """The pid is watched, or there is none."""
        self._starting -= 1
        if not self._starting:
            self._unclaimed.clear()

    def reap(self) -> None:
        """Collect every child that has ended and call the watchers."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            ended = Exit(exit_code(status), time.time_ns())
            watcher = self._watchers.pop(pid, None)
            if watcher is not None:
                watcher(ended)
            elif self._starting:
                self._unclaimed[pid] = ended


def exit_code(status: int) -> int:
    """The code that containerd reports for a wait status: 128 + signal for a killed process."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
