# SPDX-License-Identifier: Apache-2.0
"""A content store as a proxy plugin: another process keeps the blobs, reached over a socket.

What is being written lies in files here, as with the store of our own, and is sent when it is whole: the other
process sees whole blobs only, in one namespace of its own, with labels that hold them there and say that they are
ours. Blobs that it has besides are left alone, but may be used.

Questions about single blobs are asked in the thread of the event loop, as the metadata's calls are, and wait at
most `TIMEOUT`; bytes move in worker threads.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import grpc

from orlop.api import content_pb2 as pb
from orlop.api.content_pb2_grpc import ContentStub
from orlop.containerd.plugins.content_local import LocalContent, LocalReader, LocalWriter
from orlop.errdefs import (
    AlreadyExistsError,
    DataLossError,
    FailedPreconditionError,
    NotFoundError,
    OrlopError,
    UnavailableError,
)
from orlop.rpc import status

NAMESPACE = "default"
TIMEOUT = 10.0  # seconds for a question
TRANSFER_TIMEOUT = 600.0  # seconds for the bytes of a blob
OWNED = "io.orlop.content"
_log = logging.getLogger("containerd.content")
_ROOT = "containerd.io/gc.root"
_CHUNK = 1 << 20


class RemoteStore:
    """Calls of the other process's Content service, from any thread. They raise what it answers."""

    def __init__(self, address: str) -> None:
        # A process that has been started again is found within half a second, not after gRPC's two minutes.
        backoff = [(f"grpc.{name}_reconnect_backoff_ms", 500) for name in ("initial", "min", "max")]
        self._channel = grpc.insecure_channel(f"unix:{address.removeprefix('unix://')}", backoff)
        self._stub = ContentStub(self._channel)  # type: ignore[no-untyped-call, unused-ignore]
        self._metadata = (("containerd-namespace", NAMESPACE),)

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request, metadata=self._metadata, timeout=TIMEOUT)
        except grpc.RpcError as error:
            raise _error(error) from None

    def info(self, digest: str) -> pb.Info:
        """Raises NotFoundError."""
        found: pb.Info = self._call(self._stub.Info, pb.InfoRequest(digest=digest)).info
        return found

    def sizes(self) -> dict[str, int]:
        """Every blob that there is, with its size."""
        try:
            calls = self._stub.List(pb.ListContentRequest(), metadata=self._metadata, timeout=TIMEOUT)
            return {info.digest: info.size for answer in calls for info in answer.info}
        except grpc.RpcError as error:
            raise _error(error) from None

    def read(self, digest: str, offset: int, size: int) -> Iterator[bytes]:
        """The bytes from `offset` on, `size` of them (0: all)."""
        request = pb.ReadContentRequest(digest=digest, offset=offset, size=size)
        try:
            for answer in self._stub.Read(request, metadata=self._metadata, timeout=TRANSFER_TIMEOUT):
                yield answer.data
        except grpc.RpcError as error:
            raise _error(error) from None

    def write(self, pieces: Iterator[bytes], size: int, digest: str) -> None:
        """Store a blob; one that is there is as good."""
        try:
            for _ in self._stub.Write(
                _requests(pieces, size, digest), metadata=self._metadata, timeout=TRANSFER_TIMEOUT
            ):
                pass
        except grpc.RpcError as error:
            found = _error(error)
            if not isinstance(found, AlreadyExistsError):
                raise found from None

    def delete_ours(self, digest: str) -> None:
        """Remove a blob that we have put there; what others have stays."""
        try:
            if OWNED in self.info(digest).labels:
                self._call(self._stub.Delete, pb.DeleteContentRequest(digest=digest))
        except NotFoundError:
            return

    def close(self) -> None:
        """Hang up."""
        self._channel.close()


def _error(error: grpc.RpcError) -> OrlopError:
    code, details = error.code(), error.details()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return UnavailableError(f"the content store does not answer: {details}")
    return status.error_for(code.value[0], details or code.name.lower())


def _requests(pieces: Iterator[bytes], size: int, digest: str) -> Iterator[pb.WriteContentRequest]:
    """A write from its beginning to its end, under a name that nobody else has."""
    ref = f"orlop-{os.urandom(8).hex()}"
    yield pb.WriteContentRequest(action=pb.STAT, ref=ref, total=size, expected=digest)
    offset = 0
    for piece in pieces:
        yield pb.WriteContentRequest(action=pb.WRITE, offset=offset, data=piece)
        offset += len(piece)
    labels = {OWNED: "true", _ROOT: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    yield pb.WriteContentRequest(action=pb.COMMIT, offset=offset, total=size, expected=digest, labels=labels)


class RemoteReader(LocalReader):
    """A blob of the other process. Its `fileno` is of a copy, made at the first use."""

    slow = True

    def __init__(self, store: RemoteStore, digest: str) -> None:
        self._store = store
        self._digest = digest
        self._size = store.info(digest).size
        self._fd = -1

    def fileno(self) -> int:
        """The descriptor of a copy without a name. Blocks until all of it is here, the first time."""
        if self._fd < 0:
            with tempfile.TemporaryFile(prefix="orlop-blob-") as file:
                for data in self._store.read(self._digest, 0, 0):
                    file.write(data)
                file.flush()
                if file.tell() != self._size:
                    raise DataLossError(f"content {self._digest}: got {file.tell()} of {self._size} bytes")
                self._fd = os.dup(file.fileno())
            os.lseek(self._fd, 0, os.SEEK_SET)
        return self._fd

    def read_at(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset`."""
        if self._fd >= 0:
            return super().read_at(offset, size)
        wanted = min(size, self._size - offset)
        return b"".join(self._store.read(self._digest, offset, wanted)) if wanted > 0 else b""

    def read_cached(self, offset: int, size: int) -> bytes | None:
        """Always to be waited for."""
        return None


class SendingWriter(LocalWriter):
    """An ingest that is sent when it is synced."""

    def __init__(self, path: str, store: RemoteStore, sent: Counter[str]) -> None:
        """`sent` counts what writers have sent, until they are closed."""
        super().__init__(path)
        self._store = store
        self._all_sent = sent
        self._sent: list[str] = []
        self._done = ""

    def sync(self) -> None:
        """Send what is there as a blob, unless that has been done. Run it in a worker thread."""
        digest = self.digest()
        if self._done != digest:
            self._all_sent[digest] += 1
            self._sent.append(digest)
            self._store.write(self._pieces(), self.offset, digest)
            self._done = digest

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        super().close()
        for digest in self._sent:
            self._all_sent[digest] -= 1
            if not self._all_sent[digest]:
                del self._all_sent[digest]
        self._sent.clear()

    def _pieces(self) -> Iterator[bytes]:
        at = 0
        while at < self.offset:
            data = os.pread(self._fd, min(_CHUNK, self.offset - at), at)
            if not data:
                raise DataLossError(f"ingest {self.path} was cut to {at} bytes")
            yield data
            at += len(data)


class RemoteContent(LocalContent):
    """The store: ingests in files below `root`, blobs in the other process."""

    def __init__(self, root: str, address: str) -> None:
        super().__init__(root)
        self.store = RemoteStore(address)
        self._sent: Counter[str] = Counter()  # digests that open writers have sent, which no record needs yet

    def size(self, digest: str) -> int | None:
        """Bytes in the blob; None when there is none."""
        try:
            return self.store.info(digest).size
        except NotFoundError:
            return None

    def reader(self, digest: str) -> RemoteReader:
        """Open a blob; raises NotFoundError."""
        return RemoteReader(self.store, digest)

    def writer(self, number: int) -> SendingWriter:
        """Open or create an ingest."""
        return SendingWriter(self._ingest(number), self.store, self._sent)

    def commit(self, number: int, writer: LocalWriter, digest: str) -> None:
        """The other process has the blob since the writer was synced: the file goes. Closes the writer."""
        if writer.digest() != digest:
            raise FailedPreconditionError(f"unexpected commit digest {writer.digest()}, expected {digest}")
        writer.close()
        os.unlink(writer.path)

    def sync_names(self) -> None:
        """Nothing: names are the other process's."""

    def digests(self) -> dict[str, int]:
        """All blobs with their sizes."""
        return self.store.sizes()

    def sizes(self) -> Mapping[str, int] | None:
        """As `digests`; None where the other process does not answer."""
        try:
            return self.digests()
        except UnavailableError as error:
            _log.error("the content store: %s", error)
            return None

    def discard_blob(self, digest: str) -> None:
        """Have a blob of ours deleted, unless somebody is about to record it."""
        if digest not in self._sent:
            self.store.delete_ours(digest)

    def close(self) -> None:
        """Hang up."""
        self.store.close()
