# SPDX-License-Identifier: Apache-2.0
"""The caller's terminal and the container's, as long as a command stays in the foreground."""

import fcntl
import os
import select
import struct
import termios
import tty

_CHUNK = 65536


class Terminal:
    """Carries bytes between the caller's terminal and the container's."""

    def __init__(self, console: int) -> None:
        self._console = console
        self._stdin_open = True
        self._console_open = True
        self._saved: list[object] | None = None
        self._pending = bytearray()
        os.set_blocking(console, False)
        if os.isatty(0):
            self._saved = termios.tcgetattr(0)
            tty.setraw(0, termios.TCSANOW)  # what has been typed already is for the container
        self.resize()

    def resize(self) -> None:
        """Give the container's terminal the size of ours."""
        if os.isatty(0):
            size = fcntl.ioctl(0, termios.TIOCGWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
            fcntl.ioctl(self._console, termios.TIOCSWINSZ, size)

    def register(self, poller: "select.poll") -> None:
        """Say what is waited for now."""
        if self._stdin_open and len(self._pending) < _CHUNK:
            poller.register(0, select.POLLIN)
        if self._console_open:
            poller.register(self._console, select.POLLIN | (select.POLLOUT if self._pending else 0))

    def handle(self, fd: int, events: int, poller: "select.poll") -> None:
        """Move what can be moved."""
        if fd == 0:
            chunk = os.read(0, _CHUNK)
            if not chunk:
                self._stdin_open = False
                self._pending += b"\x04"  # the end of input, as a terminal says it
            self._pending += chunk
            poller.unregister(0)
        else:
            if events & (select.POLLIN | select.POLLHUP):
                self._read()
            if events & select.POLLOUT and self._pending:
                self._write()
            if not self._console_open:
                poller.unregister(fd)

    def drain(self) -> None:
        """What the ended process has left in the terminal."""
        while self._console_open and self._read():
            pass

    def _read(self) -> bool:
        try:
            chunk = os.read(self._console, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            # EIO: every process has closed the terminal.
            chunk = b""
        if not chunk:
            self._console_open = False
            return False
        view = memoryview(chunk)
        while view:
            view = view[os.write(1, view) :]
        return True

    def _write(self) -> None:
        try:
            written = os.write(self._console, self._pending)
        except BlockingIOError:
            return
        del self._pending[:written]

    def close(self) -> None:
        """Give the caller's terminal back as it was."""
        if self._saved is not None:
            termios.tcsetattr(0, termios.TCSAFLUSH, self._saved)  # type: ignore[arg-type]
        os.close(self._console)
