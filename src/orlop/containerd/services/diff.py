# SPDX-License-Identifier: Apache-2.0
"""containerd.services.diff.v1: translation to the differ."""

from typing import Any

from orlop.api import diff_pb2 as pb
from orlop.api.diff_pb2_grpc import DiffServicer
from orlop.containerd.core.content import validate_digest
from orlop.containerd.core.diff import Differ
from orlop.containerd.core.mount import from_proto
from orlop.containerd.core.namespaces import scope_of
from orlop.containerd.plugins.differs import from_descriptor, to_descriptor
from orlop.containerd.services.times import from_timestamp


class DiffService(DiffServicer):
    """Applies and makes layers in the caller's namespace."""

    def __init__(self, differ: Differ) -> None:
        self._differ = differ

    async def Apply(self, request: pb.ApplyRequest, context: Any) -> pb.ApplyResponse:
        """Unpack a layer onto mounts."""
        validate_digest(request.diff.digest, "diff.digest")
        layer = from_descriptor(request.diff)
        applied = await self._differ.apply(
            scope_of(context.invocation_metadata()),
            layer,
            from_proto(request.mounts),
            request.sync_fs,
            dict(request.payloads),
        )
        return pb.ApplyResponse(applied=to_descriptor(applied))

    async def Diff(self, request: pb.DiffRequest, context: Any) -> pb.DiffResponse:
        """Make a layer from the difference of mounts."""
        made = await self._differ.compare(
            scope_of(context.invocation_metadata()),
            from_proto(request.left),
            from_proto(request.right),
            request.media_type,
            request.ref,
            dict(request.labels),
            from_timestamp(request.source_date_epoch) if request.HasField("source_date_epoch") else None,
        )
        return pb.DiffResponse(diff=to_descriptor(made))
