# SPDX-License-Identifier: Apache-2.0
"""Typed calls of the Content service: blobs by digest."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc.aio
from google.protobuf.field_mask_pb2 import FieldMask

from orlop.api import content_pb2 as pb
from orlop.api.content_pb2_grpc import ContentStub
from orlop.containerd.client.base import Metadata, Service
from orlop.errdefs import AlreadyExistsError, OutOfRangeError, UnavailableError
from orlop.rpc.grpc import from_rpc_error

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncIterator, Mapping

CHUNK = 1 << 20  # bytes a message when writing
_LEAVE_SECONDS = 10.0  # for a daemon to let go of an ingestion that failed


class Writer:
    """An open ingestion. Bytes are kept under its ref until `commit`; leaving without one keeps them for later."""

    def __init__(self, call: grpc.aio.StreamStreamCall[pb.WriteContentRequest, pb.WriteContentResponse]) -> None:
        self._call = call
        self.offset = 0

    async def _round(self, request: pb.WriteContentRequest) -> pb.WriteContentResponse:
        try:
            await self._call.write(request)
            answer = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        except grpc.aio.UsageError:  # the call is over already: its status says why
            answer = grpc.aio.EOF
        if answer is grpc.aio.EOF:
            raise await self._ended()
        assert isinstance(answer, pb.WriteContentResponse)
        self.offset = answer.offset
        return answer

    async def _ended(self) -> Exception:
        code, details = await self._call.code(), await self._call.details()
        if code is grpc.StatusCode.OK:
            return UnavailableError("containerd ended the write early")
        metadata = grpc.aio.Metadata()
        return from_rpc_error(grpc.aio.AioRpcError(code, metadata, metadata, details=details))

    async def status(self) -> pb.WriteContentResponse:
        """Where the ingestion stands: offset, total, times."""
        return await self._round(pb.WriteContentRequest(action=pb.STAT))

    async def write(self, data: bytes) -> None:
        """Append data, of any size."""
        view = memoryview(data)
        for start in range(0, len(view), CHUNK):
            chunk = bytes(view[start : start + CHUNK])
            await self._round(pb.WriteContentRequest(action=pb.WRITE, offset=self.offset, data=chunk))

    async def restart(self, offset: int = 0) -> None:
        """Throw away what was written from `offset` on."""
        await self._round(pb.WriteContentRequest(action=pb.WRITE, offset=offset))

    async def commit(self, *, size: int = 0, expected: str = "", labels: Mapping[str, str] | None = None) -> str:
        """Make the bytes a blob; the answer is its digest.

        Raises AlreadyExistsError, and FailedPreconditionError when size or digest are not the expected ones.
        """
        request = pb.WriteContentRequest(
            action=pb.COMMIT, total=size, offset=self.offset, expected=expected, labels=labels or {}
        )
        return (await self._round(request)).digest


class Content(Service):
    """The content store."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        super().__init__(channel, metadata)
        self._stub = ContentStub(channel)

    async def info(self, digest: str) -> pb.Info:
        """Raises NotFoundError."""
        return (await self._call(self._stub.Info, pb.InfoRequest(digest=digest))).info

    async def update(self, info: pb.Info, *paths: str) -> pb.Info:
        """Replace the labels, or those named by `labels.NAME`. Raises NotFoundError."""
        mask = FieldMask(paths=paths) if paths else None
        return (await self._call(self._stub.Update, pb.UpdateRequest(info=info, update_mask=mask))).info

    async def list(self, *filters: str) -> AsyncIterator[pb.Info]:
        """The blobs that match any of the filters, all if none is given."""
        async for answer in self._stream(self._stub.List, pb.ListContentRequest(filters=filters)):
            for info in answer.info:
                yield info

    async def delete(self, digest: str) -> None:
        """Raises NotFoundError."""
        await self._call(self._stub.Delete, pb.DeleteContentRequest(digest=digest))

    async def read(self, digest: str, offset: int = 0, size: int = 0) -> AsyncIterator[bytes]:
        """The bytes of a blob from `offset` on, `size` of them (0: all). Raises NotFoundError, OutOfRangeError."""
        request = pb.ReadContentRequest(digest=digest, offset=offset, size=size)
        async for answer in self._stream(self._stub.Read, request):
            yield answer.data

    async def read_blob(self, digest: str, limit: int = 8 << 20) -> bytes:
        """A small blob (a manifest, a config) at once. Raises NotFoundError, OutOfRangeError (`limit`)."""
        parts: list[bytes] = []
        length = 0
        async for data in self.read(digest):
            length += len(data)
            if length > limit:
                raise OutOfRangeError(f"content {digest} is larger than {limit} bytes")
            parts.append(data)
        return b"".join(parts)

    async def status(self, ref: str) -> pb.Status:
        """Where an ingestion stands. Raises NotFoundError."""
        return (await self._call(self._stub.Status, pb.StatusRequest(ref=ref))).status

    async def statuses(self, *filters: str) -> builtins.list[pb.Status]:
        """The ingestions under way."""
        request = pb.ListStatusesRequest(filters=filters)
        return list((await self._call(self._stub.ListStatuses, request)).statuses)

    async def abort(self, ref: str) -> None:
        """Throw an ingestion away. Raises NotFoundError."""
        await self._call(self._stub.Abort, pb.AbortRequest(ref=ref))

    @asynccontextmanager
    async def writer(self, ref: str, *, size: int = 0, expected: str = "") -> AsyncIterator[Writer]:
        """Open the ingestion `ref`, new or left by an earlier writer (`offset` says how much is there).

        Raises AlreadyExistsError when the expected digest is there, UnavailableError when another holds the ref.
        """
        await self._ready()
        call = self._stub.Write(metadata=self._metadata)
        try:
            writer = Writer(call)
            request = pb.WriteContentRequest(action=pb.STAT, ref=ref, total=size, expected=expected)
            await writer._round(request)
            yield writer
        except Exception:
            await _let_go(call)
            raise
        finally:
            call.cancel()

    async def write_blob(
        self, ref: str, data: bytes, expected: str, labels: Mapping[str, str] | None = None
    ) -> None:
        """Store a blob that is in memory; one that is there already is as good, and gets the labels."""
        try:
            async with self.writer(ref, size=len(data), expected=expected) as writer:
                if writer.offset != len(data):  # all of it is there when another namespace has the blob
                    if writer.offset:
                        await writer.restart()
                    await writer.write(data)
                await writer.commit(size=len(data), expected=expected, labels=labels)
        except AlreadyExistsError:
            if labels:
                paths = [f"labels.{key}" for key in labels]
                await self.update(pb.Info(digest=expected, labels=labels), *paths)


async def _let_go(call: grpc.aio.StreamStreamCall[pb.WriteContentRequest, pb.WriteContentResponse]) -> None:
    """End a write in good order: then the daemon holds the ingestion no longer, and it can be aborted."""
    with contextlib.suppress(grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError, TimeoutError):
        async with asyncio.timeout(_LEAVE_SECONDS):
            await call.done_writing()
            while await call.read() is not grpc.aio.EOF:
                pass
