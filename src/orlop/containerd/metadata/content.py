# SPDX-License-Identifier: Apache-2.0
"""Content in the metadata: which namespace has which blob, and whose ingest is which file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from orlop.api.events_pb2 import ContentCreate, ContentDelete
from orlop.containerd.core import filters as filter_language
from orlop.containerd.core import labels as label_rules
from orlop.containerd.core.content import Info, IngestStatus, validate_digest
from orlop.containerd.core.namespaces import Scope
from orlop.containerd.disk import disk_errors
from orlop.containerd.failpoints import failpoint
from orlop.containerd.metadata.db import Database, Row, now, pack, unpack
from orlop.containerd.metadata.leases import MetadataLeases
from orlop.containerd.metadata.namespaces import MetadataNamespaces
from orlop.containerd.plugins.content_local import LocalContent, LocalReader, LocalWriter
from orlop.containerd.threads import in_thread
from orlop.errdefs import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)

if TYPE_CHECKING:
    from orlop.containerd.core.events import EventPublisher
    from orlop.containerd.metadata.gc import GarbageCollector

INGEST_LIFETIME = 24 * 3600 * 10**9  # nanoseconds that an ingest without a lease is kept

_MIGRATIONS = (
    """
    CREATE TABLE blobs (
        namespace TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL,
        created INTEGER NOT NULL, updated INTEGER NOT NULL, labels TEXT NOT NULL,
        PRIMARY KEY (namespace, digest)
    ) WITHOUT ROWID;
    CREATE INDEX blobs_by_digest ON blobs (digest);
    CREATE TABLE ingests (
        number INTEGER PRIMARY KEY AUTOINCREMENT, namespace TEXT NOT NULL, ref TEXT NOT NULL,
        total INTEGER NOT NULL, expected TEXT NOT NULL, shared INTEGER NOT NULL,
        started INTEGER NOT NULL, expires INTEGER, UNIQUE (namespace, ref)
    )
    """,
)


class MetadataContent:
    """All content; `bind` gives the `ContentStore` of a scope.

    The bytes of a blob are stored once, however many namespaces have it. A namespace sees a blob only after it has
    written it itself. A writer that names an `expected` digest whose bytes are there needs to write nothing
    (policy "shared", as containerd's default): its ingest stands at the full offset at once and can be committed.
    """

    def __init__(
        self,
        db: Database,
        local: LocalContent,
        namespaces: MetadataNamespaces,
        leases: MetadataLeases,
        gc: GarbageCollector,
        events: EventPublisher,
    ) -> None:
        db.migrate("content", _MIGRATIONS)
        namespaces.register_contents("blobs", "SELECT 1 FROM blobs WHERE namespace = ? LIMIT 1")
        self.db = db
        self.local = local
        self.namespaces = namespaces
        self.leases = leases
        self.gc = gc
        self.events = events
        self.locked: set[int] = set()  # ingests with an open writer
        self._renamed = 0  # blobs that have got their names, and how many of those names are on the disk
        self._synced = 0
        gc.set_content(self)

    def bind(self, scope: Scope) -> BoundContent:
        """The content of one namespace."""
        return BoundContent(self, scope)

    def settle(self) -> None:
        """Reconcile records and files after a crash: a record needs its whole blob, a file its record."""
        sizes = self.local.sizes()
        if sizes is None:
            return
        with self.db.transaction():
            for row in self.db.rows("SELECT namespace, digest, size FROM blobs"):
                if sizes.get(row["digest"]) != row["size"]:
                    self.db.execute(
                        "DELETE FROM blobs WHERE namespace = ? AND digest = ?", (row["namespace"], row["digest"])
                    )
        self.db.skip_numbers("ingests", max(self.local.ingests(), default=0))
        self.drop_files(sizes)
        self.gc.trash()

    def drop_files(self, sizes: Mapping[str, int] | None) -> None:
        """Discard the files that no record needs; an open writer's ingest has a record."""
        needed = {row["digest"] for row in self.db.rows("SELECT DISTINCT digest FROM blobs")}
        needed |= {row["expected"] for row in self.db.rows("SELECT expected FROM ingests WHERE shared")}
        for digest in sizes or ():
            if digest not in needed:
                self.local.discard_blob(digest)
        numbers = {row["number"] for row in self.db.rows("SELECT number FROM ingests")}
        for number in self.local.ingests() - numbers - self.locked:
            self.local.discard_ingest(number)

    def named(self) -> None:
        """A blob has got its name."""
        self._renamed += 1

    async def sync_names(self, workers: Executor) -> None:
        """Bring the names of blobs to the disk, in a worker thread, if there are new ones.

        What is recorded afterwards can rely on them, also after a power cut. Raises ResourceExhaustedError.
        """
        renamed = self._renamed
        if self._synced < renamed:
            await in_thread(workers, self.local.sync_names)
            self._synced = max(self._synced, renamed)

    def shareable(self, digest: str) -> int | None:
        """The size of the blob whose bytes any namespace may commit without writing them;

        None if there are none.
        """
        if self.db.row("SELECT 1 FROM blobs WHERE digest = ? LIMIT 1", (digest,)) is None:
            return None
        return self.local.size(digest)


class BoundContent:
    """Implements `orlop.containerd.core.content.ContentStore`."""

    def __init__(self, owner: MetadataContent, scope: Scope) -> None:
        self._owner = owner
        self._db = owner.db
        self._scope = scope
        self._namespace = scope.namespace

    def info(self, digest: str) -> Info:
        """One blob; raises NotFoundError, InvalidArgumentError."""
        validate_digest(digest)
        row = self._db.row("SELECT * FROM blobs WHERE namespace = ? AND digest = ?", (self._namespace, digest))
        if row is None:
            raise NotFoundError(f"content digest {digest}: not found")
        return _info(row)

    def update(self, digest: str, labels: Mapping[str, str], paths: Sequence[str]) -> Info:
        """Change labels; raises NotFoundError, InvalidArgumentError."""
        with self._db.transaction():
            stored = self.info(digest)
            merged = label_rules.update(f'content info "{digest}"', stored.labels, labels, paths)
            info = stored._replace(labels=merged, updated=now())
            self._db.execute(
                "UPDATE blobs SET labels = ?, updated = ? WHERE namespace = ? AND digest = ?",
                (pack(merged), info.updated, self._namespace, digest),
            )
        self._owner.gc.mutated()
        return info

    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]:
        """The blobs that match, by digest; raises InvalidArgumentError."""
        matches = filter_language.parse_all(filters)
        rows = self._db.rows("SELECT * FROM blobs WHERE namespace = ? ORDER BY digest", (self._namespace,))
        adapt = filter_language.adapt
        return (
            info for info in map(_info, rows) if matches(adapt({"digest": info.digest}, {"labels": info.labels}))
        )

    def delete(self, digest: str) -> None:
        """Take a blob from this namespace; raises NotFoundError."""
        with self._db.transaction():
            self.info(digest)
            self._db.execute("DELETE FROM blobs WHERE namespace = ? AND digest = ?", (self._namespace, digest))
            self._owner.leases.release(self._scope, "content", digest)
        failpoint("content.delete.after_record")
        self._owner.gc.deleted()
        self._owner.events.publish(self._namespace, "/content/delete", ContentDelete(digest=digest))

    def reader(self, digest: str) -> LocalReader:
        """Open a blob; raises NotFoundError."""
        validate_digest(digest)
        row = self._db.row("SELECT 1 FROM blobs WHERE namespace = ? AND digest = ?", (self._namespace, digest))
        if row is None:
            raise NotFoundError(f"content digest {digest}: not found")
        return self._owner.local.reader(digest)

    def writer(self, ref: str, total: int = 0, expected: str = "") -> MetadataWriter:
        """Open or resume an ingest; raises as the contract says."""
        if not ref:
            raise InvalidArgumentError("ref must not be empty")
        if total < 0:
            raise InvalidArgumentError("total must not be negative")
        if expected and self._exists(expected):
            raise AlreadyExistsError(f"content {expected}: already exists")
        shared_size = self._owner.shareable(validate_digest(expected, "expected")) if expected else None
        shared = shared_size is not None and total in (0, shared_size)
        with self._db.transaction():
            self._owner.namespaces.ensure(self._namespace)
            row = self._ingest(ref)
            if row is not None and row["number"] in self._owner.locked:
                raise UnavailableError(f"ref {ref} locked: unavailable")
            leased = self._owner.leases.hold(self._scope, "ingests", ref)
            expires = None if leased else now() + INGEST_LIFETIME
            if row is None:
                self._db.execute(
                    "INSERT INTO ingests (namespace, ref, total, expected, shared, started, expires) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (self._namespace, ref, total, expected, shared, now(), expires),
                )
            else:
                # A resumed ingest has bytes of its own: it becomes shared only while it has none.
                shared = shared and not (self._owner.local.ingest_stat(row["number"]) or (0, 0))[0]
                self._db.execute(
                    "UPDATE ingests SET total = ?, expected = ?, shared = ?, expires = ? WHERE number = ?",
                    (total or row["total"], expected or row["expected"], shared, expires, row["number"]),
                )
            row = self._ingest(ref)
            assert row is not None
        failpoint("content.write.after_record")
        with disk_errors(f"cannot open ingest {ref}"):
            local = None if shared else self._owner.local.writer(row["number"])
        failpoint("content.write.after_open")
        return MetadataWriter(self._owner, self._scope, row, local, shared_size or 0)

    def status(self, ref: str) -> IngestStatus:
        """One ingest; raises NotFoundError."""
        row = self._ingest(ref)
        if row is None:
            raise NotFoundError(f"reference {ref}: not found")
        return self._status(row)

    def statuses(self, filters: Sequence[str] = ()) -> list[IngestStatus]:
        """The ingests that match, by ref; raises InvalidArgumentError."""
        matches = filter_language.parse_all(filters)
        rows = self._db.rows("SELECT * FROM ingests WHERE namespace = ? ORDER BY ref", (self._namespace,))
        return [self._status(row) for row in rows if matches(filter_language.adapt({"ref": row["ref"]}, {}))]

    def abort(self, ref: str) -> None:
        """Throw an ingest away; raises NotFoundError, UnavailableError while somebody writes it."""
        row = self._ingest(ref)
        if row is None:
            raise NotFoundError(f"reference {ref}: not found")
        if row["number"] in self._owner.locked:
            raise UnavailableError(f"ref {ref} locked: unavailable")
        with self._db.transaction():
            self._db.execute("DELETE FROM ingests WHERE number = ?", (row["number"],))
            self._owner.leases.release(self._scope, "ingests", ref)
        failpoint("content.abort.after_record")
        self._owner.local.discard_ingest(row["number"])
        failpoint("content.abort.after_discard")
        self._owner.gc.trash()

    def _exists(self, digest: str) -> bool:
        """Whether this namespace has the blob; if so the lease of the request holds it from now on."""
        validate_digest(digest, "expected")
        with self._db.transaction():
            row = self._db.row("SELECT 1 FROM blobs WHERE namespace = ? AND digest = ?", (self._namespace, digest))
            if row is not None:
                self._owner.leases.hold(self._scope, "content", digest)
        return row is not None

    def _ingest(self, ref: str) -> Row | None:
        return self._db.row("SELECT * FROM ingests WHERE namespace = ? AND ref = ?", (self._namespace, ref))

    def _status(self, row: Row) -> IngestStatus:
        if row["shared"]:
            size = self._owner.local.size(row["expected"]) or 0
            return IngestStatus(row["ref"], size, size, row["expected"], row["started"], row["started"])
        offset, modified = self._owner.local.ingest_stat(row["number"]) or (0, row["started"])
        updated = max(row["started"], modified)  # files have a coarser clock
        return IngestStatus(row["ref"], offset, row["total"], row["expected"], row["started"], updated)


class MetadataWriter:
    """Implements `orlop.containerd.core.content.Writer`.

    Without a local writer it is shared: it stands for bytes that another namespace has, until it is written to.
    """

    def __init__(
        self, owner: MetadataContent, scope: Scope, row: Row, local: LocalWriter | None, shared_size: int
    ) -> None:
        self._owner = owner
        self._scope = scope
        self._ref: str = row["ref"]
        self._number: int = row["number"]
        self._total: int = row["total"]
        self._expected: str = row["expected"]
        self._started: int = row["started"]
        self._shared_size = shared_size
        self._local = local
        self._closed = False
        owner.locked.add(self._number)

    def status(self) -> IngestStatus:
        """How far the write has come."""
        if self._local is None:
            size = self._shared_size
            return IngestStatus(self._ref, size, size, self._expected, self._started, self._started)
        offset, updated = self._local.offset, max(self._started, self._local.modified)
        return IngestStatus(self._ref, offset, self._total, self._expected, self._started, updated)

    def digest(self) -> str:
        """The digest so far."""
        return self._local.digest() if self._local is not None else self._expected

    @property
    def unhashed(self) -> int:
        """Bytes that must be read or copied before the next write or digest."""
        return self._local.unhashed if self._local is not None else self._shared_size

    def write(self, data: bytes) -> None:
        """Append; raises ResourceExhaustedError."""
        if data:
            self._own(copy=True).write(data)
            failpoint("content.write.after_data")

    def truncate(self) -> None:
        """Begin again at offset 0."""
        self._own(copy=False).truncate()

    def sync(self) -> None:
        """Bring the bytes to the disk."""
        if self._local is not None:
            self._local.sync()

    def commit(self, size: int = 0, expected: str = "", labels: Mapping[str, str] | None = None) -> Info:
        """Make a blob of it; raises FailedPreconditionError, AlreadyExistsError, InvalidArgumentError."""
        labels = label_rules.checked(labels or {})
        offset, digest = self.status().offset, self.digest()
        if size and size != offset:
            raise FailedPreconditionError(f'"{self._ref}" failed size validation: {offset} != {size}')
        if expected and expected != digest:
            raise FailedPreconditionError(f"unexpected commit digest {digest}, expected {expected}")
        self.sync()
        failpoint("content.commit.after_sync")
        owner, namespace, time = self._owner, self._scope.namespace, now()
        info = Info(digest, offset, time, time, labels)
        with owner.db.transaction():
            owner.leases.hold(self._scope, "content", digest)
            owner.leases.release(self._scope, "ingests", self._ref)
            cursor = owner.db.execute(
                "INSERT OR IGNORE INTO blobs VALUES (?, ?, ?, ?, ?, ?)",
                (namespace, digest, offset, time, time, pack(info.labels)),
            )
            owner.db.execute("DELETE FROM ingests WHERE number = ?", (self._number,))
            failpoint("content.commit.before_rename")
            if self._local is not None:  # last: what fails before it leaves the ingest as it was
                owner.local.commit(self._number, self._local, digest)
                owner.named()
            failpoint("content.commit.after_rename")
        failpoint("content.commit.after_record")
        self.close()
        owner.gc.mutated()
        if cursor.rowcount == 0:
            raise AlreadyExistsError(f"content {digest}: already exists")
        owner.events.publish(namespace, "/content/create", ContentCreate(digest=digest, size=offset))
        return info

    def close(self) -> None:
        """Leave the ingest as it is; a second time does nothing."""
        if self._local is not None:
            self._local.close()
        if not self._closed:
            self._closed = True
            self._owner.locked.discard(self._number)

    def _own(self, copy: bool) -> LocalWriter:
        """The file of this ingest; what was shared is copied into it first, when that is asked for."""
        if self._local is None:
            local = self._owner.local.writer(self._number)
            if copy:
                reader = self._owner.local.reader(self._expected)
                try:
                    while data := reader.read_at(local.offset, 1 << 20):
                        local.write(data)
                finally:
                    reader.close()
            self._local = local
        return self._local


def _info(row: Row) -> Info:
    return Info(row["digest"], row["size"], row["created"], row["updated"], unpack(row["labels"]))
