# SPDX-License-Identifier: Apache-2.0
"""Snapshots in the metadata: keys, names, parents and labels over a driver's directories."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from typing import TYPE_CHECKING

from orlop.api.events_pb2 import SnapshotCommit, SnapshotPrepare, SnapshotRemove
from orlop.containerd.core import filters as filter_language
from orlop.containerd.core import idmaps
from orlop.containerd.core import labels as label_rules
from orlop.containerd.core.mount import Mount
from orlop.containerd.core.namespaces import Scope
from orlop.containerd.core.snapshots import Info, Kind, SnapshotDriver, Usage
from orlop.containerd.disk import disk_errors
from orlop.containerd.failpoints import failpoint
from orlop.containerd.metadata.db import Database, Row, now, pack, unpack
from orlop.containerd.metadata.leases import MetadataLeases
from orlop.containerd.metadata.namespaces import MetadataNamespaces
from orlop.containerd.metadata.unsynced import UnsyncedSnapshots
from orlop.errdefs import AlreadyExistsError, FailedPreconditionError, InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from orlop.containerd.core.events import EventPublisher
    from orlop.containerd.metadata.gc import GarbageCollector

_log = logging.getLogger("containerd.snapshots")

# A client that prepares to unpack a layer names with this label the snapshot that the layer will become.
TARGET_LABEL = "containerd.io/snapshot.ref"

_MIGRATIONS = (
    """
    CREATE TABLE snapshots (
        number INTEGER PRIMARY KEY AUTOINCREMENT, namespace TEXT NOT NULL, snapshotter TEXT NOT NULL,
        key TEXT NOT NULL, parent INTEGER REFERENCES snapshots (number), kind INTEGER NOT NULL,
        created INTEGER NOT NULL, updated INTEGER NOT NULL, labels TEXT NOT NULL,
        size INTEGER NOT NULL DEFAULT 0, inodes INTEGER NOT NULL DEFAULT 0,
        UNIQUE (namespace, snapshotter, key)
    );
    CREATE INDEX snapshots_by_parent ON snapshots (parent)
    """,
)
_ANCESTORS = """
    WITH RECURSIVE chain (number, parent, depth) AS (
        SELECT number, parent, 0 FROM snapshots WHERE number = ?
        UNION ALL SELECT s.number, s.parent, depth + 1 FROM snapshots s JOIN chain ON s.number = chain.parent
    ) SELECT number FROM chain ORDER BY depth
"""
_WITH_PARENT = "SELECT s.*, p.key AS parent_key FROM snapshots s LEFT JOIN snapshots p ON p.number = s.parent "


class MetadataSnapshots:
    """All snapshots of one driver; `bind` gives the `Snapshotter` of a scope."""

    def __init__(
        self,
        db: Database,
        driver: SnapshotDriver,
        namespaces: MetadataNamespaces,
        leases: MetadataLeases,
        gc: GarbageCollector,
        events: EventPublisher,
        workers: Executor,
    ) -> None:
        db.migrate("snapshots", _MIGRATIONS)
        namespaces.register_contents(
            "snapshots", "SELECT snapshotter FROM snapshots WHERE namespace = ? GROUP BY snapshotter"
        )
        self.db = db
        self.driver = driver
        self.name = driver.name
        self.namespaces = namespaces
        self.leases = leases
        self.gc = gc
        self.events = events
        self._workers = workers
        self._deleting: dict[int, Future[None]] = {}
        self.unsynced = UnsyncedSnapshots(db, driver.name, driver.root, workers)
        self.creating: set[int] = set()  # directories being made by a worker thread
        gc.add_snapshotter(self)

    def bind(self, scope: Scope) -> BoundSnapshots:
        """The snapshots of one namespace."""
        return BoundSnapshots(self, scope)

    def settle(self) -> None:
        """Settle a crash: drop records whose directory was never finished, delete directories without a record."""
        complete = self.driver.complete()
        missing = [
            (row["number"],)
            for row in self.db.rows(
                "SELECT number FROM snapshots WHERE snapshotter = ? AND kind != ?",
                (self.name, int(Kind.COMMITTED)),
            )
            if row["number"] not in complete
        ]
        with self.db.transaction():
            self.db.execute_many("DELETE FROM snapshots WHERE number = ?", missing)
        self.unsynced.drop_torn()
        self.db.skip_numbers("snapshots", max(self.driver.numbers(), default=0))
        for number in self.waste():
            self.discard(number)
        self.unsynced.schedule()

    def waste(self) -> set[int]:
        """The directories that no snapshot owns and nobody makes or deletes."""
        rows = self.db.rows("SELECT number FROM snapshots WHERE snapshotter = ?", (self.name,))
        return self.driver.numbers() - {row["number"] for row in rows} - self._deleting.keys() - self.creating

    def discard(self, number: int) -> Future[None]:
        """Delete the directory of a snapshot whose record is gone, in a worker thread."""
        future = self._workers.submit(self.driver.delete, number)
        self._deleting[number] = future
        future.add_done_callback(lambda done: self._deleted(number, done))
        return future

    def _deleted(self, number: int, done: Future[None]) -> None:
        self._deleting.pop(number, None)
        error = None if done.cancelled() else done.exception()
        if error is not None:
            # It is tried again by the next cleanup or start: the directory has no record.
            _log.warning("directory of removed snapshot %s/%d is not deleted: %s", self.name, number, error)

    def deletions(self) -> list[Future[None]]:
        """The deletions under way."""
        return list(self._deleting.values())

    def parents(self, number: int | None) -> list[int]:
        """A snapshot and its ancestors, nearest first; empty for None."""
        if number is None:
            return []
        return [row["number"] for row in self.db.rows(_ANCESTORS, (number,))]


class BoundSnapshots:
    """Implements `orlop.containerd.core.snapshots.Snapshotter`."""

    def __init__(self, owner: MetadataSnapshots, scope: Scope) -> None:
        self._owner = owner
        self._db = owner.db
        self._driver = owner.driver
        self._scope = scope
        self._namespace = scope.namespace

    def stat(self, key: str) -> Info:
        """One snapshot; raises NotFoundError."""
        return self._shown(self.row(key))

    def update(self, name: str, labels: Mapping[str, str], paths: Sequence[str]) -> Info:
        """Change labels; raises NotFoundError, InvalidArgumentError."""
        if not name:
            raise InvalidArgumentError("snapshot name must not be empty")
        with self._db.transaction():
            row = self.row(name)
            merged = label_rules.update(f'snapshot "{name}"', unpack(row["labels"]), labels, paths)
            updated = now()
            self._db.execute(
                "UPDATE snapshots SET labels = ?, updated = ? WHERE number = ?",
                (pack(merged), updated, row["number"]),
            )
        self._owner.gc.mutated()
        return self._shown(row, merged)._replace(updated=updated)

    def usage(self, key: str) -> Usage:
        """What it takes; walks the tree of an active snapshot. Raises NotFoundError."""
        row = self.row(key)
        if row["kind"] == Kind.ACTIVE:
            return self._driver.usage(row["number"])
        return Usage(row["size"], row["inodes"])

    def measuring(self, key: str) -> int | None:
        """The number to give to the driver's `usage` in a worker thread; None when the usage is on record."""
        row = self.row(key)
        return row["number"] if row["kind"] == Kind.ACTIVE else None

    def mounts(self, key: str) -> list[Mount]:
        """What to mount; raises NotFoundError, FailedPreconditionError."""
        row = self.row(key)
        kind = Kind(row["kind"])
        if kind == Kind.COMMITTED:
            raise FailedPreconditionError(f'snapshot "{key}" is committed, not active: failed precondition')
        return self._mounts(row["number"], kind, self._owner.parents(row["parent"]), unpack(row["labels"]))

    def prepare(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        """Create an active snapshot; raises as the contract says."""
        number, parents = self.reserve(Kind.ACTIVE, key, parent, labels or {}, create=True)
        self.announce(key, parent)
        return self._mounts(number, Kind.ACTIVE, parents, labels or {})

    def view(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        """Create a view; raises as the contract says."""
        number, parents = self.reserve(Kind.VIEW, key, parent, labels or {}, create=True)
        return self._mounts(number, Kind.VIEW, parents, labels or {})

    def _mounts(self, number: int, kind: Kind, parents: Sequence[int], labels: Mapping[str, str]) -> list[Mount]:
        mounts = self._driver.mounts(number, kind, parents)
        return idmaps.mapped(mounts, labels, writable=kind == Kind.ACTIVE) if self._driver.maps_ids else mounts

    def reserve(
        self, kind: Kind, key: str, parent: str, labels: Mapping[str, str], create: bool
    ) -> tuple[int, list[int]]:
        """Record a snapshot; with `create` the driver makes its directory before the record is there for others.

        Answers its number and its parents. Raises AlreadyExistsError, NotFoundError, FailedPreconditionError.
        """
        if not key:
            raise InvalidArgumentError("snapshot key must not be empty")
        labels = label_rules.checked(labels)
        mapping = idmaps.mapping_of(labels) if self._driver.maps_ids else None
        self._refuse_taken(labels.get(TARGET_LABEL, ""), key)
        owner, time = self._owner, now()
        with self._db.transaction():
            owner.namespaces.ensure(self._namespace)
            parent_number = self._parent(parent) if parent else None
            cursor = self._db.execute(
                "INSERT INTO snapshots (namespace, snapshotter, key, parent, kind, created, updated, labels) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (self._namespace, owner.name, key, parent_number, int(kind), time, time, pack(labels)),
            )
            number = cursor.lastrowid
            assert number is not None
            owner.leases.hold(self._scope, f"snapshots/{owner.name}", key)
            parents = owner.parents(parent_number)
            failpoint("snapshot.prepare.after_insert")
            if create:
                with disk_errors(f'cannot make snapshot "{key}"'):
                    self._driver.create(number, kind, parents, labels)
                    if mapping is not None and kind == Kind.ACTIVE:
                        os.chown(self._driver.upper(number), *mapping.root)
            failpoint("snapshot.prepare.after_directory")
        failpoint("snapshot.prepare.after_record")
        owner.gc.mutated()
        return number, parents

    def withdraw(self, number: int, key: str) -> None:
        """Take back what `reserve` recorded, when its directory could not be made."""
        with self._db.transaction():
            self._db.execute("DELETE FROM snapshots WHERE number = ?", (number,))
            self._owner.leases.release(self._scope, f"snapshots/{self._owner.name}", key)
        self._owner.discard(number)

    def announce(self, key: str, parent: str) -> None:
        """Publish that an active snapshot was prepared."""
        self._owner.events.publish(
            self._namespace,
            "/snapshot/prepare",
            SnapshotPrepare(key=key, parent=parent, snapshotter=self._owner.name),
        )

    def check_commit(self, name: str, key: str) -> None:
        """Raise what `commit` would raise."""
        if not name:
            raise InvalidArgumentError("snapshot name must not be empty")
        self._refuse_taken("", name)
        if self.row(key)["kind"] != Kind.ACTIVE:
            raise FailedPreconditionError(f'snapshot "{key}" is not active: failed precondition')

    def commit(
        self,
        name: str,
        key: str,
        labels: Mapping[str, str] | None = None,
        usage: Usage | None = None,
    ) -> None:
        """Turn an active snapshot into a committed one; `usage` spares the walk. Raises as the contract says."""
        self.check_commit(name, key)
        labels = label_rules.checked(labels or {})
        owner, type = self._owner, f"snapshots/{self._owner.name}"
        with self._db.transaction():
            row = self.row(key)
            owner.leases.hold(self._scope, type, name)
            owner.leases.release(self._scope, type, key)
            if usage is None:
                usage = self._driver.usage(row["number"])
            time = now()
            self._db.execute(
                "UPDATE snapshots SET key = ?, kind = ?, created = ?, updated = ?, labels = ?, size = ?, "
                "inodes = ? WHERE number = ?",
                (
                    name,
                    int(Kind.COMMITTED),
                    time,
                    time,
                    pack(labels),
                    usage.size,
                    usage.inodes,
                    row["number"],
                ),
            )
            owner.unsynced.note(row["number"])
            failpoint("snapshot.commit.after_update")
        failpoint("snapshot.commit.after_record")
        owner.unsynced.schedule()
        owner.gc.mutated()
        owner.events.publish(
            self._namespace, "/snapshot/commit", SnapshotCommit(key=key, name=name, snapshotter=owner.name)
        )

    def remove(self, key: str) -> None:
        """Remove a snapshot; its directory follows in a worker thread. Raises as the contract says."""
        with self._db.transaction():
            row = self.row(key)
            if self._db.row("SELECT 1 FROM snapshots WHERE parent = ? LIMIT 1", (row["number"],)) is not None:
                raise FailedPreconditionError(f'cannot remove snapshot "{key}" with child: failed precondition')
            self._db.execute("DELETE FROM snapshots WHERE number = ?", (row["number"],))
            self._owner.leases.release(self._scope, f"snapshots/{self._owner.name}", key)
        failpoint("snapshot.remove.after_record")
        self._owner.discard(row["number"])
        self._owner.gc.deleted()
        self._owner.events.publish(
            self._namespace, "/snapshot/remove", SnapshotRemove(key=key, snapshotter=self._owner.name)
        )

    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]:
        """The snapshots that match, by key; raises InvalidArgumentError."""
        matches = filter_language.parse_all(filters)
        rows = self._db.rows(
            _WITH_PARENT + "WHERE s.namespace = ? AND s.snapshotter = ? ORDER BY s.key",
            (self._namespace, self._owner.name),
        )
        return (info for info in map(self._shown, rows) if matches(_adapt(info)))

    def cleanup(self) -> None:
        """Delete what belongs to no snapshot, and wait for it; blocks."""
        for number in self._owner.waste():
            self._owner.discard(number)
        wait(self._owner.deletions())

    def row(self, key: str) -> Row:
        """The record of a snapshot; raises NotFoundError."""
        row = self._db.row(
            _WITH_PARENT + "WHERE s.namespace = ? AND s.snapshotter = ? AND s.key = ?",
            (self._namespace, self._owner.name, key),
        )
        if row is None:
            raise NotFoundError(f"snapshot {key} does not exist: not found")
        return row

    def _shown(self, row: Row, labels: Mapping[str, str] | None = None) -> Info:
        labels = unpack(row["labels"]) if labels is None else labels
        extra = self._driver.labels(row["number"])
        return Info(
            row["key"],
            row["parent_key"] or "",
            Kind(row["kind"]),
            row["created"],
            row["updated"],
            {**labels, **extra} if extra else labels,
        )

    def _refuse_taken(self, target: str, key: str) -> None:
        """Raise AlreadyExistsError for a key, or a target, that is there;

        The lease of the request holds it then.
        """
        for what, name in (("target snapshot", target), ("snapshot", key)):
            if name and self._db.row(
                "SELECT 1 FROM snapshots WHERE namespace = ? AND snapshotter = ? AND key = ?",
                (self._namespace, self._owner.name, name),
            ):
                with self._db.transaction():
                    self._owner.leases.hold(self._scope, f"snapshots/{self._owner.name}", name)
                raise AlreadyExistsError(f'{what} "{name}": already exists')

    def _parent(self, parent: str) -> int:
        try:
            row = self.row(parent)
        except NotFoundError:
            raise NotFoundError(f"parent snapshot {parent} does not exist: not found") from None
        if row["kind"] != Kind.COMMITTED:
            raise FailedPreconditionError(f'parent "{parent}" is not committed snapshot: failed precondition')
        return int(row["number"])


def _adapt(info: Info) -> filter_language.Adaptor:
    return filter_language.adapt(
        {"name": info.name, "parent": info.parent, "kind": info.kind.name.lower()}, {"labels": info.labels}
    )
