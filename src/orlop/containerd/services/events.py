# SPDX-License-Identifier: Apache-2.0
"""The Events service, by gRPC for clients and by ttrpc for shims."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.empty_pb2 import Empty

from orlop.api import events_service_pb2 as pb
from orlop.api import events_ttrpc_pb2 as ttrpc_pb
from orlop.api.events_service_pb2_grpc import EventsServicer
from orlop.containerd.core.namespaces import scope_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from google.protobuf.descriptor import ServiceDescriptor

    from orlop.containerd.plugins.exchange import Exchange
    from orlop.rpc.ttrpc.aio import Handler


class EventsService(EventsServicer):
    """Translates requests into calls of the exchange."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def Publish(self, request: pb.PublishRequest, context: Any) -> Empty:
        """Publish an event now, in the caller's namespace."""
        namespace = scope_of(context.invocation_metadata()).namespace
        self._exchange.publish(namespace, request.topic, request.event)
        return Empty()

    def Forward(self, request: pb.ForwardRequest, context: Any) -> Empty:
        """Publish an event of another namespace or time."""
        self._exchange.forward(request.envelope)
        return Empty()

    async def Subscribe(self, request: pb.SubscribeRequest, context: Any) -> AsyncIterator[bytes]:  # type: ignore[override]
        """Every event from now on that matches. The headers tell the client that it is subscribed.

        What it yields is encoded already: once for all subscribers.
        """
        subscription = self._exchange.subscribe(request.filters)
        try:
            await context.send_initial_metadata(())
            async for event in subscription:
                yield event.encoded()
        finally:
            subscription.close()


def ttrpc_service(exchange: Exchange) -> tuple[ServiceDescriptor, Mapping[str, Handler]]:
    """The service that shims forward their events to."""

    async def forward(request: ttrpc_pb.ForwardRequest, _metadata: dict[str, str]) -> Empty:
        exchange.forward(request.envelope)
        return Empty()

    return ttrpc_pb.DESCRIPTOR.services_by_name["Events"], {"Forward": forward}
