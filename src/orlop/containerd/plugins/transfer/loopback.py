# SPDX-License-Identifier: Apache-2.0
"""The client that the daemon's own transfers use: calls over its socket, but bytes straight to and from the store.

Bytes by gRPC would pass this process's event loop twice.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from orlop.api import content_pb2 as pb
from orlop.containerd.client import Client
from orlop.containerd.client.content import CHUNK, Content, Writer
from orlop.containerd.core.namespaces import Scope
from orlop.containerd.threads import in_thread
from orlop.errdefs import OutOfRangeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from concurrent.futures import Executor

    import grpc.aio

    from orlop.containerd.metadata.content import BoundContent, MetadataContent, MetadataWriter

_INLINE = 64 << 10  # bytes that are written and hashed faster than a thread is woken


class LoopbackClient(Client):
    """A client of the daemon that it is part of."""

    def __init__(
        self,
        address: str,
        content: MetadataContent,
        workers: Executor,
        namespace: str = "default",
        *,
        lease: str = "",
        channel: grpc.aio.Channel | None = None,
    ) -> None:
        super().__init__(address, namespace, lease=lease, channel=channel)
        self._store = content
        self._workers = workers

    def with_namespace(self, namespace: str) -> LoopbackClient:
        """As `Client`."""
        return LoopbackClient(self.address, self._store, self._workers, namespace, channel=self._channel)

    def with_lease(self, lease: str) -> LoopbackClient:
        """As `Client`."""
        return LoopbackClient(
            self.address, self._store, self._workers, self.namespace, lease=lease, channel=self._channel
        )

    @cached_property
    def content(self) -> Content:
        """The content store, bytes without a detour."""
        bound = self._store.bind(Scope(self.namespace, self.lease))
        return LoopbackContent(self._channel, self._metadata, bound, self._workers)


class LoopbackContent(Content):
    """As `Content`; `read` and `writer` go to the store itself."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        metadata: tuple[tuple[str, str], ...],
        store: BoundContent,
        workers: Executor,
    ) -> None:
        super().__init__(channel, metadata)
        self._store = store
        self._workers = workers

    async def read(self, digest: str, offset: int = 0, size: int = 0) -> AsyncIterator[bytes]:
        """As `Content.read`."""
        reader = self._store.reader(digest)
        try:
            if offset > reader.size:
                raise OutOfRangeError(f"read past object length {reader.size} bytes")
            end = min(offset + size, reader.size) if size else reader.size
            while offset < end:
                at, wanted = offset, min(end - offset, CHUNK)
                data = await in_thread(self._workers, lambda at=at, wanted=wanted: reader.read_at(at, wanted))  # type: ignore[misc]
                if not data:
                    raise OutOfRangeError(f"blob {digest} ends at {offset} of {reader.size} bytes")
                yield data
                offset += len(data)
        finally:
            reader.close()

    @asynccontextmanager
    async def writer(self, ref: str, *, size: int = 0, expected: str = "") -> AsyncIterator[Writer]:
        """As `Content.writer`."""
        writer = self._store.writer(ref, size, expected)
        try:
            yield LoopbackWriter(writer, self._workers)
        finally:
            writer.close()


class LoopbackWriter(Writer):
    """As `Writer`."""

    def __init__(self, writer: MetadataWriter, workers: Executor) -> None:
        self._writer = writer
        self._workers = workers
        self.offset = writer.status().offset

    async def _run(self, size: int, work: Callable[[], None]) -> None:
        if size <= _INLINE:
            work()
        else:
            await in_thread(self._workers, work)

    async def status(self) -> pb.WriteContentResponse:
        """As `Writer.status`: offset only."""
        return pb.WriteContentResponse(action=pb.STAT, offset=self.offset)

    async def write(self, data: bytes) -> None:
        """As `Writer.write`."""
        await self._run(len(data) + self._writer.unhashed, lambda: self._writer.write(data))
        self.offset += len(data)

    async def restart(self, offset: int = 0) -> None:
        """As `Writer.restart`; only from the beginning."""
        if offset:
            raise OutOfRangeError("an ingestion is begun again from its start only")
        self._writer.truncate()
        self.offset = 0

    async def commit(self, *, size: int = 0, expected: str = "", labels: Mapping[str, str] | None = None) -> str:
        """As `Writer.commit`."""
        await in_thread(self._workers, self._writer.sync)
        digest = self._writer.digest()
        self._writer.commit(size, expected, dict(labels or {}))
        return digest
