# SPDX-License-Identifier: Apache-2.0
"""The streams of a task at a terminal or in pipes: fifos that the shim opens, copied to and from ours."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import termios
import tty
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from orlop.errdefs import OrlopError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from orlop.containerd.client.tasks import Tasks

_CHUNK = 65536
_FORWARDED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


class Streams(NamedTuple):
    """What is told to the shim: paths of fifos, URIs, or nothing."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


def make_fifos(id: str, *, terminal: bool, directory: str = "") -> Streams:
    """Make the fifos of one process in a directory of their own (below `directory`)."""
    if directory:
        os.makedirs(directory, 0o700, exist_ok=True)
    made = tempfile.mkdtemp(prefix="orlop-ctr-", dir=directory or None)
    names = ("stdin", "stdout") if terminal else ("stdin", "stdout", "stderr")
    paths = [os.path.join(made, f"{id}-{name}") for name in names]
    for path in paths:
        os.mkfifo(path, 0o600)
    return Streams(paths[0], paths[1], "" if terminal else paths[2], terminal)


def remove_fifos(streams: Streams) -> None:
    """Remove what `make_fifos` made; streams of another kind are left alone."""
    if streams.stdin:
        shutil.rmtree(os.path.dirname(streams.stdin), ignore_errors=True)


class Copier:
    """Copies our standard streams to and from a process's fifos, until `drain`.

    Open it before the shim opens the fifos. `close_stdin` is awaited once our standard input has ended.
    """

    def __init__(self, streams: Streams, close_stdin: Callable[[], asyncio.Task[None]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._close_stdin = close_stdin
        self._outputs: dict[int, asyncio.Future[None]] = {}
        self._stdin = -1
        self._pending = b""
        for path, target in ((streams.stdout, 1), (streams.stderr, 2)):
            if path:
                self._open_output(path, target)
        if streams.stdin:
            # For reading too, so that it opens before the shim has it.
            self._stdin = os.open(streams.stdin, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def _open_output(self, path: str, target: int) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        ended = self._outputs[fd] = self._loop.create_future()
        # A fifo that nobody has opened for writing yet is silent: end of file comes when the last writer leaves.
        self._loop.add_reader(fd, self._copy_out, fd, target, ended)

    def _copy_out(self, fd: int, target: int, ended: asyncio.Future[None]) -> None:
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return
        if data:
            view = memoryview(data)
            while view:
                view = view[os.write(target, view) :]
            return
        self._loop.remove_reader(fd)
        if not ended.done():
            ended.set_result(None)

    def start_input(self) -> None:
        """Read our standard input from now on."""
        if self._stdin < 0:
            return
        try:
            self._loop.add_reader(0, self._copy_in)
        except PermissionError:  # a regular file is always readable, and epoll does not take it
            self._loop.call_soon(self._copy_in, True)

    def _copy_in(self, regular: bool = False) -> None:
        data = os.read(0, _CHUNK)
        if not data:
            if not regular:
                self._loop.remove_reader(0)
            self._end_input()
            return
        self._pending = data
        if not self._write_pending():
            if not regular:
                self._loop.remove_reader(0)
            self._loop.add_writer(self._stdin, self._resume_input)
        elif regular:
            self._loop.call_soon(self._copy_in, True)

    def _write_pending(self) -> bool:
        """Whether all of what was read has been written."""
        while self._pending:
            try:
                self._pending = self._pending[os.write(self._stdin, self._pending) :]
            except BlockingIOError:
                return False
        return True

    def _resume_input(self) -> None:
        if self._write_pending():
            self._loop.remove_writer(self._stdin)
            self.start_input()

    def _end_input(self) -> None:
        os.close(self._stdin)
        self._stdin = -1
        self._close_stdin()

    async def drain(self) -> None:
        """Wait until the outputs have come to their end, and close everything."""
        if self._outputs:
            await asyncio.wait(self._outputs.values())
        self.close()

    def close(self) -> None:
        """Stop copying."""
        for fd in self._outputs:
            self._loop.remove_reader(fd)
            os.close(fd)
        self._outputs.clear()
        if self._stdin >= 0:
            with contextlib.suppress(PermissionError, ValueError):
                self._loop.remove_reader(0)
            self._loop.remove_writer(self._stdin)
            os.close(self._stdin)
            self._stdin = -1


@contextlib.contextmanager
def raw_terminal() -> Iterator[None]:
    """Our terminal in raw mode for the time of the block; nothing if standard input is none."""
    if not sys.stdin.isatty():
        yield
        return
    saved = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSANOW)  # what has been typed already is for the process
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, saved)


class Signals:
    """Passes our signals on to a process: its terminal's size, or (without a terminal) the signals themselves."""

    def __init__(self, tasks: Tasks, id: str, exec_id: str, *, terminal: bool) -> None:
        self._tasks, self._id, self._exec_id = tasks, id, exec_id
        self._loop = asyncio.get_running_loop()
        self._running: set[asyncio.Task[None]] = set()
        self._handled: list[int] = []
        if terminal and sys.stdin.isatty():
            self._handle(signal.SIGWINCH, self.resize)
        elif not terminal:
            for number in _FORWARDED:
                self._handle(number, partial(self._spawn_kill, number))

    def _handle(self, number: int, action: Callable[[], None]) -> None:
        self._loop.add_signal_handler(number, action)
        self._handled.append(number)

    def resize(self) -> None:
        """Give the process's terminal the size of ours."""
        if sys.stdin.isatty():
            size = os.get_terminal_size(0)
            self._spawn(self._resize(size.columns, size.lines))

    async def _resize(self, width: int, height: int) -> None:
        try:
            await self._tasks.resize_pty(self._id, width=width, height=height, exec_id=self._exec_id)
        except OrlopError as error:
            print(f"ctr: resize pty: {error}", file=sys.stderr)

    def _spawn_kill(self, number: int) -> None:
        self._spawn(self._kill(number))

    async def _kill(self, number: int) -> None:
        try:
            await self._tasks.kill(self._id, number, exec_id=self._exec_id)
        except OrlopError as error:
            print(f"ctr: forward signal {number}: {error}", file=sys.stderr)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def close(self) -> None:
        """Let signals be again."""
        for number in self._handled:
            self._loop.remove_signal_handler(number)
