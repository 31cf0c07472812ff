# SPDX-License-Identifier: Apache-2.0
"""The output of a container so far, and as it goes on."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple
from urllib.parse import quote_plus

from orlop.dockerd import timestamps
from orlop.dockerd.containers.container import Container, ExitInfo
from orlop.dockerd.containers.log_files import LogReader
from orlop.dockerd.containers.model import ContainerRecord
from orlop.dockerd.containers.paths import Paths
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.logging.about import attributes_and_tag
from orlop.dockerd.logging.forms import Entry
from orlop.dockerd.logging.options import readable
from orlop.dockerd.logging.place import place
from orlop.dockerd.logging.watcher import Watcher
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

    def __init__(self, registry: Registry, paths: Paths, watcher: Watcher) -> None:
        self._registry = registry
        self._paths = paths
        self._watcher = watcher

    def check(self, reference: str, request: LogsRequest) -> bool:
        """Whether the container has a terminal. Raises NotFoundError and what the request lacks."""
        container = self._registry.get(reference)
        if not (request.stdout or request.stderr):
            raise InvalidArgumentError("Bad parameters: you must choose at least one stream")
        if not readable(container.record.host_config.log_config):
            raise NotImplementedByUsError("configured logging driver does not support reading")
        if container.record.state.dead or container.record.state.removing:
            raise ConflictError("can not get logs from container which is dead or marked for removal")
        return container.record.config.tty

    async def __call__(self, reference: str, request: LogsRequest) -> AsyncIterator[bytes]:
        """The bytes to send: stdcopy frames, or plain text where the container has a terminal."""
        container = self._registry.get(reference)
        form = _Form(container.record, request)
        log = place(container.record, self._paths.data(container.id))
        if log is None:
            return
        reader = LogReader(log.path, log.form, self._watcher)
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
    """What the log options name, labels and variables of the container and the tag: `a=1,b=2`."""
    found = attributes_and_tag(record)
    return ",".join(f"{quote_plus(key)}={quote_plus(value)}" for key, value in sorted(found.items()))
