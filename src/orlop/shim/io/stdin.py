# SPDX-License-Identifier: Apache-2.0
"""The writing end of a process's standard input, and FIFOs that feed it."""

import os
import select
from collections.abc import Callable

from orlop.shim.loop import Loop

_READ = 65536


class Stdin:
    """Writes to a process's stdin pipe or terminal; full while anything waits. Owns `fd`."""

    def __init__(self, loop: Loop, fd: int) -> None:
        self._loop = loop
        self._fd = fd
        self._pending = b""
        self._closing = False
        self._on_drain: list[Callable[[], None]] = []
        os.set_blocking(fd, False)

    @property
    def full(self) -> bool:
        """Whether the process has not read everything yet."""
        return bool(self._pending)

    @property
    def closed(self) -> bool:
        """Whether nothing can be written any more."""
        return self._closing or self._fd < 0

    def on_drain(self, callback: Callable[[], None]) -> None:
        """Call once when no longer full (or closed)."""
        self._on_drain.append(callback)

    def write(self, data: bytes) -> None:
        """Write everything, now or as the process reads; dropped when the process has closed its end."""
        if self.closed:
            return
        if self._pending:
            self._pending += data
            return
        self._pending = self._write(data)
        if self._pending:
            self._loop.add(self._fd, select.EPOLLOUT, self._ready)

    def _write(self, data: bytes) -> bytes:
        try:
            return data[os.write(self._fd, data) :]
        except BlockingIOError:
            return data
        except OSError:  # EPIPE, EIO: nobody will read it
            self._release()
            return b""

    def _ready(self, _events: int) -> None:
        self._pending = self._write(self._pending)
        if not self._pending:
            if self._fd >= 0:
                self._loop.remove(self._fd)
            if self._closing:
                self._release()
            self._drained()

    def _drained(self) -> None:
        callbacks, self._on_drain = self._on_drain, []
        for callback in callbacks:
            callback()

    def close(self) -> None:
        """Close once everything has been written."""
        self._closing = True
        if not self._pending:
            self._release()

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        self._release()
        self._drained()

    def _release(self) -> None:
        if self._fd >= 0:
            if self._pending:
                self._loop.remove(self._fd)
                self._pending = b""
            os.close(self._fd)
            self._fd = -1


class FifoInput:
    """Copies a client's FIFO to stdin.

    The shim holds a writing end itself, so that a client may leave and another come; `close_io` drops it, and
    stdin is closed when the last client has closed its end too and everything has been read.
    """

    def __init__(self, loop: Loop, path: str, stdin: Stdin) -> None:
        self._loop = loop
        self._stdin = stdin
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._keeper = -1
        try:
            self._keeper = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except BaseException:
            os.close(self._fd)
            raise
        self._registered = False
        self._resume()

    def _resume(self) -> None:
        if self._fd >= 0 and not self._registered:
            self._loop.add(self._fd, select.EPOLLIN, self._ready)
            self._registered = True

    def _ready(self, _events: int) -> None:
        try:
            data = os.read(self._fd, _READ)
        except BlockingIOError:
            return
        if not data:
            self._stdin.close()
        else:
            self._stdin.write(data)
        if self._stdin.closed:
            self.close()
        elif self._stdin.full:
            self._loop.remove(self._fd)
            self._registered = False
            self._stdin.on_drain(self._resume)

    def close_io(self) -> None:
        """No client will come any more: the end of the present ones is the end of stdin."""
        if self._keeper >= 0:
            os.close(self._keeper)
            self._keeper = -1

    def close(self) -> None:
        """Stop at once."""
        self.close_io()
        if self._fd >= 0:
            if self._registered:
                self._loop.remove(self._fd)
                self._registered = False
            os.close(self._fd)
            self._fd = -1
