# SPDX-License-Identifier: Apache-2.0
"""Reads what a process writes and hands each piece to every sink."""

import errno
import os
import select
from collections.abc import Callable
from typing import Protocol

from orlop.shim import log
from orlop.shim.loop import Loop

READ_SIZE = 65536
_DRAIN_LIMIT = 4 << 20


class Sink(Protocol):
    """Where output goes.

    `write` always takes the whole piece. While `full` is true the caller should not bring more; the sink calls
    the `on_drain` it was made with when it is no longer full. `end` says that a stream is over (once for each
    stream); `close` releases everything at once.
    """

    @property
    def full(self) -> bool:
        """Whether more than enough is waiting."""

    def write(self, stream: int, data: bytes) -> None:
        """Take output of stream 1 (stdout) or 2 (stderr)."""

    def end(self, stream: int) -> None:
        """Nothing more of this stream will come."""

    def close(self) -> None:
        """Release everything."""


class Source:
    """The reading end of one output stream: a pipe, or the master of a terminal. Owns `fd`."""

    def __init__(
        self, loop: Loop, fd: int, stream: int, sinks: list[Sink], on_eof: Callable[["Source"], None]
    ) -> None:
        self._loop = loop
        self.fd = fd
        self.stream = stream
        self._sinks = sinks
        self._on_eof = on_eof
        self._registered = False
        self.ended = False
        os.set_blocking(fd, False)

    def start(self) -> None:
        """Read from now on, as long as no sink is full."""
        if self.ended:
            return
        full = False
        for sink in self._sinks:
            if sink.full:
                full = True
                break
        if full == self._registered:
            # epoll reports a hang-up even with no events asked for: a paused source must leave the loop.
            if full:
                self._loop.remove(self.fd)
            else:
                self._loop.add(self.fd, select.EPOLLIN, self._ready)
            self._registered = not full

    def _ready(self, _events: int) -> None:
        if self._read():
            self.start()

    def _read(self) -> bool:
        """Read one piece; False when there was none."""
        try:
            data = os.read(self.fd, READ_SIZE)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:  # EIO: the last slave of the terminal has been closed
                log.error(f"reading stream {self.stream}: {error.strerror}")
            data = b""
        if not data:
            self.stop()
            self._on_eof(self)
            return False
        for sink in self._sinks:
            sink.write(self.stream, data)
        return True

    def drain(self) -> None:
        """Read what is there already, full sinks or not, within bounds."""
        left = _DRAIN_LIMIT
        while not self.ended and left > 0 and self._read():
            left -= READ_SIZE
        self.start()

    def discard(self) -> None:
        """Go on reading, so that the writer never waits, but to no sink."""
        self._sinks = []
        self.start()

    def stop(self) -> None:
        """Stop reading and close the descriptor."""
        if not self.ended:
            self.ended = True
            if self._registered:
                self._loop.remove(self.fd)
                self._registered = False
            os.close(self.fd)
