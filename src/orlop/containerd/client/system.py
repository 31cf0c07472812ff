# SPDX-License-Identifier: Apache-2.0
"""Typed calls of the Version, Introspection and Health services: what the daemon says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty

from orlop.api import health_pb2 as health_pb
from orlop.api import introspection_pb2 as pb
from orlop.api.health_pb2_grpc import HealthStub
from orlop.api.introspection_pb2_grpc import IntrospectionStub
from orlop.api.version_pb2_grpc import VersionStub
from orlop.containerd.client.base import Metadata, Service

if TYPE_CHECKING:
    import grpc.aio
    from google.protobuf.any_pb2 import Any

    from orlop.api.version_pb2 import VersionResponse


class System(Service):
    """Version, health and plugins of the daemon."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        super().__init__(channel, metadata)
        self._version = VersionStub(channel)
        self._health = HealthStub(channel)
        self._introspection = IntrospectionStub(channel)

    async def version(self, timeout: float | None = None) -> VersionResponse:
        """Version and revision of the daemon. Raises UnavailableError, DeadlineExceededError (seconds)."""
        return await self._call(self._version.Version, Empty(), timeout)

    async def healthy(self, timeout: float | None = None) -> bool:
        """Whether the daemon says that it serves. Raises UnavailableError, DeadlineExceededError (seconds)."""
        answer = await self._call(self._health.Check, health_pb.HealthCheckRequest(), timeout)
        return answer.status == health_pb.HealthCheckResponse.SERVING

    async def server(self) -> pb.ServerResponse:
        """The identity of the daemon: uuid, pid."""
        return await self._call(self._introspection.Server, Empty())

    async def plugins(self, *filters: str) -> list[pb.Plugin]:
        """The parts of the daemon that match any of the filters (`type==io.containerd.snapshotter.v1`)."""
        request = pb.PluginsRequest(filters=filters)
        return list((await self._call(self._introspection.Plugins, request)).plugins)

    async def plugin_info(self, type: str, id: str, options: Any | None = None) -> pb.PluginInfoResponse:
        """One part of the daemon with what it tells of itself, or of what `options` ask. Raises NotFoundError."""
        request = pb.PluginInfoRequest(type=type, id=id, options=options)
        return await self._call(self._introspection.PluginInfo, request)
