# SPDX-License-Identifier: Apache-2.0
"""Requests under way: steps that are begun one after the other, each when the one before is done."""

import socket
import time
from collections.abc import Callable
from typing import NamedTuple

SECONDS = 45.0
"""For whatever a request has to do, beside the time that daemons have to end before they are killed."""
_RECHECK_SECONDS = 0.05


class Step(NamedTuple):
    """`begin` sets the aim, `done` tells whether it is reached; either raises OSError if it never will be."""

    begin: Callable[[], None]
    done: Callable[[], bool]


class Job:
    """A request, who asked, and the seconds that it may take. `error` says why it failed."""

    def __init__(self, connection: socket.socket, steps: list[Step], seconds: float) -> None:
        self.connection = connection
        self.error = ""
        self._steps = list(steps)
        self._begun = False
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self.deadline = time.monotonic()

    def extend(self, until: float) -> None:
        """A daemon that is ending may take until then: what this request has to do comes on top."""
        if until + SECONDS > self._end:
            self._seconds += until + SECONDS - self._end
            self._end = until + SECONDS

    def advance(self, now: float) -> bool:
        """Go on as far as possible; True if that was the end."""
        try:
            while self._steps:
                step = self._steps[0]
                if not self._begun:
                    step.begin()
                    self._begun = True
                if not step.done():
                    break
                self._steps.pop(0)
                self._begun = False
        except OSError as error:
            self.error = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
            return True
        if self._steps and now >= self._end:
            self.error = f"not done within {self._seconds:.0f} s; it goes on"
            return True
        # Processes that are not our own end without an event: while somebody waits, look again now and then.
        self.deadline = min(self._end, now + _RECHECK_SECONDS)
        return not self._steps
