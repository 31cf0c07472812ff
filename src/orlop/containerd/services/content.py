# SPDX-License-Identifier: Apache-2.0
"""containerd.services.content.v1: translation to the content store."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from typing import Any, TypeVar

from google.protobuf.empty_pb2 import Empty

from orlop.api import content_pb2 as pb
from orlop.api.content_pb2_grpc import ContentServicer
from orlop.containerd.core.content import Info, IngestStatus, validate_digest
from orlop.containerd.core.namespaces import scope_of
from orlop.containerd.metadata.content import BoundContent, MetadataContent, MetadataWriter
from orlop.containerd.services.times import to_timestamp
from orlop.containerd.threads import in_thread
from orlop.errdefs import AlreadyExistsError, InvalidArgumentError, NotFoundError, OutOfRangeError

T = TypeVar("T")
_PAGE = 100  # blobs in one message of a list
_CHUNK = 1 << 20  # bytes in one message of a read; clients take at most 4 MiB
_INLINE = 64 << 10  # bytes that are read, or written and hashed, faster than a thread is woken


class ContentService(ContentServicer):
    """Content of the caller's namespace. Bytes are read, written and hashed in worker threads."""

    def __init__(self, content: MetadataContent, workers: Executor) -> None:
        self._content = content
        self._workers = workers

    def Info(self, request: pb.InfoRequest, context: Any) -> pb.InfoResponse:
        """One blob."""
        return pb.InfoResponse(info=_info(self._bind(context).info(request.digest)))

    def Update(self, request: pb.UpdateRequest, context: Any) -> pb.UpdateResponse:
        """Change labels."""
        info = request.info
        updated = self._bind(context).update(info.digest, dict(info.labels), tuple(request.update_mask.paths))
        return pb.UpdateResponse(info=_info(updated))

    async def List(self, request: pb.ListContentRequest, context: Any) -> AsyncIterator[pb.ListContentResponse]:
        """The blobs that match, in pages."""
        infos = list(self._bind(context).walk(tuple(request.filters)))
        for start in range(0, len(infos), _PAGE):
            yield pb.ListContentResponse(info=[_info(info) for info in infos[start : start + _PAGE]])

    def Delete(self, request: pb.DeleteContentRequest, context: Any) -> Empty:
        """Take a blob from the namespace."""
        self._bind(context).delete(request.digest)
        return Empty()

    def Read(
        self, request: pb.ReadContentRequest, context: Any
    ) -> Iterator[pb.ReadContentResponse] | AsyncIterator[pb.ReadContentResponse]:
        """Bytes of a blob; a size of 0, or beyond the end, means up to the end."""
        digest, store = validate_digest(request.digest), self._bind(context)
        with contextlib.closing(store.reader(digest)) as reader:
            offset, left = _part(reader.size, request)
            data = reader.read_cached(offset, left) if 0 < left <= _INLINE else None
        if data is not None and len(data) == left:
            return iter((pb.ReadContentResponse(offset=offset, data=data),))
        return self._read(store, request)

    async def _read(
        self, store: BoundContent, request: pb.ReadContentRequest
    ) -> AsyncGenerator[pb.ReadContentResponse, None]:
        with contextlib.closing(store.reader(request.digest)) as reader:
            offset, left = _part(reader.size, request)
            while left:
                at, size = offset, min(left, _CHUNK)
                data = await self._run(lambda at=at, size=size: reader.read_at(at, size))  # type: ignore[misc]
                if not data:
                    raise OutOfRangeError(f"blob {request.digest} ends at {offset} of {reader.size} bytes")
                yield pb.ReadContentResponse(offset=offset, data=data)
                offset += len(data)
                left -= len(data)

    def Status(self, request: pb.StatusRequest, context: Any) -> pb.StatusResponse:
        """One ingest."""
        return pb.StatusResponse(status=_status(self._bind(context).status(request.ref)))

    def ListStatuses(self, request: pb.ListStatusesRequest, context: Any) -> pb.ListStatusesResponse:
        """The ingests that match."""
        statuses = self._bind(context).statuses(tuple(request.filters))
        return pb.ListStatusesResponse(statuses=[_status(status) for status in statuses])

    def Abort(self, request: pb.AbortRequest, context: Any) -> Empty:
        """Throw an ingest away."""
        self._bind(context).abort(request.ref)
        return Empty()

    async def Write(
        self, requests: AsyncIterator[pb.WriteContentRequest], context: Any
    ) -> AsyncIterator[pb.WriteContentResponse]:
        """One write of one ref: the first message opens it, each is answered, COMMIT ends it."""
        store = self._bind(context)
        request = await anext(requests, None)
        if request is None:
            return
        if not request.ref:
            raise InvalidArgumentError("first message must have a reference")
        session = _WriteSession(self, store, request)
        try:
            while request is not None:
                yield await session.handle(request)
                if request.action == pb.COMMIT:
                    return
                request = await anext(requests, None)
        finally:
            session.writer.close()

    def _bind(self, context: Any) -> BoundContent:
        return self._content.bind(scope_of(context.invocation_metadata()))

    async def _run(self, work: Callable[[], T]) -> T:
        return await in_thread(self._workers, work)

    async def run_if_large(self, size: int, work: Callable[[], T]) -> T:
        """Run `work` on `size` bytes in a worker thread, or here when that is quicker."""
        return work() if size <= _INLINE else await self._run(work)


class _WriteSession:
    """The state between the messages of one Write call."""

    def __init__(self, service: ContentService, store: BoundContent, first: pb.WriteContentRequest) -> None:
        self._service = service
        self._store = store
        self._ref = first.ref
        self._total = first.total
        self._expected = first.expected
        self.writer: MetadataWriter = store.writer(first.ref, first.total, first.expected)

    async def handle(self, request: pb.WriteContentRequest) -> pb.WriteContentResponse:
        """Carry out one message and answer it."""
        writer, status = self.writer, self.writer.status()
        if request.expected:
            self._expected = validate_digest(request.expected, "expected")
            self._refuse_existing(request.expected)
        if request.total > 0:
            self._total = request.total
        answer = pb.WriteContentResponse(action=request.action, offset=status.offset)
        if request.action == pb.STAT:
            answer.digest = await self._service.run_if_large(writer.unhashed, writer.digest)
            answer.total = self._total
            answer.started_at.CopyFrom(to_timestamp(status.started))
            answer.updated_at.CopyFrom(to_timestamp(status.updated))
            return answer
        if request.offset > 0 and request.offset != status.offset:
            raise OutOfRangeError(f"write @{request.offset} must occur at current offset {status.offset}")
        if request.offset < 0:
            raise InvalidArgumentError("offset must not be negative")
        if request.offset == 0 and status.offset > 0:
            writer.truncate()
            answer.offset = 0
        if request.data:
            data = request.data
            await self._service.run_if_large(len(data) + writer.unhashed, lambda: writer.write(data))
            answer.offset += len(data)
        if request.action == pb.COMMIT:
            await self._service.run_if_large(_INLINE + 1, writer.sync)
            answer.digest = writer.digest()
            writer.commit(self._total, self._expected, dict(request.labels))
        else:
            answer.digest = writer.digest()
        return answer

    def _refuse_existing(self, digest: str) -> None:
        """A blob that is there ends the write, and its ingest."""
        try:
            self._store.info(digest)
        except NotFoundError:
            return
        self.writer.close()
        self._store.abort(self._ref)
        raise AlreadyExistsError(f"blob with expected digest {digest} exists")


def _part(size: int, request: pb.ReadContentRequest) -> tuple[int, int]:
    """Where a read begins, and how many bytes it takes. Raises OutOfRangeError."""
    offset = max(request.offset, 0)
    if offset > size:
        raise OutOfRangeError(f"read past object length {size} bytes")
    left = size - offset
    return offset, min(request.size, left) if request.size > 0 else left


def _info(info: Info) -> pb.Info:
    return pb.Info(
        digest=info.digest,
        size=info.size,
        created_at=to_timestamp(info.created),
        updated_at=to_timestamp(info.updated),
        labels=info.labels,
    )


def _status(status: IngestStatus) -> pb.Status:
    return pb.Status(
        started_at=to_timestamp(status.started),
        updated_at=to_timestamp(status.updated),
        ref=status.ref,
        offset=status.offset,
        total=status.total,
        expected=status.expected,
    )
