# SPDX-License-Identifier: Apache-2.0
"""One supervised daemon: what is wanted of it, what it does, and when to try again (no I/O but on the process)."""

import os
import signal
import time

from orlop.activation.components import Component
from orlop.activation.process import Process

STEADY_SECONDS = 10.0
"""A daemon that ran so long starts with a clean slate when it ends."""
MAX_FAILURES = 5
"""So many failures in a row, and a daemon is given up until somebody asks for it again."""
_MAX_DELAY = 10.0


class Daemon:
    """A component and its process. `wanted` is the aim; the supervisor's loop brings the process there.

    stopped → starting → running → stopped, with a delay before the next start where it ended by itself.
    """

    def __init__(self, component: Component) -> None:
        self.component = component
        self.wanted = False
        self.process: Process | None = None
        self.ready = False
        self.since = 0.0
        self.failures = 0
        self.failure = ""
        self.retry_at = 0.0
        self.kill_at = 0.0

    @property
    def state(self) -> str:
        """A word or two for the status."""
        if self.process is not None:
            if self.kill_at:
                return "stopping"
            return "running" if self.ready else "starting"
        if self.wanted and self.failures:
            return f"restarting ({self.failure})"
        return f"failed ({self.failure})" if self.failure else "stopped"

    def want(self) -> None:
        """Have it run; a daemon that was given up gets a new chance."""
        if not self.wanted:
            self.wanted, self.failures, self.failure, self.retry_at = True, 0, "", 0.0

    def unwant(self) -> None:
        """Have it stopped."""
        self.wanted, self.failures, self.failure, self.retry_at = False, 0, "", 0.0

    def started(self, process: Process, *, since: float = 0.0, ready: bool = False) -> None:
        """It has a process now."""
        self.process, self.ready, self.since = process, ready, since or time.time()
        self.retry_at = self.kill_at = 0.0

    def became_ready(self) -> None:
        """It serves."""
        self.ready = True
        self.failure = ""

    def begin_stop(self, now: float) -> None:
        """Ask the process to end, and remember when to insist."""
        if self.process is not None and not self.kill_at:
            self.kill_at = now + self.component.stop_seconds
            self.process.signal(signal.SIGTERM)

    def extend_stop(self, until: float) -> None:
        """Give a process that is ending the time that it has asked for, if that is more than it has."""
        if self.kill_at:
            self.kill_at = max(self.kill_at, until)

    def insist(self, now: float) -> None:
        """Kill a process that was asked long enough ago."""
        if self.process is not None and self.kill_at and now >= self.kill_at:
            self.process.signal(signal.SIGKILL)
            self.kill_at = now + self.component.stop_seconds

    def exited(self, now: float) -> None:
        """The process has ended: decide about the next start."""
        assert self.process is not None
        reason = self.process.ended()
        steady = self.ready and time.time() - self.since >= STEADY_SECONDS
        stopping = bool(self.kill_at)
        self.process, self.ready, self.since, self.kill_at = None, False, time.time(), 0.0
        if not self.wanted or stopping:
            return
        if self.component.activated and not reason:
            self.unwant()  # it ended on purpose, and the next connection brings it back
            return
        self.failures = 1 if steady else self.failures + 1
        self.failure = reason or "ended"
        if self.failures > MAX_FAILURES:
            self.wanted = False
        else:
            # the first time at once: nobody should notice; then slower and slower
            self.retry_at = now + (min(0.1 * 2 ** (self.failures - 1), _MAX_DELAY) if self.failures > 1 else 0.0)

    def refused(self, error: OSError) -> None:
        """It cannot even be started: give it up, with the reason."""
        self.wanted = False
        self.failure = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)

    @property
    def due(self) -> float:
        """When something is to be done without an event (0: never)."""
        if self.process is not None:
            return self.kill_at
        return self.retry_at if self.wanted else 0.0

    def holder(self) -> int:
        """The process, not ours, that does this daemon's work: the one that holds its lock. 0 if there is none."""
        if not self.component.lock:
            return 0
        try:
            with open(self.component.lock, encoding="ascii") as file:
                pid = int(file.read() or "0")
            os.kill(pid, 0)
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return 0
        own = self.process.pid if self.process is not None else 0
        return pid if pid not in (0, own) and _holds_lock(self.component.lock) else 0


def _holds_lock(path: str) -> bool:
    import fcntl

    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
