# SPDX-License-Identifier: Apache-2.0
"""containerd.services.snapshots.v1: translation to the snapshotters."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from concurrent.futures import Executor
from typing import Any, TypeVar

from google.protobuf.empty_pb2 import Empty

from orlop.api import snapshots_pb2 as pb
from orlop.api.snapshots_pb2_grpc import SnapshotsServicer
from orlop.containerd.core.mount import to_proto
from orlop.containerd.core.namespaces import Scope, scope_of
from orlop.containerd.core.snapshots import Info, Kind
from orlop.containerd.disk import disk_errors
from orlop.containerd.metadata.snapshots import BoundSnapshots, MetadataSnapshots
from orlop.containerd.plugins.snapshots_remote import RemoteSnapshots
from orlop.containerd.services.times import to_timestamp
from orlop.containerd.threads import in_thread
from orlop.errdefs import InvalidArgumentError, NotImplementedByUsError

T = TypeVar("T")
R = TypeVar("R", pb.PrepareSnapshotResponse, pb.ViewSnapshotResponse)
_CreateRequest = pb.PrepareSnapshotRequest | pb.ViewSnapshotRequest
_KINDS = {Kind.VIEW: pb.VIEW, Kind.ACTIVE: pb.ACTIVE, Kind.COMMITTED: pb.COMMITTED}
_PAGE = 100  # snapshots in one message of a list


class SnapshotsService(SnapshotsServicer):
    """Snapshots of the caller's namespace. What walks or copies trees runs in worker threads."""

    def __init__(
        self,
        snapshotters: Mapping[str, MetadataSnapshots],
        remotes: Mapping[str, RemoteSnapshots],
        default: str,
        workers: Executor,
    ) -> None:
        """`remotes` are those that other processes serve; their records are among the `snapshotters` too."""
        self._snapshotters = snapshotters
        self._remotes = remotes
        self._default = default
        self._workers = workers

    def Prepare(
        self, request: pb.PrepareSnapshotRequest, context: Any
    ) -> pb.PrepareSnapshotResponse | Coroutine[Any, Any, pb.PrepareSnapshotResponse]:
        """Create an active snapshot."""
        return self._create(Kind.ACTIVE, request, context, pb.PrepareSnapshotResponse)

    def View(
        self, request: pb.ViewSnapshotRequest, context: Any
    ) -> pb.ViewSnapshotResponse | Coroutine[Any, Any, pb.ViewSnapshotResponse]:
        """Create a view."""
        return self._create(Kind.VIEW, request, context, pb.ViewSnapshotResponse)

    def Mounts(
        self, request: pb.MountsRequest, context: Any
    ) -> pb.MountsResponse | Coroutine[Any, Any, pb.MountsResponse]:
        """What to mount."""
        remote = self._remotes.get(request.snapshotter)
        if remote is not None:
            return self._remote_mounts(remote, request, context)
        snapshots = self._bind(request.snapshotter, context)
        return pb.MountsResponse(mounts=to_proto(snapshots.mounts(request.key)))

    async def _remote_mounts(
        self, remote: RemoteSnapshots, request: pb.MountsRequest, context: Any
    ) -> pb.MountsResponse:
        scope = scope_of(context.invocation_metadata())
        return pb.MountsResponse(mounts=await remote.mounts(scope, request.key))

    async def Commit(self, request: pb.CommitSnapshotRequest, context: Any) -> Empty:
        """Turn an active snapshot into a committed one, measured in a worker thread."""
        owner = self._owner(request.snapshotter)
        snapshots = owner.bind(scope_of(context.invocation_metadata()))
        if request.parent and snapshots.stat(request.key).parent != request.parent:
            raise NotImplementedByUsError("commit onto another parent is not supported by this snapshotter")
        remote = self._remotes.get(request.snapshotter)
        if remote is not None:
            scope = scope_of(context.invocation_metadata())
            await remote.commit(scope, request.name, request.key, dict(request.labels))
            return Empty()
        number = snapshots.measuring(request.key)
        usage = None if number is None else await self._run(lambda: owner.driver.usage(number))
        snapshots.commit(request.name, request.key, dict(request.labels), usage)
        return Empty()

    def Remove(self, request: pb.RemoveSnapshotRequest, context: Any) -> Empty:
        """Remove a snapshot."""
        self._bind(request.snapshotter, context).remove(request.key)
        return Empty()

    def Stat(self, request: pb.StatSnapshotRequest, context: Any) -> pb.StatSnapshotResponse:
        """One snapshot."""
        return pb.StatSnapshotResponse(info=_message(self._bind(request.snapshotter, context).stat(request.key)))

    def Update(self, request: pb.UpdateSnapshotRequest, context: Any) -> pb.UpdateSnapshotResponse:
        """Change labels."""
        info = request.info
        updated = self._bind(request.snapshotter, context).update(
            info.name, dict(info.labels), tuple(request.update_mask.paths)
        )
        return pb.UpdateSnapshotResponse(info=_message(updated))

    async def List(
        self, request: pb.ListSnapshotsRequest, context: Any
    ) -> AsyncIterator[pb.ListSnapshotsResponse]:
        """The snapshots that match, in pages."""
        infos = list(self._bind(request.snapshotter, context).walk(tuple(request.filters)))
        for start in range(0, len(infos), _PAGE):
            yield pb.ListSnapshotsResponse(info=[_message(info) for info in infos[start : start + _PAGE]])

    async def Usage(self, request: pb.UsageRequest, context: Any) -> pb.UsageResponse:
        """What a snapshot takes, measured in a worker thread if it is active."""
        remote = self._remotes.get(request.snapshotter)
        if remote is not None:
            taken = await remote.usage(scope_of(context.invocation_metadata()), request.key)
            return pb.UsageResponse(size=taken.size, inodes=taken.inodes)
        owner = self._owner(request.snapshotter)
        snapshots = owner.bind(scope_of(context.invocation_metadata()))
        number = snapshots.measuring(request.key)
        if number is None:
            usage = snapshots.usage(request.key)
        else:
            usage = await self._run(lambda: owner.driver.usage(number))
        return pb.UsageResponse(size=usage.size, inodes=usage.inodes)

    async def Cleanup(self, request: pb.CleanupRequest, context: Any) -> Empty:
        """Delete what belongs to no snapshot."""
        owner = self._owner(request.snapshotter)
        scope_of(context.invocation_metadata())
        if request.snapshotter in self._remotes:
            await self._remotes[request.snapshotter].cleanup()
            return Empty()
        for number in owner.waste():
            owner.discard(number)
        await asyncio.gather(*map(asyncio.wrap_future, owner.deletions()), return_exceptions=True)
        return Empty()

    def _create(
        self, kind: Kind, request: _CreateRequest, context: Any, answer: Callable[..., R]
    ) -> R | Coroutine[Any, Any, R]:
        owner = self._owner(request.snapshotter)
        scope = scope_of(context.invocation_metadata())
        if request.snapshotter in self._remotes or owner.driver.slow_create:
            return self._create_slowly(kind, request, scope, answer)
        snapshots = owner.bind(scope)
        create = snapshots.prepare if kind == Kind.ACTIVE else snapshots.view
        return answer(mounts=to_proto(create(request.key, request.parent, dict(request.labels))))

    async def _create_slowly(
        self, kind: Kind, request: _CreateRequest, scope: Scope, answer: Callable[..., R]
    ) -> R:
        owner = self._owner(request.snapshotter)
        snapshots = owner.bind(scope)
        key, parent, labels = request.key, request.parent, dict(request.labels)
        remote = self._remotes.get(request.snapshotter)
        if remote is not None:
            return answer(mounts=await remote.create(scope, kind, key, parent, labels))
        number, parents = snapshots.reserve(kind, key, parent, labels, create=False)
        owner.creating.add(number)
        try:
            with disk_errors(f'cannot make snapshot "{key}"'):
                await self._run(lambda: owner.driver.create(number, kind, parents, labels))
        except BaseException:
            owner.creating.discard(number)
            snapshots.withdraw(number, key)
            raise
        owner.creating.discard(number)
        if kind == Kind.ACTIVE:
            snapshots.announce(key, parent)
        return answer(mounts=to_proto(owner.driver.mounts(number, kind, parents)))

    def _owner(self, snapshotter: str) -> MetadataSnapshots:
        if not snapshotter:
            raise InvalidArgumentError("snapshotter argument missing")
        owner = self._snapshotters.get(snapshotter)
        if owner is None:
            raise InvalidArgumentError(f"snapshotter not loaded: {snapshotter}")
        return owner

    def _bind(self, snapshotter: str, context: Any) -> BoundSnapshots:
        return self._owner(snapshotter).bind(scope_of(context.invocation_metadata()))

    async def _run(self, work: Callable[[], T]) -> T:
        return await in_thread(self._workers, work)


def _message(info: Info) -> pb.Info:
    return pb.Info(
        name=info.name,
        parent=info.parent,
        kind=_KINDS[info.kind],
        created_at=to_timestamp(info.created),
        updated_at=to_timestamp(info.updated),
        labels=info.labels,
    )
