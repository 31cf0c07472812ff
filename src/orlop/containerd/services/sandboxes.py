# SPDX-License-Identifier: Apache-2.0
"""containerd.services.sandbox.v1: translation to the sandbox store and to the controllers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.timestamp_pb2 import Timestamp

from orlop.api import events_pb2, types_pb2
from orlop.api import sandbox_pb2 as pb
from orlop.api.sandbox_pb2_grpc import ControllerServicer, StoreServicer
from orlop.containerd.core.namespaces import scope_of
from orlop.containerd.core.sandboxes import SandboxOptions
from orlop.errdefs import InvalidArgumentError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orlop.containerd.core.events import EventPublisher
    from orlop.containerd.core.sandboxes import Instance, SandboxController, SandboxStore


def _namespace(context: Any) -> str:
    return scope_of(context.invocation_metadata()).namespace


class SandboxStoreService(StoreServicer):
    """The records."""

    def __init__(self, store: SandboxStore) -> None:
        self._store = store

    async def Create(self, request: pb.StoreCreateRequest, context: Any) -> pb.StoreCreateResponse:
        """Store a record."""
        return pb.StoreCreateResponse(sandbox=self._store.create(_namespace(context), request.sandbox))

    async def Update(self, request: pb.StoreUpdateRequest, context: Any) -> pb.StoreUpdateResponse:
        """Change a record."""
        made = self._store.update(_namespace(context), request.sandbox, request.fields)
        return pb.StoreUpdateResponse(sandbox=made)

    async def Delete(self, request: pb.StoreDeleteRequest, context: Any) -> pb.StoreDeleteResponse:
        """Remove a record."""
        self._store.delete(_namespace(context), request.sandbox_id)
        return pb.StoreDeleteResponse()

    async def List(self, request: pb.StoreListRequest, context: Any) -> pb.StoreListResponse:
        """The records that match."""
        return pb.StoreListResponse(list=self._store.list(_namespace(context), request.filters))

    async def Get(self, request: pb.StoreGetRequest, context: Any) -> pb.StoreGetResponse:
        """One record."""
        return pb.StoreGetResponse(sandbox=self._store.get(_namespace(context), request.sandbox_id))


class SandboxControllerService(ControllerServicer):
    """The sandboxes that run, by the controller that the request names."""

    def __init__(self, controllers: Mapping[str, SandboxController], events: EventPublisher) -> None:
        self._controllers = controllers
        self._events = events

    async def Create(self, request: pb.ControllerCreateRequest, context: Any) -> pb.ControllerCreateResponse:
        """Make a sandbox."""
        namespace, controller = _namespace(context), self._controller(request)
        sandbox = types_pb2.Sandbox()
        sandbox.CopyFrom(request.sandbox)
        sandbox.sandbox_id = sandbox.sandbox_id or request.sandbox_id
        options = SandboxOptions(
            request.rootfs,
            request.options if request.HasField("options") else None,
            request.netns_path,
            dict(request.annotations),
        )
        await controller.create(namespace, sandbox, options)
        event = events_pb2.SandboxCreate(sandbox_id=sandbox.sandbox_id)
        self._events.publish(namespace, "/sandboxes/create", event)
        return pb.ControllerCreateResponse(sandbox_id=sandbox.sandbox_id)

    async def Start(self, request: pb.ControllerStartRequest, context: Any) -> pb.ControllerStartResponse:
        """Start a sandbox."""
        instance = self._instance(request, context)
        answer = await instance.sandbox("StartSandbox")
        event = events_pb2.SandboxStart(sandbox_id=request.sandbox_id)
        self._events.publish(_namespace(context), "/sandboxes/start", event)
        address, version = instance.endpoint
        return pb.ControllerStartResponse(
            sandbox_id=request.sandbox_id,
            pid=answer.pid,
            created_at=answer.created_at,
            spec=answer.spec if answer.HasField("spec") else None,
            address=address,
            version=version,
        )

    async def Platform(self, request: pb.ControllerPlatformRequest, context: Any) -> pb.ControllerPlatformResponse:
        """What a sandbox runs on."""
        answer = await self._instance(request, context).sandbox("Platform")
        return pb.ControllerPlatformResponse(platform=answer.platform)

    async def Stop(self, request: pb.ControllerStopRequest, context: Any) -> pb.ControllerStopResponse:
        """Stop a sandbox; one that is gone is stopped."""
        try:
            await self._instance(request, context).sandbox("StopSandbox", timeout_secs=request.timeout_secs)
        except (NotFoundError, UnavailableError):
            if request.sandboxer not in self._controllers:
                raise
        return pb.ControllerStopResponse()

    async def Wait(self, request: pb.ControllerWaitRequest, context: Any) -> pb.ControllerWaitResponse:
        """Wait for the end of a sandbox."""
        answer = await self._instance(request, context).sandbox("WaitSandbox")
        event = events_pb2.SandboxExit(
            sandbox_id=request.sandbox_id, exit_status=answer.exit_status, exited_at=answer.exited_at
        )
        self._events.publish(_namespace(context), "/sandboxes/exit", event)
        return pb.ControllerWaitResponse(exit_status=answer.exit_status, exited_at=answer.exited_at)

    async def Status(self, request: pb.ControllerStatusRequest, context: Any) -> pb.ControllerStatusResponse:
        """How a sandbox is; one that is gone has ended."""
        self._controller(request)
        try:
            instance = self._instance(request, context)
        except NotFoundError:
            now = Timestamp()
            now.GetCurrentTime()
            return pb.ControllerStatusResponse(sandbox_id=request.sandbox_id, exited_at=now)
        answer = await instance.sandbox("SandboxStatus", verbose=request.verbose)
        address, version = instance.endpoint
        return pb.ControllerStatusResponse(
            sandbox_id=request.sandbox_id,
            pid=answer.pid,
            state=answer.state,
            info=dict(answer.info),
            created_at=answer.created_at,
            exited_at=answer.exited_at,
            extra=answer.extra,
            address=address,
            version=version,
        )

    async def Shutdown(self, request: pb.ControllerShutdownRequest, context: Any) -> pb.ControllerShutdownResponse:
        """End a sandbox's shim."""
        await self._controller(request).shutdown(_namespace(context), request.sandbox_id)
        return pb.ControllerShutdownResponse()

    async def Metrics(self, request: pb.ControllerMetricsRequest, context: Any) -> pb.ControllerMetricsResponse:
        """The resource use of a sandbox."""
        answer = await self._instance(request, context).sandbox("SandboxMetrics")
        return pb.ControllerMetricsResponse(metrics=answer.metrics)

    async def Update(self, request: pb.ControllerUpdateRequest, context: Any) -> pb.ControllerUpdateResponse:
        """Tell a sandbox of its changed record: shims take none, as with the original, so it is only checked."""
        if not request.HasField("sandbox"):
            raise InvalidArgumentError("sandbox must be set")
        self._instance(request, context)
        return pb.ControllerUpdateResponse()

    def _controller(self, request: Any) -> SandboxController:
        if not request.sandboxer:
            raise InvalidArgumentError("sandbox controller name can not be empty")
        controller = self._controllers.get(request.sandboxer)
        if controller is None:
            raise NotFoundError(f"failed to get sandbox controller by {request.sandboxer}")
        return controller

    def _instance(self, request: Any, context: Any) -> Instance:
        return self._controller(request).get(_namespace(context), request.sandbox_id)
