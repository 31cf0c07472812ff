# SPDX-License-Identifier: Apache-2.0
"""containerd.services.streaming.v1: a client's call as a named stream."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty

from orlop.api.streaming_pb2 import StreamInit
from orlop.api.streaming_pb2_grpc import StreamingServicer
from orlop.containerd.client import typeurl
from orlop.containerd.core.namespaces import scope_of
from orlop.errdefs import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Any

    from orlop.containerd.plugins.streams import QueuedStream, StreamManager


class StreamingService(StreamingServicer):
    """The first message names the stream and is answered by an empty one; the rest belongs to its user."""

    def __init__(self, streams: StreamManager) -> None:
        self._streams = streams

    async def Stream(self, requests: AsyncIterator[AnyMessage], context: Any) -> AsyncIterator[AnyMessage]:
        """Serve one stream until either side ends it."""
        namespace = scope_of(context.invocation_metadata()).namespace
        first = await anext(requests, None)
        if first is None:
            raise InvalidArgumentError("the first message of a stream must name it")
        id = typeurl.unpack(first, StreamInit).id
        stream = self._streams.register(namespace, id)
        pump = asyncio.ensure_future(_pump(requests, stream))
        try:
            yield typeurl.pack(Empty())
            while not (stream.closing and stream.outgoing.empty()):
                message = await stream.outgoing.get()
                if message is None:
                    return
                yield message
        finally:
            pump.cancel()
            self._streams.unregister(namespace, id)


async def _pump(requests: AsyncIterator[AnyMessage], stream: QueuedStream) -> None:
    """Hand over what the client sends, no faster than it is taken."""
    async for message in requests:
        await stream.incoming.put(message)
    await stream.incoming.put(None)
