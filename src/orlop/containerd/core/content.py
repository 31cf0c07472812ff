# SPDX-License-Identifier: Apache-2.0
"""Contract of the content store: immutable bytes named by their digest, and writes in progress named by a ref."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from orlop.errdefs import InvalidArgumentError

_DIGEST = re.compile(r"sha256:[a-f0-9]{64}")


class Info(NamedTuple):
    """A blob. Times are nanoseconds since the epoch."""

    digest: str
    size: int
    created: int
    updated: int
    labels: Mapping[str, str]


class IngestStatus(NamedTuple):
    """A write in progress. `total` and `expected` are what the writer announced: 0 and empty when unknown."""

    ref: str
    offset: int
    total: int
    expected: str
    started: int
    updated: int


class Reader(Protocol):
    """An open blob. Its methods may block on a disk and may be called from a worker thread."""

    @property
    def size(self) -> int:
        """Bytes in the blob."""
        ...

    def fileno(self) -> int:
        """The descriptor of the file, at offset 0 unless somebody moved it."""
        ...

    def read_at(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset`; empty at the end."""
        ...

    def read_cached(self, offset: int, size: int) -> bytes | None:
        """Like `read_at`, without blocking: None where the bytes are not in memory."""
        ...

    def close(self) -> None:
        """Give the descriptor back."""
        ...


class Writer(Protocol):
    """The one open write of a ref. `write`, `truncate` and `sync` may run in a worker thread, one at a time."""

    def status(self) -> IngestStatus:
        """How far the write has come."""
        ...

    def digest(self) -> str:
        """The digest of what was written so far."""
        ...

    def write(self, data: bytes) -> None:
        """Append. Raises ResourceExhaustedError when the disk is full; the ingest stays, cut to its old offset."""
        ...

    def truncate(self) -> None:
        """Begin again at offset 0."""
        ...

    def sync(self) -> None:
        """Bring the bytes to the disk, so that `commit` has nothing to wait for."""
        ...

    def commit(self, size: int = 0, expected: str = "", labels: Mapping[str, str] | None = None) -> Info:
        """Make the bytes a blob and end the ingest. Call it in the thread of the event loop.

        `size` 0 and an empty `expected` are not checked. Raises FailedPreconditionError when size or digest are
        not as expected (the ingest stays), AlreadyExistsError when the blob is there (the ingest is gone).
        """
        ...

    def close(self) -> None:
        """Leave the ingest as it is, to be resumed later under its ref; does nothing after `commit`."""
        ...


class ContentStore(Protocol):
    """Blobs and ingests of one scope.

    Vocabulary: a *blob* is content whose digest is known and verified. An *ingest* is content being written; it
    has a *ref*, a free name, and survives the connection that wrote it: who opens a writer for the same ref goes
    on at `status().offset`. Lifecycle:

        writer = store.writer("layer-1", total=3, expected=digest)   # the ingest exists, and is locked
        writer.write(b"abc")
        writer.commit(3, digest)                                     # the ingest is gone, the blob exists
        with contextlib.closing(store.reader(digest)) as reader: ...

    All but the methods of Reader and Writer run in the thread of the event loop.
    """

    def info(self, digest: str) -> Info:
        """Raises NotFoundError."""
        ...

    def update(self, digest: str, labels: Mapping[str, str], paths: Sequence[str]) -> Info:
        """Change labels as the field mask `paths` says. Raises NotFoundError, InvalidArgumentError."""
        ...

    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]:
        """The blobs that match, by digest. Raises InvalidArgumentError for a malformed filter."""
        ...

    def delete(self, digest: str) -> None:
        """Raises NotFoundError."""
        ...

    def reader(self, digest: str) -> Reader:
        """Open a blob. Raises NotFoundError."""
        ...

    def writer(self, ref: str, total: int = 0, expected: str = "") -> Writer:
        """Open or resume the ingest `ref`.

        Raises AlreadyExistsError when the blob `expected` is there, UnavailableError when the ref is being
        written by somebody else, InvalidArgumentError for an empty ref.
        """
        ...

    def status(self, ref: str) -> IngestStatus:
        """Raises NotFoundError."""
        ...

    def statuses(self, filters: Sequence[str] = ()) -> list[IngestStatus]:
        """The ingests that match. Raises InvalidArgumentError for a malformed filter."""
        ...

    def abort(self, ref: str) -> None:
        """Throw an ingest away. Raises NotFoundError."""
        ...


def validate_digest(digest: str, field: str = "digest") -> str:
    """`digest` when it is well-formed and of an algorithm that we store; raises InvalidArgumentError."""
    if _DIGEST.fullmatch(digest) is None:
        raise InvalidArgumentError(f'{field} "{digest}" invalid: expected sha256: and 64 hexadecimal digits')
    return digest
