# SPDX-License-Identifier: Apache-2.0
"""The Engine API's listening socket in the supervisor's hands: watched while no dockerd looks at it."""

import contextlib
import os
import selectors
import socket
import time
from collections.abc import Callable

from orlop.activation import sockets
from orlop.activation.process import LISTEN_FD, Process


class ApiSocket:
    """The socket at `path`; `connected` is called when somebody waits there while it is watched."""

    def __init__(self, path: str, selector: selectors.BaseSelector, connected: Callable[[], None]) -> None:
        self.path = path
        self.since = 0.0
        self._selector = selector
        self._connected = connected
        self._listener: socket.socket | None = None
        self._watched = False

    @property
    def listening(self) -> bool:
        """Whether clients can connect."""
        return self._listener is not None

    def fileno(self) -> int:
        """The descriptor for dockerd; -1 while it is closed."""
        return self._listener.fileno() if self._listener is not None else -1

    def open(self) -> bool:
        """Listen; False if it does already. Raises OSError, EADDRINUSE if somebody else serves the path."""
        if self._listener is not None:
            return False
        self._listener = sockets.listen_api(self.path)
        self.since = time.time()
        return True

    def take_over(self, dockerd: Process, since: float) -> None:
        """Hold once more what a supervisor that crashed gave to a dockerd that runs."""
        self._listener = sockets.steal_listener(dockerd.pidfd, LISTEN_FD, self.path)
        self.since = since

    def close(self) -> None:
        """Stop listening, and remove the path."""
        if self._listener is not None:
            self.watch(False)
            self._listener.close()
            self._listener = None
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)

    def watch(self, wanted: bool) -> None:
        """Look, or no longer look, for somebody who connects."""
        if self._listener is None or wanted == self._watched:
            return
        if wanted:
            self._selector.register(self._listener, selectors.EVENT_READ, self._connected)
        else:
            self._selector.unregister(self._listener)
        self._watched = wanted

    def refuse_waiting(self) -> None:
        """Let whoever waits see an error: no dockerd comes."""
        if self._listener is not None:
            sockets.refuse_waiting(self._listener)
