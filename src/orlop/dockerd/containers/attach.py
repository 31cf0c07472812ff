# SPDX-License-Identifier: Apache-2.0
"""Attach a client to a process: output to it, its input to the process."""

import asyncio
import enum
from typing import NamedTuple, Protocol

from orlop.dockerd.containers.attach_point import Stream, Wanted
from orlop.dockerd.containers.escape import EscapeFilter, parse_keys
from orlop.dockerd.containers.logs import Logs, LogsRequest
from orlop.dockerd.containers.registry import Registry
from orlop.errdefs import ConflictError
from orlop.rpc import stdcopy


class Client(Protocol):
    """The client's end: raw bytes in both directions."""

    @property
    def left(self) -> "asyncio.Future[None]":
        """Done when the client is known to read no more."""
        ...

    async def read(self) -> bytes:
        """The client's input; empty at its end."""
        ...

    def write(self, data: bytes) -> None:
        """Queue output. Raises ConnectionError."""
        ...

    async def drain(self) -> None:
        """Wait for room. Raises ConnectionError."""
        ...


class AttachRequest(NamedTuple):
    """The query of an attach request."""

    stdin: bool
    stdout: bool
    stderr: bool
    stream: bool
    logs: bool
    detach_keys: str


class Attach:
    """The use case for containers."""

    def __init__(self, registry: Registry, logs: Logs) -> None:
        self._registry = registry
        self._logs = logs

    def check(self, reference: str, request: AttachRequest) -> bool:
        """Whether the container has a terminal. Raises NotFoundError, ConflictError, InvalidArgumentError.

        To be called before the connection is taken over, so that these reach the client as HTTP errors.
        """
        container = self._registry.get(reference)
        state = container.record.state
        if state.paused:
            raise ConflictError(f"container {reference} is paused, unpause the container before attach")
        if state.restarting:
            raise ConflictError(f"container {reference} is restarting, wait until the container is running")
        parse_keys(request.detach_keys)
        return container.record.config.tty

    async def __call__(self, reference: str, request: AttachRequest, client: Client) -> None:
        """Serve the client until the process has ended, the client left or has pressed the detach keys."""
        container = self._registry.get(reference)
        config = container.record.config
        if request.logs:
            await self._replay(reference, request, client)
        if not request.stream:
            return
        self._registry.publish(container, "attach")
        wanted = Wanted(request.stdin and config.open_stdin, request.stdout, request.stderr)
        stream = await container.attach.connect(wanted)
        if stream is None:
            return
        keys = parse_keys(request.detach_keys) if config.tty and wanted.stdin else b""
        if await serve(stream, client, tty=config.tty, stdin=wanted.stdin, keys=keys):
            self._registry.publish(container, "detach")

    async def _replay(self, reference: str, request: AttachRequest, client: Client) -> None:
        wanted = LogsRequest(stdout=request.stdout, stderr=request.stderr)
        async for chunk in self._logs(reference, wanted):
            client.write(chunk)
            await client.drain()


async def serve(stream: Stream, client: Client, *, tty: bool, stdin: bool, keys: bytes) -> bool:
    """Copy in both directions until the output ends or the client goes; true if it detached by its keys.

    The end of the client's input is passed on and does not end the output.
    """
    output = asyncio.ensure_future(_copy_output(stream, client, tty))
    feeding = asyncio.ensure_future(_copy_input(stream, client, keys)) if stdin else None
    try:
        if feeding is not None:
            await asyncio.wait({output, feeding}, return_when=asyncio.FIRST_COMPLETED)
            if feeding.done() and feeding.result() is not _Input.ENDED:
                return feeding.result() is _Input.DETACHED
        await asyncio.wait({output, client.left}, return_when=asyncio.FIRST_COMPLETED)
        if output.done():
            output.result()
        return False
    except ConnectionError:
        return False  # nobody there any more to tell
    finally:
        for task in (output, feeding):
            if task is not None:
                task.cancel()
        await asyncio.wait({task for task in (output, feeding) if task is not None})
        stream.close()


async def _copy_output(stream: Stream, client: Client, tty: bool) -> None:
    decoder = stdcopy.Decoder()
    while data := await stream.read():
        if tty:
            data = b"".join(payload for _, payload in decoder.feed(data))
        client.write(data)
        await client.drain()


class _Input(enum.Enum):
    ENDED = enum.auto()
    DETACHED = enum.auto()
    LEFT = enum.auto()
    """The client of a terminal sends no more: so the docker command leaves, having seen the keys itself."""


async def _copy_input(stream: Stream, client: Client, keys: bytes) -> _Input:
    escape = EscapeFilter(keys) if keys else None
    while data := await client.read():
        if escape is not None:
            data = escape.feed(data)
        if data:
            try:
                await stream.write(data)
            except (ConnectionError, BrokenPipeError):
                return _Input.ENDED  # the process has ended or closed its input; its output is still to be copied
        if escape is not None and escape.escaped:
            return _Input.DETACHED
    if escape is not None:
        return _Input.LEFT
    stream.close_stdin()
    return _Input.ENDED
