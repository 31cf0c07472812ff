# SPDX-License-Identifier: Apache-2.0
"""Staying with a process in the foreground: signals forwarded, terminal carried, exit code returned."""

import gc
import os
import select
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from orlop.unix.events import read_signals, signalfd
from orlop.unix.process import PR_SET_CHILD_SUBREAPER, prctl

if TYPE_CHECKING:
    from orlop.runc.carried_terminal import Terminal

# Not forwarded: what the kernel keeps, what faults raise, and what is handled here.
_NOT_FORWARDED = frozenset(
    (
        signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGWINCH, signal.SIGPIPE, signal.SIGURG,
        signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGABRT,
        signal.SIGSYS, signal.SIGXFSZ, signal.SIGTTIN, signal.SIGTTOU,
    )
)  # fmt: skip


class Foreground:
    """Made before the process is, so that no signal is lost between."""

    def __init__(self, *, subreaper: bool) -> None:
        if subreaper:
            prctl(PR_SET_CHILD_SUBREAPER, 1)
        forwarded = {number for number in signal.valid_signals() if number < 32} - _NOT_FORWARDED
        self._signals = signalfd([*forwarded, signal.SIGCHLD, signal.SIGWINCH])

    def wait(self, pid: int, console: int | None, forward: Callable[[int], None]) -> int:
        """Attend to `pid` until it ends; its exit code, or 128 plus the signal that ended it."""
        gc.enable()  # it may take days
        if console is None:
            return self._wait(pid, forward, None)
        from orlop.runc.carried_terminal import Terminal

        terminal = Terminal(console)
        try:
            return self._wait(pid, forward, terminal)
        finally:
            terminal.close()

    def _wait(self, pid: int, forward: Callable[[int], None], terminal: "Terminal | None") -> int:
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
