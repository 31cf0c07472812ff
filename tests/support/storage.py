# SPDX-License-Identifier: Apache-2.0
"""The storage of containerd for tests: opened in process, or reached over gRPC at any daemon."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from orlop.api import content_pb2, content_pb2_grpc, snapshots_pb2, snapshots_pb2_grpc
from orlop.containerd.core import content, snapshots
from orlop.containerd.core.mount import Mount, from_proto
from orlop.containerd.core.namespaces import Scope
from orlop.containerd.services.times import from_timestamp
from orlop.containerd.storage import Settings, Storage, open_storage
from orlop.errdefs import AlreadyExistsError
from orlop.rpc.grpc import from_rpc_error
from orlop.unix import mount as unix_mount


class Events:
    """An event publisher that remembers."""

    def __init__(self) -> None:
        self.published: list[tuple[str, str, Message]] = []

    def publish(self, namespace: str, topic: str, event: Message) -> None:
        """Remember the event."""
        self.published.append((namespace, topic, event))

    def topics(self) -> list[str]:
        """The topics, in order."""
        return [topic for _, topic, _ in self.published]


class LocalStorage:
    """A storage in a directory of its own; `reopen` is what a restart of the daemon does."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.base = tempfile.mkdtemp(prefix="orlop-storage-", dir="/var/tmp")
        self.events = Events()
        self.settings = settings
        self.storage = self._open()

    def _open(self) -> Storage:
        return open_storage(f"{self.base}/root", f"{self.base}/state", self.events, self.settings)

    def reopen(self) -> Storage:
        """Close it and open it again."""
        self.storage.close()
        self.storage = self._open()
        return self.storage

    def remove(self) -> None:
        """Close it and remove its directory."""
        self.storage.close()
        shutil.rmtree(self.base)


def digest_of(data: bytes) -> str:
    """The digest of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def put(store: content.ContentStore, data: bytes, labels: Mapping[str, str] | None = None) -> str:
    """Write a blob, unless it is there; its digest."""
    digest = digest_of(data)
    try:
        writer = store.writer(f"put-{digest}", len(data), digest)
    except AlreadyExistsError:
        return digest
    try:
        if writer.status().offset == 0:
            writer.write(data)
        writer.commit(len(data), digest, labels)
    finally:
        writer.close()
    return digest


def read(store: content.ContentStore, digest: str) -> bytes:
    """The bytes of a blob."""
    reader = store.reader(digest)
    try:
        return reader.read_at(0, reader.size)
    finally:
        reader.close()


@contextlib.contextmanager
def opened(mounts: Sequence[Mount]) -> Iterator[str]:
    """The tree that mounts show, as a path, without attaching it anywhere."""
    (mount,) = mounts
    fd = unix_mount.detached_mount(mount.type, mount.source, mount.options)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def metadata_of(scope: Scope) -> tuple[tuple[str, str], ...]:
    """What carries the scope in a call."""
    lease = (("containerd-lease", scope.lease),) if scope.lease else ()
    return (("containerd-namespace", scope.namespace), *lease)


class _Remote:
    def __init__(self, channel: grpc.Channel, scope: Scope) -> None:
        self._channel = channel
        self._metadata = metadata_of(scope)

    def _call(self, method: Any, request: Message) -> Any:
        try:
            answer = method(request, metadata=self._metadata, timeout=20)
            return list(answer) if hasattr(answer, "__iter__") else answer
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None  # type: ignore[arg-type]


class RemoteSnapshotter(_Remote):
    """A Snapshotter behind gRPC."""

    def __init__(self, channel: grpc.Channel, scope: Scope, name: str) -> None:
        super().__init__(channel, scope)
        self._stub = snapshots_pb2_grpc.SnapshotsStub(channel)
        self._name = name

    def stat(self, key: str) -> snapshots.Info:
        """One snapshot."""
        request = snapshots_pb2.StatSnapshotRequest(snapshotter=self._name, key=key)
        return _snapshot(self._call(self._stub.Stat, request).info)

    def update(self, name: str, labels: Mapping[str, str], paths: Sequence[str]) -> snapshots.Info:
        """Change labels."""
        request = snapshots_pb2.UpdateSnapshotRequest(
            snapshotter=self._name,
            info=snapshots_pb2.Info(name=name, labels=labels),
            update_mask=FieldMask(paths=paths),
        )
        return _snapshot(self._call(self._stub.Update, request).info)

    def usage(self, key: str) -> snapshots.Usage:
        """What it takes."""
        usage = self._call(self._stub.Usage, snapshots_pb2.UsageRequest(snapshotter=self._name, key=key))
        return snapshots.Usage(usage.size, usage.inodes)

    def mounts(self, key: str) -> list[Mount]:
        """What to mount."""
        request = snapshots_pb2.MountsRequest(snapshotter=self._name, key=key)
        return from_proto(self._call(self._stub.Mounts, request).mounts)

    def prepare(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        """Create an active snapshot."""
        request = snapshots_pb2.PrepareSnapshotRequest(
            snapshotter=self._name, key=key, parent=parent, labels=labels or {}
        )
        return from_proto(self._call(self._stub.Prepare, request).mounts)

    def view(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        """Create a view."""
        request = snapshots_pb2.ViewSnapshotRequest(
            snapshotter=self._name, key=key, parent=parent, labels=labels or {}
        )
        return from_proto(self._call(self._stub.View, request).mounts)

    def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None) -> None:
        """Commit."""
        request = snapshots_pb2.CommitSnapshotRequest(
            snapshotter=self._name, name=name, key=key, labels=labels or {}
        )
        self._call(self._stub.Commit, request)

    def remove(self, key: str) -> None:
        """Remove."""
        self._call(self._stub.Remove, snapshots_pb2.RemoveSnapshotRequest(snapshotter=self._name, key=key))

    def walk(self, filters: Sequence[str] = ()) -> Iterator[snapshots.Info]:
        """The snapshots that match."""
        request = snapshots_pb2.ListSnapshotsRequest(snapshotter=self._name, filters=filters)
        return (_snapshot(info) for page in self._call(self._stub.List, request) for info in page.info)

    def cleanup(self) -> None:
        """Delete waste."""
        self._call(self._stub.Cleanup, snapshots_pb2.CleanupRequest(snapshotter=self._name))


class RemoteContent(_Remote):
    """A ContentStore behind gRPC."""

    def __init__(self, channel: grpc.Channel, scope: Scope) -> None:
        super().__init__(channel, scope)
        self._stub = content_pb2_grpc.ContentStub(channel)

    def info(self, digest: str) -> content.Info:
        """One blob."""
        return _blob(self._call(self._stub.Info, content_pb2.InfoRequest(digest=digest)).info)

    def update(self, digest: str, labels: Mapping[str, str], paths: Sequence[str]) -> content.Info:
        """Change labels."""
        request = content_pb2.UpdateRequest(
            info=content_pb2.Info(digest=digest, labels=labels), update_mask=FieldMask(paths=paths)
        )
        return _blob(self._call(self._stub.Update, request).info)

    def walk(self, filters: Sequence[str] = ()) -> Iterator[content.Info]:
        """The blobs that match."""
        pages = self._call(self._stub.List, content_pb2.ListContentRequest(filters=filters))
        return (_blob(info) for page in pages for info in page.info)

    def delete(self, digest: str) -> None:
        """Take a blob away."""
        self._call(self._stub.Delete, content_pb2.DeleteContentRequest(digest=digest))

    def reader(self, digest: str) -> RemoteReader:
        """Open a blob."""
        return RemoteReader(self, digest, self.info(digest).size)

    def read(self, digest: str, offset: int, size: int) -> bytes:
        """Some bytes of a blob."""
        request = content_pb2.ReadContentRequest(digest=digest, offset=offset, size=size)
        return b"".join(answer.data for answer in self._call(self._stub.Read, request))

    def writer(self, ref: str, total: int = 0, expected: str = "") -> RemoteWriter:
        """Open an ingest."""
        return RemoteWriter(self._stub, self._metadata, ref, total, expected)

    def status(self, ref: str) -> content.IngestStatus:
        """One ingest."""
        return _ingest(self._call(self._stub.Status, content_pb2.StatusRequest(ref=ref)).status)

    def statuses(self, filters: Sequence[str] = ()) -> list[content.IngestStatus]:
        """The ingests that match."""
        answer = self._call(self._stub.ListStatuses, content_pb2.ListStatusesRequest(filters=filters))
        return [_ingest(status) for status in answer.statuses]

    def abort(self, ref: str) -> None:
        """Throw an ingest away."""
        self._call(self._stub.Abort, content_pb2.AbortRequest(ref=ref))


class RemoteReader:
    """A blob behind gRPC."""

    def __init__(self, store: RemoteContent, digest: str, size: int) -> None:
        self._store = store
        self._digest = digest
        self.size = size

    def fileno(self) -> int:
        """There is none."""
        raise OSError("a remote blob has no descriptor")

    def read_at(self, offset: int, size: int) -> bytes:
        """Some bytes."""
        return self._store.read(self._digest, offset, size)

    def close(self) -> None:
        """Nothing is open."""


class RemoteWriter:
    """A Write call, one message at a time."""

    def __init__(self, stub: Any, metadata: Any, ref: str, total: int, expected: str) -> None:
        self._requests: list[content_pb2.WriteContentRequest] = []
        self._ready = threading.Condition()
        self._done = False
        self._ref, self._total, self._expected = ref, total, expected
        self._call = stub.Write(self._feed(), metadata=metadata, timeout=20)
        self._state = self._send(content_pb2.STAT, total=total, expected=expected)

    def _feed(self) -> Iterator[content_pb2.WriteContentRequest]:
        while True:
            with self._ready:
                while not self._requests and not self._done:
                    self._ready.wait()
                if not self._requests:
                    return
                request = self._requests.pop(0)
            yield request

    def _send(self, action: int, **fields: Any) -> content_pb2.WriteContentResponse:
        with self._ready:
            self._requests.append(content_pb2.WriteContentRequest(action=action, ref=self._ref, **fields))  # type: ignore[arg-type]
            self._ready.notify()
        try:
            answer: content_pb2.WriteContentResponse = next(self._call)
        except grpc.RpcError as error:
            self.close()
            raise from_rpc_error(error) from None  # type: ignore[arg-type]
        return answer

    def status(self) -> content.IngestStatus:
        """How far it is."""
        state = self._send(content_pb2.STAT)
        started, updated = from_timestamp(state.started_at), from_timestamp(state.updated_at)
        return content.IngestStatus(self._ref, state.offset, state.total, self._expected, started, updated)

    def digest(self) -> str:
        """The digest so far."""
        return self._send(content_pb2.STAT).digest

    def write(self, data: bytes) -> None:
        """Append."""
        self._state = self._send(content_pb2.WRITE, offset=self._state.offset, data=data)

    def truncate(self) -> None:
        """Begin again."""
        self._state = self._send(content_pb2.WRITE, offset=0)

    def sync(self) -> None:
        """The daemon does it."""

    def commit(self, size: int = 0, expected: str = "", labels: Mapping[str, str] | None = None) -> content.Info:
        """Make a blob of it."""
        state = self._send(
            content_pb2.COMMIT, offset=self._state.offset, total=size, expected=expected, labels=labels or {}
        )
        self.close()
        return content.Info(state.digest, state.offset, 0, 0, dict(labels or {}))

    def close(self) -> None:
        """End the call and wait until the daemon has let the ref go."""
        with self._ready:
            self._done = True
            self._ready.notify()
        with contextlib.suppress(grpc.RpcError):
            for _ in self._call:
                continue


def _snapshot(info: snapshots_pb2.Info) -> snapshots.Info:
    return snapshots.Info(
        info.name,
        info.parent,
        snapshots.Kind(info.kind),
        from_timestamp(info.created_at),
        from_timestamp(info.updated_at),
        dict(info.labels),
    )


def _blob(info: content_pb2.Info) -> content.Info:
    return content.Info(
        info.digest, info.size, from_timestamp(info.created_at), from_timestamp(info.updated_at), dict(info.labels)
    )


def _ingest(status: content_pb2.Status) -> content.IngestStatus:
    return content.IngestStatus(
        status.ref,
        status.offset,
        status.total,
        status.expected,
        from_timestamp(status.started_at),
        from_timestamp(status.updated_at),
    )
