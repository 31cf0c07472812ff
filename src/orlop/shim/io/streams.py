# SPDX-License-Identifier: Apache-2.0
"""The standard streams of one process, put together from what its request names."""

import fcntl
import os
import stat
import struct
import termios
from collections.abc import Callable

from orlop.errdefs import FailedPreconditionError, InvalidArgumentError, NotFoundError, OrlopError
from orlop.shim import log
from orlop.shim.io.attach import AttachServer
from orlop.shim.io.jsonlog import JsonLog
from orlop.shim.io.logger import Logger
from orlop.shim.io.sinks import FileSink, PipeSink
from orlop.shim.io.source import Sink, Source
from orlop.shim.io.stdin import FifoInput, Stdin
from orlop.shim.io.uri import Attach, Binary, Fifo, File, JsonFile, Local, Output, parse_input, parse_output
from orlop.shim.loop import Future, Loop, Timer

LINGER = 2.0
"""Seconds that output may go on after the process has exited, while something else holds its pipes open."""


class Streams:
    """Life: `open`, then the runtime starts the process on `child` (or returns a terminal for `console`), then
    `started`, `running`, `exited`, `close`. `drained` is settled when everything that the process
    wrote has been handed on.
    """

    def __init__(
        self, loop: Loop, *, terminal: bool, stdin: str, stdout: str, stderr: str, owner: tuple[int, int] = (0, 0)
    ) -> None:
        """Check the strings of a request. Raises InvalidArgumentError."""
        self.terminal = terminal
        self.uris = (stdin, stdout, stderr)
        self.child: tuple[int, int, int] = (-1, -1, -1)
        self.drained: Future[None] = Future()
        self.opened = False
        self._loop = loop
        self._owner = owner
        self._input = parse_input(stdin)
        self._stdout = parse_output(stdout, "stdout")
        self._stderr = None if terminal else parse_output(stderr, "stderr")
        if (
            self._stderr is not None
            and self._stderr != self._stdout
            and not (isinstance(self._stderr, Fifo | File) and isinstance(self._stdout, Fifo | File | None))
        ):
            raise InvalidArgumentError(
                f"stderr {stderr!r} must equal stdout {stdout!r}, or both be FIFOs or files"
            )
        self._sinks: list[Sink] = []
        self._sources: list[Source] = []
        self._attach: AttachServer | None = None
        self._stdin: Stdin | None = None
        self._fifo_input: FifoInput | None = None
        self._console = -1
        self._parents: list[int] = []  # our ends of pipes until they have an owner
        self._linger: Timer | None = None
        self._exited = False
        self._input_over = False

    @property
    def attachable(self) -> bool:
        """Whether clients can attach, which they may want to do before the process is started."""
        return any(isinstance(each, Attach | JsonFile) for each in (self._input, self._stdout, self._stderr))

    async def open(self, container_id: str, namespace: str) -> None:
        """Open logs, sockets, FIFOs and pipes: from now on clients can attach.

        Raises OrlopError, and leaves nothing open then.
        """
        try:
            self._open_sinks()
            if isinstance(self._stdout, Binary):
                await self._start_logger(self._stdout, container_id, namespace)
            elif not self.terminal:
                self._open_pipes()
        except OSError as error:
            self.close()
            raise _named(error) from None
        except BaseException:
            self.close()
            raise
        self.opened = True

    def _open_sinks(self) -> None:
        if isinstance(self._input, Fifo) and not stat.S_ISFIFO(os.stat(self._input.path).st_mode):
            raise InvalidArgumentError(f"stdin {self._input.path} is no FIFO")
        targets: list[tuple[Output, tuple[int, ...]]] = []
        if self._stdout is not None:
            targets.append((self._stdout, (1, 2) if self._stdout == self._stderr else (1,)))
        if self._stderr is not None and self._stderr != self._stdout:
            targets.append((self._stderr, (2,)))
        for target, streams in targets:
            if isinstance(target, JsonFile | Local):
                self._sinks.append(_log_file(target))
                if target.attach:
                    self._listen(target.attach)
            elif isinstance(target, Attach):
                self._listen(target.path)
            elif isinstance(target, File):
                self._sinks.append(FileSink(target.path, streams))
            elif isinstance(target, Fifo):
                for stream in streams:
                    self._sinks.append(PipeSink.fifo(self._loop, target.path, stream, self._resume))
        if isinstance(self._input, Attach):
            if self._attach is None:
                self._listen(self._input.path)
            elif self._attach.path != self._input.path:
                raise InvalidArgumentError(
                    f"stdin: the attach socket {self._input.path} is not that of stdout, {self._attach.path}"
                )

    def _listen(self, path: str) -> None:
        self._attach = AttachServer(self._loop, path, self._resume)
        self._sinks.append(self._attach)

    async def _start_logger(self, target: Binary, container_id: str, namespace: str) -> None:
        logger = Logger(target, container_id, namespace)
        await logger.start(self._loop)
        if self.terminal:
            self._sinks.append(PipeSink(self._loop, logger.stdout, 1, self._resume))
            os.close(logger.stderr)
        else:  # the process writes to the program itself
            self.child = (self._stdin_pipe(), logger.stdout, logger.stderr)

    def _open_pipes(self) -> None:
        out = self._out_pipe(self._stdout, 1)
        err = self._out_pipe(self._stderr, 2)
        self.child = (self._stdin_pipe(), out, err)

    def _out_pipe(self, target: Output | None, stream: int) -> int:
        if target is None:
            return os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        ours, theirs = os.pipe()
        self._own(ours, theirs)
        self._sources.append(Source(self._loop, ours, stream, self._sinks, self._eof))
        return theirs

    def _stdin_pipe(self) -> int:
        if self._input is None:
            return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        theirs, ours = os.pipe()
        self._own(ours, theirs)
        self._feed(ours)
        return theirs

    def _own(self, *fds: int) -> None:
        if self._owner != (0, 0):
            for fd in fds:
                os.fchown(fd, *self._owner)

    def _feed(self, fd: int) -> None:
        self._stdin = Stdin(self._loop, fd)
        if isinstance(self._input, Attach) and self._attach is not None:
            self._attach.feed(self._stdin, self._input.once and not self.terminal)

    def console(self, master: int) -> None:
        """Take the master of the process's terminal, which the streams own from now on."""
        self._console = master
        # Its own descriptor each: epoll knows a descriptor once only.
        self._sources.append(Source(self._loop, _duplicate(master), 1, self._sinks, self._eof))
        if self._input is not None:
            self._feed(_duplicate(master))

    def started(self) -> None:
        """The process has its ends: close ours of them and begin to read."""
        self._close_child()
        for source in self._sources:
            source.start()

    def running(self) -> None:
        """The user's program runs: take input from the client's FIFO.

        Not before: containerd's clients can say that their input is over only once they know the task.
        """
        if isinstance(self._input, Fifo) and self._stdin is not None and not self._exited:
            try:
                self._fifo_input = FifoInput(self._loop, self._input.path, self._stdin)
                if self._input_over:
                    self._fifo_input.close_io()
            except OSError as error:
                log.error(f"stdin {self._input.path}: {error.strerror}")
                self._stdin.close()

    def _close_child(self) -> None:
        for fd in self.child:
            if fd >= 0:
                os.close(fd)
        self.child = (-1, -1, -1)

    def _resume(self) -> None:
        for source in self._sources:
            source.start()

    def _eof(self, source: Source) -> None:
        for sink in self._sinks:
            sink.end(source.stream)
        if all(source.ended for source in self._sources):
            self._finish()

    def exited(self) -> None:
        """The process is gone: take what is in the pipes, and give whoever holds them open a moment more."""
        self._exited = True
        for source in self._sources:
            source.drain()
        if self._stdin is not None:
            self._stdin.abort()
        if not self._sources:
            self._finish()
        elif not self.drained.done:
            self._linger = self._loop.call_later(LINGER, self._cut)

    def _cut(self) -> None:
        """Nobody waits for the rest, but whoever writes it must not be stopped."""
        for source in self._sources:
            source.discard()
        self._finish()

    def _finish(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
        for sink in self._sinks:
            sink.end(1)
            sink.end(2)
        self.drained.set_result(None)

    def resize(self, width: int, height: int) -> None:
        """Set the size of the terminal in characters. Raises FailedPreconditionError without one."""
        if self._console < 0:
            raise FailedPreconditionError("the process has no terminal")
        fcntl.ioctl(self._console, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def close_stdin(self) -> None:
        """No more input will come: the process reads end of file after what has been sent."""
        if isinstance(self._input, Fifo):
            self._input_over = True
            if self._fifo_input is not None:
                self._fifo_input.close_io()
        elif self._stdin is not None and not self.terminal:
            self._stdin.close()

    def close(self) -> None:
        """Release everything at once; attached clients that still read what waits for them keep reading."""
        if self._linger is not None:
            self._linger.cancel()
        self._close_child()
        for source in self._sources:
            source.stop()
        if self._fifo_input is not None:
            self._fifo_input.close()
        if self._stdin is not None:
            self._stdin.abort()
        for sink in self._sinks:
            sink.end(1)
            sink.end(2)
            sink.close()
        if self._console >= 0:
            os.close(self._console)
            self._console = -1
        self.drained.set_result(None)
        # They know each other: without this only the garbage collector would free them.
        self._sources.clear()
        self._sinks.clear()
        self._attach = None


def _duplicate(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _log_file(target: JsonFile | Local) -> Sink:
    if isinstance(target, JsonFile):
        make: Callable[..., Sink] = JsonLog
    else:
        from orlop.shim.io.locallog import LocalLog as make  # seldom wanted: not every shim's memory
    return make(
        target.path,
        max_size=target.max_size,
        max_file=target.max_file,
        compress=target.compress,
        attrs=target.attrs,
    )


def _named(error: OSError) -> OrlopError:
    kind = NotFoundError if isinstance(error, FileNotFoundError) else InvalidArgumentError
    return kind(f"standard streams: {error.filename or ''}: {(error.strerror or str(error)).lower()}")
