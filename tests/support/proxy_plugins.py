# SPDX-License-Identifier: Apache-2.0
"""A process that serves a snapshotter and a differ over a socket, as proxy plugins do: our native snapshotter.

    python proxy_plugins.py DIRECTORY    serves DIRECTORY/s until it is ended

Its snapshots are never collected. A snapshot whose label names the target `LAYER` is there by itself, as$
layers are for remote snapshotters; the differ makes nothing and applies `MEDIA_TYPE` only.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from orlop.api import diff_pb2, snapshots_pb2, types_pb2
from orlop.api.diff_pb2_grpc import DiffServicer, add_DiffServicer_to_server
from orlop.api.snapshots_pb2_grpc import add_SnapshotsServicer_to_server
from orlop.containerd.plugins.exchange import Exchange
from orlop.containerd.services.snapshots import SnapshotsService
from orlop.containerd.sockets import listen
from orlop.containerd.storage import Storage, open_storage
from orlop.errdefs import AlreadyExistsError, NotImplementedByUsError
from orlop.rpc.grpc_server.server import Server

LAYER = "sha256:" + "a" * 64
"""The target that is there by itself."""
MEDIA_TYPE = "application/vnd.example.layer"
APPLIED = "sha256:" + "b" * 64


class Snapshots(SnapshotsService):
    """The native snapshotter under whatever name it is asked for."""

    def __init__(self, storage: Storage) -> None:
        super().__init__({"far": storage.snapshotters["native"]}, {}, "far", storage._workers[0])

    async def Prepare(self, request: snapshots_pb2.PrepareSnapshotRequest, context: Any) -> Any:
        target = request.labels.get("containerd.io/snapshot.ref", "")
        if target != LAYER:
            return await super().Prepare(request, context)
        labels = dict(request.labels)
        del request.labels["containerd.io/snapshot.ref"]
        await super().Prepare(request, context)
        commit = snapshots_pb2.CommitSnapshotRequest(
            snapshotter="far", name=f"own/{request.key}", key=request.key, labels=labels
        )
        await self.Commit(commit, context)
        raise AlreadyExistsError(f"target snapshot {target}: already exists")


class Differ(DiffServicer):
    """Applies one media type."""

    async def Apply(self, request: diff_pb2.ApplyRequest, context: Any) -> diff_pb2.ApplyResponse:
        if request.diff.media_type != MEDIA_TYPE:
            raise NotImplementedByUsError(f"media type {request.diff.media_type}")
        return diff_pb2.ApplyResponse(applied=types_pb2.Descriptor(digest=APPLIED, size=len(request.mounts)))

    async def Diff(self, request: diff_pb2.DiffRequest, context: Any) -> diff_pb2.DiffResponse:
        raise NotImplementedByUsError("making layers")


async def main(directory: str) -> None:
    storage = open_storage(f"{directory}/root", f"{directory}/state", Exchange())
    storage.gc.close()
    server: Any = Server()
    add_SnapshotsServicer_to_server(Snapshots(storage), server)
    add_DiffServicer_to_server(Differ(), server)
    await server.listen(listen(f"{directory}/s"))
    print("ready", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await server.stop()
        storage.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
