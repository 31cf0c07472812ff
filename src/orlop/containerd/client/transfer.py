# SPDX-License-Identifier: Apache-2.0
"""Typed calls of the Transfer and Streaming services: transfers of images that the daemon carries out."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage

from orlop.api.streaming_pb2 import StreamInit
from orlop.api.streaming_pb2_grpc import StreamingStub
from orlop.api.transfer_pb2 import TransferOptions, TransferRequest
from orlop.api.transfer_pb2_grpc import TransferStub
from orlop.api.transfer_types_pb2 import Progress
from orlop.containerd.client import typeurl
from orlop.containerd.client.base import Metadata, Service
from orlop.errdefs import UnavailableError
from orlop.rpc.grpc import from_rpc_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from google.protobuf.message import Message


class ClientStream:
    """Our end of a stream; see `streams.Stream`."""

    def __init__(self, id: str, call: Any) -> None:
        self.id = id
        self._call = call
        self._closing: asyncio.Task[None] | None = None

    async def send(self, message: AnyMessage) -> None:
        """Send a message. Raises UnavailableError when the daemon has ended the stream: `receive` says how."""
        try:
            await self._call.write(message)
        except (grpc.aio.UsageError, grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise UnavailableError(f"stream {self.id} has ended: {error}") from None

    async def receive(self) -> AnyMessage | None:
        """The daemon's next message; None at the end. Raises what the daemon ended the stream with."""
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        return None if message is grpc.aio.EOF else message

    def close(self) -> None:
        """Send nothing more."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._half_close())

    async def _half_close(self) -> None:
        try:
            await self._call.done_writing()
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            pass  # the call is over already

    async def finish(self) -> None:
        """Give the call up."""
        if self._closing is not None:
            await self._closing
        self._call.cancel()


class Transfer(Service):
    """Transfers; sources and destinations are the messages of `orlop.api.transfer_types_pb2`.

    async with client.transfer.stream() as stream:
        request = client.transfer.transfer(ImageImportStream(stream=stream.id), ImageStore(name="…"))
        await asyncio.gather(request, send_bytes(stream, source))
    """

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        super().__init__(channel, metadata)
        self._stub = TransferStub(channel)
        self._streaming = StreamingStub(channel)

    @asynccontextmanager
    async def stream(self, id: str = "") -> AsyncIterator[ClientStream]:
        """Open a stream, under a random id if none is given. Raises AlreadyExistsError."""
        await self._ready()
        call = self._streaming.Stream(metadata=self._metadata)
        stream = ClientStream(id or f"orlop-{secrets.token_hex(8)}", call)
        try:
            await stream.send(typeurl.pack(StreamInit(id=stream.id)))
            if await stream.receive() is None:
                raise UnavailableError(f"containerd has not opened stream {stream.id}")
            yield stream
        finally:
            await stream.finish()

    async def transfer(
        self, source: Message, destination: Message, progress: Callable[[Progress], None] | None = None
    ) -> None:
        """Have the daemon carry out a transfer; `progress` is told of what happens.

        Raises NotImplementedByUsError where the daemon knows no such transfer, and what the transfer ends with.
        """
        request = TransferRequest(source=typeurl.pack(source), destination=typeurl.pack(destination))
        if progress is None:
            await self._call(self._stub.Transfer, request)
            return
        async with self.stream() as stream:
            request.options.CopyFrom(TransferOptions(progress_stream=stream.id))
            listening = asyncio.ensure_future(_listen(stream, progress))
            try:
                await self._call(self._stub.Transfer, request)
                await listening
            finally:
                listening.cancel()


async def _listen(stream: ClientStream, progress: Callable[[Progress], None]) -> None:
    while (message := await stream.receive()) is not None:
        progress(typeurl.unpack(message, Progress))
