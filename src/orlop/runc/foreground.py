# SPDX-License-Identifier: Apache-2.0
"""Staying with a process in the foreground: signals forwarded, terminal carried, exit code returned."""

import fcntl
import os
import select
import signal
import struct
import termios
import tty
from collections.abc import Callable

from orlop.unix.events import read_signals, signalfd
from orlop.unix.process import PR_SET_CHILD_SUBREAPER, prctl

# Not forwarded: what the kernel keeps, what faults raise, and what is handled here.
_NOT_FORWARDED = frozenset(
    (
        signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGWINCH, signal.SIGPIPE, signal.SIGURG,
        signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGABRT,
        signal.SIGSYS, signal.SIGXFSZ, signal.SIGTTIN, signal.SIGTTOU,
    )
)  # fmt: skip
_CHUNK = 65536


class Foreground:
    """Made before the process is, so that no signal is lost between."""

    def __init__(self, *, subreaper: bool) -> None:
        if subreaper:
            prctl(PR_SET_CHILD_SUBREAPER, 1)
        forwarded = {number for number in signal.valid_signals() if number < 32} - _NOT_FORWARDED
        self._signals = signalfd([*forwarded, signal.SIGCHLD, signal.SIGWINCH])

    def wait(self, pid: int, console: int | None, forward: Callable[[int], None]) -> int:
        """Attend to `pid` until it ends; its exit code, or 128 plus the signal that ended it."""
        if console is None:
            return self._wait(pid, forward, None)
        terminal = _Terminal(console)
        try:
            return self._wait(pid, forward, terminal)
        finally:
            terminal.close()

    def _wait(self, pid: int, forward: Callable[[int], None], terminal: "_Terminal | None") -> int:
        poller = select.poll()
        poller.register(self._signals, select.POLLIN)
        status = _collect(pid)  # it may have ended before the signals were looked at
        while status is None:
            if terminal is not None:
                terminal.register(poller)
            for fd, events in poller.poll():
                if fd != self._signals:
                    assert terminal is not None
                    terminal.handle(fd, events, poller)
                    continue
                for number in read_signals(fd):
                    if number == signal.SIGCHLD:
                        status = _collect(pid)
                    elif number == signal.SIGWINCH:
                        if terminal is not None:
                            terminal.resize()
                    else:
                        forward(number)
        if terminal is not None:
            terminal.drain()
        return status


def _collect(wanted: int) -> int | None:
    """Reap every child that has ended; the exit code of the wanted one if it is among them."""
    found: int | None = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == wanted:
            code = os.waitstatus_to_exitcode(status)
            found = code if code >= 0 else 128 - code


class _Terminal:
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
