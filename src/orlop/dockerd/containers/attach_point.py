# SPDX-License-Identifier: Apache-2.0
"""Where clients of a process's standard streams meet the process, before it runs as well as while it runs."""

import asyncio
from typing import NamedTuple, Protocol

import msgspec

from orlop import codec
from orlop.errdefs import InternalError, OrlopError, UnavailableError

_CHUNK = 64 * 1024


class Wanted(NamedTuple):
    """Which streams a client takes part in."""

    stdin: bool = False
    stdout: bool = True
    stderr: bool = True


class Stream(Protocol):
    """A client's connection to a process: stdcopy frames out (a terminal is all stdout), raw input in."""

    async def read(self) -> bytes:
        """The next bytes of the framed output, cut anywhere; empty when the process has ended and all was read."""
        ...

    async def write(self, data: bytes) -> None:
        """Feed standard input. Raises ConnectionError when the process takes no more."""
        ...

    def close_stdin(self) -> None:
        """No more input from this client."""
        ...

    def close(self) -> None:
        """Leave."""
        ...


class Source(Protocol):
    """Something that clients can connect to while the process runs."""

    async def connect(self, wanted: Wanted) -> Stream:
        """Join: all output from now on reaches the stream. Raises OrlopError."""
        ...

    async def finish(self, *, drain: bool = True) -> None:
        """The process has ended: take in what is left of its output (if `drain`), and let go of everything."""
        ...


class AttachPoint:
    """Clients may come before the process: they wait here, and are connected before it runs its first instruction.

    Lifecycle, once a run: `open(source)` between the creation and the start of the task, `finish()` after its end.
    """

    def __init__(self) -> None:
        self._source: Source | None = None
        self._waiting: list[tuple[Wanted, asyncio.Future[Stream | None]]] = []

    async def connect(self, wanted: Wanted) -> Stream | None:
        """A stream; waits for the process if there is none yet. None: it will not come. Raises OrlopError."""
        if self._source is not None:
            return await self._source.connect(wanted)
        future: asyncio.Future[Stream | None] = asyncio.get_running_loop().create_future()
        entry = (wanted, future)
        self._waiting.append(entry)
        try:
            return await future
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    async def open(self, source: Source) -> None:
        """Connect all who wait; returns when their output is sure to arrive."""
        self._source = source
        waiting, self._waiting = self._waiting, []
        if waiting:
            await asyncio.gather(*(_join(source, wanted, future) for wanted, future in waiting))

    async def finish(self) -> None:
        """The process has ended; streams end by themselves, and who comes now waits for the next run."""
        source, self._source = self._source, None
        if source is not None:
            await source.finish()

    async def abandon(self) -> None:
        """The process will not come (any more): those who wait get nothing."""
        waiting, self._waiting = self._waiting, []
        for _, future in waiting:
            if not future.done():
                future.set_result(None)
        source, self._source = self._source, None
        if source is not None:
            await source.finish(drain=False)


async def _join(source: Source, wanted: Wanted, future: "asyncio.Future[Stream | None]") -> None:
    try:
        stream = await source.connect(wanted)
    except OrlopError as error:
        if not future.done():
            future.set_exception(error)
        return
    if future.done():
        stream.close()
    else:
        future.set_result(stream)


class AttachSocket:
    """The attach socket of our shim (docs/architecture.md, seam 1)."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def connect(self, wanted: Wanted) -> Stream:
        """Join. Raises UnavailableError when nobody listens, InternalError when the shim refuses."""
        try:
            reader, writer = await asyncio.open_unix_connection(self._path, limit=4 * _CHUNK)
        except OSError as error:
            raise UnavailableError(f"attach to {self._path}: {error.strerror or error}") from None
        try:
            writer.write(codec.encode(wanted._asdict()) + b"\n")
            answer = msgspec.json.decode(await reader.readuntil(b"\n"), type=dict[str, bool | str])
        except (OSError, asyncio.IncompleteReadError, msgspec.DecodeError) as error:
            writer.close()
            raise UnavailableError(f"attach to {self._path}: {error}") from None
        if answer.get("attached") is not True:
            writer.close()
            raise InternalError(f"attach: {answer.get('error', 'refused')}")
        if not wanted.stdin:
            writer.write_eof()
        return _SocketStream(reader, writer)

    async def finish(self, *, drain: bool = True) -> None:
        """Nothing: the shim ends every connection itself once the output is drained."""


class _SocketStream:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        try:
            return await self._reader.read(_CHUNK)
        except ConnectionError:
            return b""

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def close_stdin(self) -> None:
        if not self._writer.is_closing() and self._writer.can_write_eof():
            try:
                self._writer.write_eof()
            except OSError:
                self._writer.close()  # the shim is gone already

    def close(self) -> None:
        self._writer.close()
