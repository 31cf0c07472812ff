# SPDX-License-Identifier: Apache-2.0
"""Typed calls of the Events service."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc.aio

from orlop.api import events_service_pb2 as pb
from orlop.api.events_service_pb2_grpc import EventsStub
from orlop.containerd.client import typeurl
from orlop.containerd.client.base import Metadata, Service
from orlop.errdefs import UnavailableError
from orlop.rpc.grpc import from_rpc_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf.message import Message

    from orlop.api.types_pb2 import Envelope

# containerd written in Go sends no headers before the first event, so nothing tells when it has subscribed.
_HEADERS_WAIT = 0.05  # seconds


class Events(Service):
    """Publish events and subscribe to them."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        super().__init__(channel, metadata)
        self._stub = EventsStub(channel)

    async def publish(self, topic: str, event: Message) -> None:
        """Publish an event in the client's namespace. Raises InvalidArgumentError."""
        await self._call(self._stub.Publish, pb.PublishRequest(topic=topic, event=typeurl.pack(event)))

    async def forward(self, envelope: Envelope) -> None:
        """Publish an event with a time and a namespace of its own. Raises InvalidArgumentError."""
        await self._call(self._stub.Forward, pb.ForwardRequest(envelope=envelope))

    @asynccontextmanager
    async def subscribe(self, *filters: str) -> AsyncIterator[AsyncIterator[Envelope]]:
        """The events that match any of the filters (`namespace==moby,topic~=|^/tasks/|`), of every namespace.

            async with client.events.subscribe('topic=="/tasks/exit"') as events:
                async for envelope in events: ...

        Once entered, orlop's daemon delivers whatever is published; the original is given 50 ms to subscribe.
        The iterator raises UnavailableError when the daemon goes away or this subscriber was too slow.
        """
        await self._ready()
        call = self._stub.Subscribe(pb.SubscribeRequest(filters=filters), metadata=self._metadata)
        headers = asyncio.ensure_future(call.initial_metadata())
        try:
            await asyncio.wait([headers], timeout=_HEADERS_WAIT)
            if call.done() and await call.code() is not grpc.StatusCode.OK:
                await call.read()  # raises what ended it
            yield _envelopes(call)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        finally:
            headers.cancel()
            call.cancel()


async def _envelopes(call: grpc.aio.UnaryStreamCall[pb.SubscribeRequest, Envelope]) -> AsyncIterator[Envelope]:
    try:
        async for envelope in call:
            yield envelope
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None
    raise UnavailableError("containerd ended the subscription")
