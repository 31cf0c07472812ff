# SPDX-License-Identifier: Apache-2.0
"""Sinks that copy raw output to a FIFO, a pipe or a file."""

import os
import select
from collections.abc import Callable

from orlop.shim import log
from orlop.shim.loop import Loop


class PipeSink:
    """Copies one stream to a FIFO or pipe; full while anything waits. Owns its descriptors.

    A FIFO is opened for reading and writing at once (fifo(7)): opening never hangs, and a reader that dies never
    raises EPIPE. Output then waits in the FIFO for the next reader, as with containerd's own shim.
    """

    def __init__(self, loop: Loop, fd: int, stream: int, on_drain: Callable[[], None]) -> None:
        self._loop = loop
        self._fd = fd
        self._stream = stream
        self._on_drain = on_drain
        self._pending = b""
        self._ending = False
        os.set_blocking(fd, False)

    @classmethod
    def fifo(cls, loop: Loop, path: str, stream: int, on_drain: Callable[[], None]) -> "PipeSink":
        """Open a FIFO. Raises OSError."""
        return cls(loop, os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC), stream, on_drain)

    @property
    def full(self) -> bool:
        """Whether something waits for the reader."""
        return bool(self._pending)

    def write(self, stream: int, data: bytes) -> None:
        """Copy output of this sink's stream; that of others is not for it."""
        if stream != self._stream or self._fd < 0:
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
        except OSError as error:
            log.warning(f"output of stream {self._stream} is dropped from now on: {error.strerror}")
            self._release()
            return b""

    def _ready(self, _events: int) -> None:
        self._pending = self._write(self._pending)
        if self._pending:
            return
        if self._fd >= 0:
            self._loop.remove(self._fd)
        if self._ending:
            self._release()
        self._on_drain()

    def end(self, stream: int) -> None:
        """Close once everything has been written."""
        if stream == self._stream:
            self._ending = True
            if not self._pending:
                self._release()

    def close(self) -> None:
        """Close at once."""
        self._release()

    def _release(self) -> None:
        if self._fd >= 0:
            if self._pending:
                self._loop.remove(self._fd)
                self._pending = b""
            os.close(self._fd)
            self._fd = -1


class FileSink:
    """Appends streams to one file (file://). Never full."""

    full = False

    def __init__(self, path: str, streams: tuple[int, ...]) -> None:
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._open = set(streams)

    def write(self, stream: int, data: bytes) -> None:
        """Append; what a full disk refuses is lost, as the process must not stop for it."""
        if stream not in self._open:
            return
        while data and self._fd >= 0:
            try:
                data = data[os.write(self._fd, data) :]
            except OSError as error:
                log.warning(f"{self._path}: {len(data)} bytes of output lost: {error.strerror}")
                return

    def end(self, stream: int) -> None:
        """Close when all streams are over."""
        self._open.discard(stream)
        if not self._open:
            self.close()

    def close(self) -> None:
        """Close at once."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
