# SPDX-License-Identifier: Apache-2.0
"""Daemon processes: started with activation variables, watched by pidfd, adopted by a next supervisor."""

import contextlib
import os
import signal
from collections.abc import Mapping

LISTEN_FD = 3
"""Where sd_listen_fds(3) begins."""

_CONTROLLED = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET")


class Process:
    """A running process and the descriptor that becomes readable when it ends."""

    def __init__(self, pid: int, pidfd: int, *, child: bool) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.start_ticks = start_ticks(pid)
        self._child = child

    def signal(self, number: int) -> None:
        """Send a signal; no error if the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def ended(self) -> str:
        """Reap the process, which has ended: how it did, in words ("" for exit status 0)."""
        os.close(self.pidfd)
        if not self._child:
            return "ended"
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"exit status {code}" if code else ""


def spawn(argv: tuple[str, ...], log: str, environ: Mapping[str, str], listener: int = -1) -> Process:
    """Start a daemon in a session of its own, its output appended to `log`, with `listener` as descriptor 3.

    Raises OSError if the log cannot be opened.
    """
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    try:
        pid = os.fork()
        if pid == 0:
            _execute(argv, output, environ, listener)
        return Process(pid, os.pidfd_open(pid), child=True)
    finally:
        os.close(output)


def adopt(pid: int, ticks: int) -> Process | None:
    """A process that an earlier supervisor started, if it still is the same one."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    process = Process(pid, pidfd, child=False)
    if ticks == 0 or process.start_ticks != ticks:
        os.close(pidfd)
        return None
    return process


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot: with the pid, a name for good. 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] == "Z" else int(fields[19])


def _execute(argv: tuple[str, ...], output: int, environ: Mapping[str, str], listener: int) -> None:
    """In the child: become the daemon, or say why not in its log."""
    try:
        os.setsid()
        os.chdir("/")
        os.umask(0o022)
        variables = {name: value for name, value in os.environ.items() if name not in _CONTROLLED}
        variables.update(environ)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if listener >= 0:
            variables |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "docker.socket"}
            if listener == LISTEN_FD:
                os.set_inheritable(listener, True)
            else:
                os.dup2(listener, LISTEN_FD)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.execve(argv[0], argv, variables)
    except OSError as error:
        os.write(2, f"cannot execute {argv[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)
