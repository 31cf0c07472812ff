# SPDX-License-Identifier: Apache-2.0
"""Requests under way: steps that are begun one after the other, each when the one before is done."""

import socket
import time
from collections.abc import Callable
from typing import NamedTuple

_SECONDS = 45.0
_RECHECK_SECONDS = 0.05


class Step(NamedTuple):
    """`begin` sets the aim, `done` tells whether it is reached; either raises OSError if it never will be."""

    begin: Callable[[], None]
    done: Callable[[], bool]


class Job:
    """A request and who asked. `error` says why it failed."""

    def __init__(self, connection: socket.socket, steps: list[Step]) -> None:
        self.connection = connection
        self.error = ""
        self._steps = list(steps)
        self._begun = False
        self._end = time.monotonic() + _SECONDS
        self.deadline = time.monotonic()

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
            self.error = f"not done within {_SECONDS:.0f} s"
            return True
        # Processes that are not our own end without an event: while somebody waits, look again now and then.
        self.deadline = min(self._end, now + _RECHECK_SECONDS)
        return not self._steps
