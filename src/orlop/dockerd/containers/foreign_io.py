# SPDX-License-Identifier: Apache-2.0
"""Standard streams of a process on a shim that is not ours: dockerd copies FIFOs, as Docker does.

The shim keeps both ends of each FIFO open, so a process only waits while dockerd is away; dockerd opens the same
paths again after its restart. What is in a FIFO when the shim closes it would be lost then: orlop-netd keeps those
of a log open, too.
"""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from orlop.dockerd.containers.attach_point import Stream, Wanted
from orlop.dockerd.containers.log_writer import LogWriter
from orlop.dockerd.containers.stdio import Stdio
from orlop.errdefs import InternalError, OrlopError
from orlop.rpc import stdcopy

_log = logging.getLogger(__name__)
_CHUNK = 64 * 1024
# A client that reads slowly slows the process down beyond this.
_CLIENT_LIMIT = 1024 * 1024
# How long the shim may take to close its FIFOs once the process has ended (a grandchild may hold them for ever).
_DRAIN_SECONDS = 2.0


class Keeper(Protocol):
    """Something that outlives this daemon and keeps FIFOs open for it (orlop-netd)."""

    async def keep(self, owner: str, paths: list[str]) -> None:
        """Keep them open until `drop`. Raises OrlopError."""
        ...

    async def drop(self, owner: str) -> None:
        """Close them. Raises OrlopError."""
        ...


class ForeignIO:
    """The FIFOs of one process below `directory`, what is copied out of them, and the clients.

    With a `keeper` the output outlives its writer for `owner` while this daemon is away.
    """

    def __init__(
        self,
        directory: Path,
        prefix: str,
        *,
        stdin: bool,
        tty: bool,
        once: bool,
        log: LogWriter | None,
        close_io: Callable[[], Awaitable[None]],
        owner: str = "",
        keeper: Keeper | None = None,
    ) -> None:
        self._paths = {
            name: str(directory / f"{prefix}-{name}")
            for name, used in (("stdin", stdin), ("stdout", True), ("stderr", not tty))
            if used
        }
        self._once = once
        self._log = log
        self._close_io = close_io
        self._owner = owner
        self._keeper = keeper
        self._clients: set[_HubStream] = set()
        self._readers: dict[str, int] = {}
        self._stdin = -1
        self._end_of_output: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._paused: list[int] = []
        self._closing: asyncio.Task[None] | None = None
        self.stdio = Stdio(self._paths.get("stdin", ""), self._paths["stdout"], self._paths.get("stderr", ""), tty)

    async def open(self, *, again: bool = False) -> None:
        """Make the FIFOs and begin to copy; `again`: take those whose process runs or has run already.

        Raises InternalError.
        """
        try:
            for path in self._paths.values():
                if not os.path.exists(path):
                    os.mkfifo(path, 0o600)
            await self._keep()
            if "stdin" in self._paths:
                # Held for reading and writing: opening for writing alone fails until the shim reads.
                self._stdin = os.open(self._paths["stdin"], os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            for name in ("stdout", "stderr"):
                if name in self._paths:
                    self._readers[name] = os.open(self._paths[name], os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise InternalError(f"standard streams: {error}") from None
        for name, fd in list(self._readers.items()):
            asyncio.get_running_loop().add_reader(fd, self._copy, name, fd)
            if again:  # poll(2) tells nothing of writers that left before: read what they left, then the end
                self._copy(name, fd)
                self._copy(name, fd)

    async def _keep(self) -> None:
        if self._keeper is not None:
            outputs = [path for name, path in self._paths.items() if name != "stdin"]
            try:
                await self._keeper.keep(self._owner, outputs)
            except OrlopError as error:
                _log.warning("output of %s may get lost while this daemon is away: %s", self._owner, error)

    async def _drop(self) -> None:
        if self._keeper is not None:
            try:
                await self._keeper.drop(self._owner)
            except OrlopError as error:
                _log.warning("fifos of %s stay open: %s", self._owner, error)

    async def connect(self, wanted: Wanted) -> Stream:
        """Join."""
        client = _HubStream(self, wanted)
        if self._readers:
            self._clients.add(client)
        else:
            client.end()
        return client

    async def finish(self, *, drain: bool = True) -> None:
        """Copy what is left, then remove the FIFOs."""
        if drain:
            await asyncio.wait({self._end_of_output}, timeout=_DRAIN_SECONDS)
        for name, fd in list(self._readers.items()):
            self._copy(name, fd)
            self._end(name)
        self._close_stdin_fd()
        await self._drop()
        for path in self._paths.values():
            Path(path).unlink(missing_ok=True)
        if self._closing is not None:
            await asyncio.wait({self._closing})

    # -- output

    def _copy(self, name: str, fd: int) -> None:
        if self._readers.get(name) != fd:
            return  # it has come to its end
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._end(name)
            return
        if self._log is not None:
            self._log.write(name, data)
        for client in list(self._clients):
            client.feed(name, data)
        if any(client.full for client in self._clients) and fd not in self._paused:
            asyncio.get_running_loop().remove_reader(fd)
            self._paused.append(fd)

    def _end(self, name: str) -> None:
        fd = self._readers.pop(name, -1)
        if fd < 0:
            return
        asyncio.get_running_loop().remove_reader(fd)
        if fd in self._paused:
            self._paused.remove(fd)
        os.close(fd)
        if self._log is not None:
            self._log.flush(name)
        if not self._readers:
            for client in self._clients:
                client.end()
            self._clients.clear()
            if self._log is not None:
                self._log.close()
            _resolve(self._end_of_output)

    def resume(self) -> None:
        """A client has room again (called by its stream)."""
        if any(client.full for client in self._clients):
            return
        for name, fd in self._readers.items():
            if fd in self._paused:
                asyncio.get_running_loop().add_reader(fd, self._copy, name, fd)
        self._paused.clear()

    def leave(self, client: "_HubStream") -> None:
        """A client is gone (called by its stream)."""
        self._clients.discard(client)
        self.resume()

    # -- input

    async def feed_stdin(self, data: bytes) -> None:
        """Write input, waiting while the process does not read. Raises ConnectionError after the end."""
        view = memoryview(data)
        while view:
            if self._stdin < 0:
                raise ConnectionResetError("standard input is closed")
            try:
                view = view[os.write(self._stdin, view) :]
            except BlockingIOError:
                await self._writable()

    def close_stdin(self) -> None:
        """A client that fed input is done; with StdinOnce the process gets end of file."""
        if self._once and self._stdin >= 0:
            self._close_stdin_fd()
            self._closing = asyncio.ensure_future(self._tell_closed())

    async def _tell_closed(self) -> None:
        await self._close_io()

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        fd = self._stdin
        loop.add_writer(fd, _resolve, ready)
        try:
            await asyncio.wait({ready, self._end_of_output}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            loop.remove_writer(fd)

    def _close_stdin_fd(self) -> None:
        fd, self._stdin = self._stdin, -1
        if fd >= 0:
            asyncio.get_running_loop().remove_writer(fd)
            os.close(fd)


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


class _HubStream:
    """One client of a ForeignIO."""

    def __init__(self, hub: ForeignIO, wanted: Wanted) -> None:
        self._hub = hub
        self._wanted = wanted
        self._frames: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._wakeup = asyncio.Event()

    @property
    def full(self) -> bool:
        return self._size > _CLIENT_LIMIT

    def feed(self, name: str, data: bytes) -> None:
        if name == "stdout" and self._wanted.stdout:
            frame = stdcopy.encode(stdcopy.STDOUT, data)
        elif name == "stderr" and self._wanted.stderr:
            frame = stdcopy.encode(stdcopy.STDERR, data)
        else:
            return
        self._frames.append(frame)
        self._size += len(frame)
        self._wakeup.set()

    def end(self) -> None:
        self._ended = True
        self._wakeup.set()

    async def read(self) -> bytes:
        while not self._frames:
            if self._ended:
                return b""
            self._wakeup.clear()
            await self._wakeup.wait()
        data = b"".join(self._frames)
        self._frames.clear()
        was_full, self._size = self.full, 0
        if was_full:
            self._hub.resume()
        return data

    async def write(self, data: bytes) -> None:
        await self._hub.feed_stdin(data)

    def close_stdin(self) -> None:
        if self._wanted.stdin:
            self._hub.close_stdin()

    def close(self) -> None:
        self.end()
        self._hub.leave(self)
