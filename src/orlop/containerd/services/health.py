# SPDX-License-Identifier: Apache-2.0
"""The Health service."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from orlop.api import health_pb2 as health_pb
from orlop.api.health_pb2_grpc import HealthServicer
from orlop.errdefs import NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


class HealthService(HealthServicer):
    """Answers SERVING from the first request on, and NOT_SERVING once `stop` was called."""

    def __init__(self, services: Sequence[str]) -> None:
        self._services = frozenset(services)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """The daemon is shutting down: tell the watchers."""
        self._stopping.set()

    def _status(self) -> health_pb.HealthCheckResponse:
        kind = health_pb.HealthCheckResponse
        return kind(status=kind.NOT_SERVING if self._stopping.is_set() else kind.SERVING)

    async def Check(self, request: health_pb.HealthCheckRequest, context: Any) -> health_pb.HealthCheckResponse:
        """The state of a service, or (empty name) of the daemon."""
        if request.service and request.service not in self._services:
            raise NotFoundError(f"unknown service {request.service}")
        return self._status()

    async def Watch(
        self, request: health_pb.HealthCheckRequest, context: Any
    ) -> AsyncIterator[health_pb.HealthCheckResponse]:
        """The state now and at each change."""
        if request.service and request.service not in self._services:
            kind = health_pb.HealthCheckResponse
            yield kind(status=kind.SERVICE_UNKNOWN)
            await asyncio.Event().wait()  # no service ever joins: the client ends the call
        yield self._status()
        if not self._stopping.is_set():
            await self._stopping.wait()
            yield self._status()
