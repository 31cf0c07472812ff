# SPDX-License-Identifier: Apache-2.0
"""Typed calls of the Sandbox services: the store of records, and the controller of what runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.api import sandbox_pb2 as pb
from orlop.api.sandbox_pb2_grpc import ControllerStub, StoreStub
from orlop.containerd.client.base import Metadata, Service

if TYPE_CHECKING:
    import builtins
    from collections.abc import Mapping, Sequence

    import grpc.aio
    from google.protobuf.any_pb2 import Any

    from orlop.api.types_pb2 import Metric, Mount, Platform, Sandbox

SHIM = "shim"
"""The controller that has a shim hold each sandbox."""


class Sandboxes(Service):
    """Records (`create_record` …), and sandboxes that run (`create`, `start` …), by id."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        super().__init__(channel, metadata)
        self._store = StoreStub(channel)
        self._controller = ControllerStub(channel)

    async def create_record(self, sandbox: Sandbox) -> Sandbox:
        """Raises AlreadyExistsError, InvalidArgumentError."""
        return (await self._call(self._store.Create, pb.StoreCreateRequest(sandbox=sandbox))).sandbox

    async def update_record(self, sandbox: Sandbox, *fields: str) -> Sandbox:
        """Replace `labels`, `extensions`, `spec`, or what is named. Raises NotFoundError, InvalidArgumentError."""
        request = pb.StoreUpdateRequest(sandbox=sandbox, fields=fields)
        return (await self._call(self._store.Update, request)).sandbox

    async def delete_record(self, id: str) -> None:
        """Raises NotFoundError."""
        await self._call(self._store.Delete, pb.StoreDeleteRequest(sandbox_id=id))

    async def records(self, *filters: str) -> builtins.list[Sandbox]:
        """The records that match any of the filters, all if none is given."""
        return list((await self._call(self._store.List, pb.StoreListRequest(filters=filters))).list)

    async def record(self, id: str) -> Sandbox:
        """Raises NotFoundError."""
        return (await self._call(self._store.Get, pb.StoreGetRequest(sandbox_id=id))).sandbox

    async def create(
        self,
        sandbox: Sandbox,
        *,
        rootfs: Sequence[Mount] = (),
        options: Any | None = None,
        netns_path: str = "",
        annotations: Mapping[str, str] | None = None,
    ) -> None:
        """Have a shim make the sandbox. Raises AlreadyExistsError, NotImplementedByUsError (most shims)."""
        request = pb.ControllerCreateRequest(
            sandbox_id=sandbox.sandbox_id,
            rootfs=rootfs,
            options=options,
            netns_path=netns_path,
            annotations=annotations or {},
            sandbox=sandbox,
            sandboxer=SHIM,
        )
        await self._call(self._controller.Create, request)

    async def start(self, id: str) -> pb.ControllerStartResponse:
        """Start it: pid, address of the shim. Raises NotFoundError."""
        request = pb.ControllerStartRequest(sandbox_id=id, sandboxer=SHIM)
        return await self._call(self._controller.Start, request)

    async def platform(self, id: str) -> Platform:
        """What it runs on. Raises NotFoundError."""
        request = pb.ControllerPlatformRequest(sandbox_id=id, sandboxer=SHIM)
        return (await self._call(self._controller.Platform, request)).platform

    async def stop(self, id: str, timeout: int = 0) -> None:
        """Stop it within `timeout` seconds; one that is gone is stopped."""
        request = pb.ControllerStopRequest(sandbox_id=id, timeout_secs=timeout, sandboxer=SHIM)
        await self._call(self._controller.Stop, request)

    async def wait(self, id: str) -> pb.ControllerWaitResponse:
        """Wait for its end: exit_status, exited_at. Raises NotFoundError."""
        return await self._call(self._controller.Wait, pb.ControllerWaitRequest(sandbox_id=id, sandboxer=SHIM))

    async def status(self, id: str, *, verbose: bool = False) -> pb.ControllerStatusResponse:
        """How it is; without a state when it is gone."""
        request = pb.ControllerStatusRequest(sandbox_id=id, verbose=verbose, sandboxer=SHIM)
        return await self._call(self._controller.Status, request)

    async def shutdown(self, id: str) -> None:
        """End its shim. Raises NotFoundError."""
        await self._call(self._controller.Shutdown, pb.ControllerShutdownRequest(sandbox_id=id, sandboxer=SHIM))

    async def metrics(self, id: str) -> Metric:
        """Its resource use. Raises NotFoundError."""
        request = pb.ControllerMetricsRequest(sandbox_id=id, sandboxer=SHIM)
        return (await self._call(self._controller.Metrics, request)).metrics
