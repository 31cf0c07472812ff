# SPDX-License-Identifier: Apache-2.0
"""The output of a container so far, and as it goes on."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple
from urllib.parse import quote_plus

from orlop.dockerd import timestamps
from orlop.dockerd.containers.container import Container, ExitInfo
from orlop.dockerd.containers.log_files import Entry, LogReader
from orlop.dockerd.containers.model import ContainerRecord
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.containers.stdio import READABLE_DRIVERS
from orlop.errdefs import ConflictError, InvalidArgumentError, NotImplementedByUsError
from orlop.rpc import stdcopy

_CHUNK = 64 * 1024
_STREAMS = {"stdout": stdcopy.STDOUT, "stderr": stdcopy.STDERR}


class LogsRequest(NamedTuple):
    """`since` and `until` in nanoseconds since 1970 (0: open), `tail` in lines (negative: all)."""

    stdout: bool = True
    stderr: bool = True
    follow: bool = False
    since: int = 0
    until: int = 0
    timestamps: bool = False
    details: bool = False
    tail: int = -1


class Logs:
    """The use case."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def check(self, reference: str, request: LogsRequest) -> bool:
        """Whether the container has a terminal. Raises NotFoundError and what the request lacks."""
        container = self._registry.get(reference)
        if not (request.stdout or request.stderr):
            raise InvalidArgumentError("Bad parameters: you must choose at least one stream")
        driver = container.record.host_config.log_config.type
        if driver not in READABLE_DRIVERS:
            raise NotImplementedByUsError("configured logging driver does not support reading")
        if container.record.state.dead or container.record.state.removing:
            raise ConflictError("can not get logs from container which is dead or marked for removal")
        return container.record.config.tty

    async def __call__(self, reference: str, request: LogsRequest) -> AsyncIterator[bytes]:
        """The bytes to send: stdcopy frames, or plain text where the container has a terminal."""
        container = self._registry.get(reference)
        form = _Form(container.record, request)
        reader = LogReader(container.record.log_path)
        reader.open(request.tail)
        try:
            for chunk in _chunks(form, reader):
                yield chunk
                await asyncio.sleep(0)  # a long log must not hold up everybody else
            if request.follow and not form.past_until:
                async for entry in reader.follow(lambda: _ended(container)):
                    if data := form.render(entry):
                        yield data
                    if form.past_until:
                        return
        finally:
            reader.close()


def _ended(container: Container) -> "asyncio.Future[ExitInfo] | None":
    if not container.record.state.running:
        return None
    return container.on_stop()


def _chunks(form: "_Form", reader: LogReader) -> Iterator[bytes]:
    pending = bytearray()
    for entry in reader.read():
        pending += form.render(entry)
        if form.past_until:
            break
        if len(pending) >= _CHUNK:
            yield bytes(pending)
            pending.clear()
    if pending:
        yield bytes(pending)


class _Form:
    """How entries are selected and written."""

    def __init__(self, record: ContainerRecord, request: LogsRequest) -> None:
        self._request = request
        self._tty = record.config.tty
        self._prefix = _details(record) if request.details else ""
        self._wanted = {name for name in _STREAMS if getattr(request, name)}
        self.past_until = False

    def render(self, entry: Entry) -> bytes:
        """One entry's bytes; empty if it is not wanted."""
        request = self._request
        if request.until and entry.time > request.until:
            self.past_until = True
            return b""
        if entry.stream not in self._wanted or entry.time < request.since:
            return b""
        text = entry.log
        if request.details:
            text = f"{self._prefix} {text}"
        if request.timestamps:
            text = f"{timestamps.rfc3339_fixed(entry.time)} {text}"
        payload = text.encode("utf-8", "surrogateescape")
        return payload if self._tty else stdcopy.encode(_STREAMS[entry.stream], payload)


def _details(record: ContainerRecord) -> str:
    """The labels and environment variables that the log options name: `a=1,b=2`."""
    options = record.host_config.log_config.config
    found = {}
    for key in filter(None, options.get("labels", "").split(",")):
        if key in record.config.labels:
            found[key] = record.config.labels[key]
    environment = dict(entry.partition("=")[::2] for entry in record.config.env)
    for key in filter(None, options.get("env", "").split(",")):
        if key in environment:
            found[key] = environment[key]
    return ",".join(f"{quote_plus(key)}={quote_plus(value)}" for key, value in sorted(found.items()))
