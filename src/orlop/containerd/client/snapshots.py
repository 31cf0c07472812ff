# SPDX-License-Identifier: Apache-2.0
"""Typed calls of the Snapshots and Diff services: the file systems of images and containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.field_mask_pb2 import FieldMask

from orlop.api import diff_pb2 as diff_pb
from orlop.api import snapshots_pb2 as pb
from orlop.api.diff_pb2_grpc import DiffStub
from orlop.api.snapshots_pb2_grpc import SnapshotsStub
from orlop.containerd.client.base import Metadata, Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    import grpc.aio
    from google.protobuf.any_pb2 import Any

    from orlop.api.types_pb2 import Descriptor, Mount


class Snapshots(Service):
    """The snapshots of one snapshotter. Keys are of the caller's choosing; parents are committed snapshots."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata, snapshotter: str) -> None:
        super().__init__(channel, metadata)
        self._stub = SnapshotsStub(channel)
        self.snapshotter = snapshotter

    async def prepare(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        """Make a writable snapshot on top of `parent`. Raises AlreadyExistsError, NotFoundError (the parent)."""
        request = pb.PrepareSnapshotRequest(
            snapshotter=self.snapshotter, key=key, parent=parent, labels=labels or {}
        )
        return list((await self._call(self._stub.Prepare, request)).mounts)

    async def view(self, key: str, parent: str, labels: Mapping[str, str] | None = None) -> list[Mount]:
        """As `prepare`, read-only."""
        request = pb.ViewSnapshotRequest(snapshotter=self.snapshotter, key=key, parent=parent, labels=labels or {})
        return list((await self._call(self._stub.View, request)).mounts)

    async def mounts(self, key: str) -> list[Mount]:
        """The mounts of an active snapshot or view. Raises NotFoundError."""
        request = pb.MountsRequest(snapshotter=self.snapshotter, key=key)
        return list((await self._call(self._stub.Mounts, request)).mounts)

    async def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None) -> None:
        """Turn the active snapshot `key` into the committed one `name`.

        Raises AlreadyExistsError, NotFoundError.
        """
        request = pb.CommitSnapshotRequest(snapshotter=self.snapshotter, name=name, key=key, labels=labels or {})
        await self._call(self._stub.Commit, request)

    async def remove(self, key: str) -> None:
        """Raises NotFoundError, and FailedPreconditionError while another stands on it."""
        await self._call(self._stub.Remove, pb.RemoveSnapshotRequest(snapshotter=self.snapshotter, key=key))

    async def stat(self, key: str) -> pb.Info:
        """Raises NotFoundError."""
        request = pb.StatSnapshotRequest(snapshotter=self.snapshotter, key=key)
        return (await self._call(self._stub.Stat, request)).info

    async def update(self, info: pb.Info, *paths: str) -> pb.Info:
        """Replace the labels, or those named by `labels.NAME`. Raises NotFoundError."""
        mask = FieldMask(paths=paths) if paths else None
        request = pb.UpdateSnapshotRequest(snapshotter=self.snapshotter, info=info, update_mask=mask)
        return (await self._call(self._stub.Update, request)).info

    async def list(self, *filters: str) -> AsyncIterator[pb.Info]:
        """The snapshots that match any of the filters, all if none is given."""
        request = pb.ListSnapshotsRequest(snapshotter=self.snapshotter, filters=filters)
        async for answer in self._stream(self._stub.List, request):
            for info in answer.info:
                yield info

    async def usage(self, key: str) -> pb.UsageResponse:
        """The disk space of this snapshot alone: size in bytes, inodes. Raises NotFoundError."""
        return await self._call(self._stub.Usage, pb.UsageRequest(snapshotter=self.snapshotter, key=key))

    async def cleanup(self) -> None:
        """Remove the directories of snapshots that are gone."""
        await self._call(self._stub.Cleanup, pb.CleanupRequest(snapshotter=self.snapshotter))


class Diff(Service):
    """Layers out of file systems and file systems out of layers."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        super().__init__(channel, metadata)
        self._stub = DiffStub(channel)

    async def apply(
        self,
        diff: Descriptor,
        mounts: Iterable[Mount],
        *,
        payloads: Mapping[str, Any] | None = None,
        sync: bool = False,
    ) -> Descriptor:
        """Unpack a layer from the content store onto mounts; the answer describes the uncompressed tar.

        With `sync` the file system is on the disk before the answer. Raises NotFoundError, DataLossError.
        """
        request = diff_pb.ApplyRequest(diff=diff, mounts=mounts, payloads=payloads or {}, sync_fs=sync)
        return (await self._call(self._stub.Apply, request)).applied

    async def diff(
        self,
        left: Iterable[Mount],
        right: Iterable[Mount],
        *,
        media_type: str = "",
        ref: str = "",
        labels: Mapping[str, str] | None = None,
        epoch: int | None = None,
    ) -> Descriptor:
        """Write the changes from `left` to `right` as a layer into the content store.

        `epoch` (nanoseconds) is the latest modification time that the layer may show.
        """
        request = diff_pb.DiffRequest(left=left, right=right, media_type=media_type, ref=ref, labels=labels or {})
        if epoch is not None:
            request.source_date_epoch.FromNanoseconds(epoch)
        return (await self._call(self._stub.Diff, request)).diff
