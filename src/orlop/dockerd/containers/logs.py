# SPDX-License-Identifier: Apache-2.0
"""The output of a container so far, and as it goes on."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote_plus

from orlop.dockerd import timestamps
from orlop.dockerd.containers.container import Container, ExitInfo
from orlop.dockerd.containers.log_files import LogReader
from orlop.dockerd.containers.model import ContainerRecord
from orlop.dockerd.containers.paths import Paths
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.logging.about import attributes_and_tag
from orlop.dockerd.logging.forms import Entry
from orlop.dockerd.logging.kept import KeptLogs
from orlop.dockerd.logging.options import readable
from orlop.dockerd.logging.place import place
from orlop.dockerd.logging.watcher import Watcher
from orlop.errdefs import ConflictError, InvalidArgumentError, NotFoundError, NotImplementedByUsError
from orlop.rpc import stdcopy

_CHUNK = 64 * 1024
_STREAMS = {"stdout": stdcopy.STDOUT, "stderr": stdcopy.STDERR}

Encode = Callable[[Any], bytes]


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
    previous: bool = False
    """Not in Docker: what the run before the latest has written, or the container of that name before this one."""


class Logs:
    """The use case."""

    def __init__(self, registry: Registry, paths: Paths, watcher: Watcher, kept: KeptLogs) -> None:
        self._registry = registry
        self._paths = paths
        self._watcher = watcher
        self._kept = kept

    def check(self, reference: str, request: LogsRequest) -> bool:
        """Whether the container has a terminal. Raises NotFoundError and what the request lacks."""
        if not (request.stdout or request.stderr):
            raise InvalidArgumentError("must specify at least one of 'stdout' or 'stderr'")
        if request.previous and request.follow:
            raise InvalidArgumentError("what an earlier run has written cannot be followed")
        record = self._source(reference, request).record
        if not readable(record.host_config.log_config):
            raise NotImplementedByUsError("configured logging driver does not support reading")
        if record.state.dead or record.state.removing:
            raise ConflictError("can not get logs from container which is dead or marked for removal")
        return record.config.tty

    async def __call__(
        self, reference: str, request: LogsRequest, encode: Encode | None = None
    ) -> AsyncIterator[bytes]:
        """The bytes to send: stdcopy frames, or plain text where the container has a terminal; with `encode`
        each entry as the object that Docker makes of it, encoded."""
        record, directory, container, request = self._source(reference, request)
        form = _Form(record, request) if encode is None else _ObjectForm(record, request, encode)
        log = place(record, directory)
        if log is None:
            return
        reader = LogReader(log.path, log.form, self._watcher)
        # The lines of the latest run stand behind those of the one before.
        reader.open(-1 if request.previous else request.tail)
        try:
            entries = reader.read()
            if request.previous and request.tail >= 0:
                entries = iter(deque(form.wanted(entries), request.tail))
            for chunk in _chunks(form, entries):
                yield chunk
                await asyncio.sleep(0)  # a long log must not hold up everybody else
            if request.follow and container is not None and not form.past_until:
                async for entry in reader.follow(lambda: _ended(container)):
                    if data := form.render(entry):
                        yield data
                    if form.past_until:
                        return
        finally:
            reader.close()

    def _source(self, reference: str, request: LogsRequest) -> "_Source":
        try:
            container = self._registry.get(reference)
        except NotFoundError:
            if (kept := self._kept.find(reference)) is None:
                raise
            return _Source(kept.kept.record, kept.directory, None, request._replace(previous=False))
        record = container.record
        if not request.previous:
            return _Source(record, self._paths.data(record.id), container, request)
        if record.previous_start:
            since = max(request.since, record.previous_start)
            until = min(request.until or record.state.started_at, record.state.started_at - 1)
            return _Source(record, self._paths.data(record.id), None, request._replace(since=since, until=until))
        if (kept := self._kept.find(record.name)) is None:
            raise NotFoundError(f"container {record.name} has had no earlier run, nor is a log of its name kept")
        return _Source(kept.kept.record, kept.directory, None, request._replace(previous=False))


class _Source(NamedTuple):
    """Whose log it is, where it lies, the container if that is still there, and the request in its terms."""

    record: ContainerRecord
    directory: Path
    container: Container | None
    request: LogsRequest


def _ended(container: Container) -> "asyncio.Future[ExitInfo] | None":
    if not container.record.state.running:
        return None
    return container.on_stop()


def _chunks(form: "_Form", entries: Iterator[Entry]) -> Iterator[bytes]:
    pending = bytearray()
    for entry in entries:
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
        # What the log options name, labels and variables of the container and the tag: `a=1,b=2`.
        self._attributes = sorted(attributes_and_tag(record).items()) if request.details else []
        self._prefix = ",".join(f"{quote_plus(key)}={quote_plus(value)}" for key, value in self._attributes)
        self._wanted = {name for name in _STREAMS if getattr(request, name)}
        self.past_until = False

    def wanted(self, entries: Iterator[Entry]) -> Iterator[Entry]:
        """Those of the wanted streams and time."""
        for entry in entries:
            if self._request.until and entry.time > self._request.until:
                return
            if entry.stream in self._wanted and entry.time >= self._request.since:
                yield entry

    def render(self, entry: Entry) -> bytes:
        """One entry's bytes; empty if it is not wanted."""
        request = self._request
        if request.until and entry.time > request.until:
            self.past_until = True
            return b""
        if entry.stream not in self._wanted or entry.time < request.since:
            return b""
        return self._bytes(entry)

    def _bytes(self, entry: Entry) -> bytes:
        request = self._request
        text = entry.log
        if request.details:
            text = f"{self._prefix} {text}"
        if request.timestamps:
            text = f"{timestamps.rfc3339_fixed(entry.time)} {text}"
        payload = text.encode("utf-8", "surrogateescape")
        return payload if self._tty else stdcopy.encode(_STREAMS[entry.stream], payload)


class _ObjectForm(_Form):
    """An object each, of the members of moby's json_logstream.go."""

    def __init__(self, record: ContainerRecord, request: LogsRequest, encode: Encode) -> None:
        super().__init__(record, request)
        self._encode = encode

    def _bytes(self, entry: Entry) -> bytes:
        line = entry.log.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        found: dict[str, Any] = {"Line": line} if line else {}
        found |= {"Source": entry.stream, "Timestamp": timestamps.rfc3339(entry.time)}
        if self._attributes:
            found["Attrs"] = [{"Key": key, "Value": value} for key, value in self._attributes]
        return self._encode(found)
