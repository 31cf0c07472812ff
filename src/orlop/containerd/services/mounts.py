# SPDX-License-Identifier: Apache-2.0
"""containerd.services.mounts.v1: translation to the mount manager."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.empty_pb2 import Empty

from orlop.api import mounts_pb2 as pb
from orlop.api.mounts_pb2_grpc import MountsServicer
from orlop.containerd.core.activations import Request
from orlop.containerd.core.mount import from_proto
from orlop.containerd.core.namespaces import scope_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orlop.containerd.core.activations import MountManager


class MountsService(MountsServicer):
    """Activations of the caller's namespace."""

    def __init__(self, manager: MountManager) -> None:
        self._manager = manager

    async def Activate(self, request: pb.ActivateRequest, context: Any) -> pb.ActivateResponse:
        """Make mounts."""
        wanted = Request(request.name, from_proto(request.mounts), dict(request.labels), request.temporary)
        scope = scope_of(context.invocation_metadata())
        return pb.ActivateResponse(info=await self._manager.activate(scope, wanted))

    async def Deactivate(self, request: pb.DeactivateRequest, context: Any) -> Empty:
        """Unmount."""
        await self._manager.deactivate(_namespace(context), request.name)
        return Empty()

    async def Info(self, request: pb.InfoRequest, context: Any) -> pb.InfoResponse:
        """One activation."""
        return pb.InfoResponse(info=self._manager.get(_namespace(context), request.name))

    async def Update(self, request: pb.UpdateRequest, context: Any) -> pb.UpdateResponse:
        """Change labels."""
        paths = tuple(request.update_mask.paths)
        return pb.UpdateResponse(info=self._manager.update(_namespace(context), request.info, paths))

    async def List(self, request: pb.ListRequest, context: Any) -> AsyncIterator[pb.ListMessage]:
        """The activations that match, one a message."""
        for info in self._manager.list(_namespace(context), tuple(request.filters)):
            yield pb.ListMessage(info=info)


def _namespace(context: Any) -> str:
    return scope_of(context.invocation_metadata()).namespace
