# SPDX-License-Identifier: Apache-2.0
"""Typed calls of the Mounts service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.field_mask_pb2 import FieldMask

from orlop.api import mounts_pb2 as pb
from orlop.api.mounts_pb2_grpc import MountsStub
from orlop.containerd.client.base import Metadata, Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    import grpc.aio

    from orlop.api.types_pb2 import ActivationInfo, Mount


class Mounts(Service):
    """Mounts by name; under a lease they end with it."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        super().__init__(channel, metadata)
        self._stub = MountsStub(channel)

    async def activate(
        self,
        name: str,
        mounts: Sequence[Mount],
        labels: Mapping[str, str] | None = None,
        *,
        temporary: bool = False,
    ) -> ActivationInfo:
        """Have the daemon make what needs it, or (`temporary`) all; the caller mounts `system` of the answer.

        Raises NotImplementedByUsError when nothing needs the daemon, AlreadyExistsError, InvalidArgumentError.
        """
        request = pb.ActivateRequest(name=name, mounts=mounts, labels=labels or {}, temporary=temporary)
        return (await self._call(self._stub.Activate, request)).info

    async def deactivate(self, name: str) -> None:
        """Unmount. Raises NotFoundError, FailedPreconditionError while it is in use."""
        await self._call(self._stub.Deactivate, pb.DeactivateRequest(name=name))

    async def info(self, name: str) -> ActivationInfo:
        """Raises NotFoundError."""
        return (await self._call(self._stub.Info, pb.InfoRequest(name=name))).info

    async def update(self, info: ActivationInfo, *paths: str) -> ActivationInfo:
        """Replace the labels, or those named by `labels.NAME`. Raises NotFoundError."""
        request = pb.UpdateRequest(info=info, update_mask=FieldMask(paths=paths) if paths else None)
        return (await self._call(self._stub.Update, request)).info

    async def list(self, *filters: str) -> AsyncIterator[ActivationInfo]:
        """Those that match any of the filters, all if none is given."""
        async for answer in self._stream(self._stub.List, pb.ListRequest(filters=filters)):
            yield answer.info
