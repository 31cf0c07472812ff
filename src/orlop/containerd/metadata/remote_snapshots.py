# SPDX-License-Identifier: Apache-2.0
"""Snapshots whose file systems another process keeps: our records, and its names for them.

Its names are unique for ever (they hold the snapshot's number), so what it has and no record knows can be removed.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, NamedTuple

from orlop.containerd.core.snapshots import Kind, Usage
from orlop.containerd.metadata.snapshots import MetadataSnapshots

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Executor

    from orlop.containerd.core.events import EventPublisher
    from orlop.containerd.core.mount import Mount
    from orlop.containerd.core.namespaces import Scope
    from orlop.containerd.metadata.db import Database
    from orlop.containerd.metadata.gc import GarbageCollector
    from orlop.containerd.metadata.leases import MetadataLeases
    from orlop.containerd.metadata.namespaces import MetadataNamespaces

_MIGRATIONS = (
    """
    CREATE TABLE remote_snapshots (
        number INTEGER PRIMARY KEY, snapshotter TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL
    )
    """,
)


class Remains(NamedTuple):
    """What the other process has and no record knows any more."""

    number: int
    namespace: str
    name: str


class _NoDirectories:
    """The driver of a snapshotter that has nothing on our disk: only its name is used."""

    slow_create = True
    maps_ids = False  # the other process has the labels
    root = ""

    def __init__(self, name: str) -> None:
        self.name = name

    def create(self, number: int, kind: Kind, parents: Sequence[int], labels: Mapping[str, str]) -> None:
        """Nothing of it is ours to make."""

    def mounts(self, number: int, kind: Kind, parents: Sequence[int]) -> list[Mount]:
        """Only the other process knows."""
        raise NotImplementedError

    def labels(self, number: int) -> Mapping[str, str]:
        """None: the other process's are kept with ours."""
        return {}

    def upper(self, number: int) -> str:
        """Only the other process knows."""
        raise NotImplementedError

    def usage(self, number: int) -> Usage:
        """Only the other process knows."""
        raise NotImplementedError

    def numbers(self) -> set[int]:
        """Nothing is on our disk."""
        return set()

    def complete(self) -> set[int]:
        """Nothing is on our disk."""
        return set()

    def delete(self, number: int) -> None:
        """Nothing of it is ours to delete."""


class RemoteRecords(MetadataSnapshots):
    """The records. `discarded` is called when something has to be removed at the other process."""

    def __init__(
        self,
        db: Database,
        name: str,
        namespaces: MetadataNamespaces,
        leases: MetadataLeases,
        gc: GarbageCollector,
        events: EventPublisher,
        workers: Executor,
        discarded: Callable[[], Future[None]],
    ) -> None:
        super().__init__(db, _NoDirectories(name), namespaces, leases, gc, events, workers)
        db.migrate("remote_snapshots", _MIGRATIONS)
        self._discarded = discarded
        self._removal: Future[None] | None = None
        self._committing: set[int] = set()

    def settle(self) -> None:
        """The other process may not be there yet: what is left is removed when it is first needed."""
        highest = self.db.row("SELECT max(number) AS number FROM remote_snapshots")
        self.db.skip_numbers("snapshots", highest["number"] or 0 if highest else 0)

    def waste(self) -> set[int]:
        """Nothing is on our disk."""
        return set()

    def discard(self, number: int) -> Future[None]:
        """Have what belongs to no record removed."""
        self._removal = self._discarded()
        return self._removal

    def deletions(self) -> list[Future[None]]:
        """The removal under way."""
        return [self._removal] if self._removal is not None and not self._removal.done() else []

    def begin(
        self, scope: Scope, kind: Kind, key: str, parent: str, labels: Mapping[str, str]
    ) -> tuple[int, str, str]:
        """Record a snapshot that is about to be made: number, and the other process's key and parent for it.

        Raises as `BoundSnapshots.reserve`.
        """
        with self.db.transaction():
            number, parents = self.bind(scope).reserve(kind, key, parent, labels, create=False)
            name = f"{scope.namespace}/{number}/{key}"
            self._note(number, scope.namespace, name)
        return number, name, self._name(parents[0]) if parents else ""

    def adopt(self, scope: Scope, number: int, key: str, target: str, name: str) -> None:
        """What was to be made by unpacking is there by itself, under `name`: it is committed as `target`."""
        with self.db.transaction():
            self._note(number, scope.namespace, name)
            self.bind(scope).commit(target, key, {}, Usage(0, 0))

    def committing(self, scope: Scope, name: str, key: str) -> tuple[int, str, str]:
        """Before a commit: number, the other process's new name, and its key. Raises NotFoundError."""
        number = self.bind(scope).row(key)["number"]
        remote = f"{scope.namespace}/{number}.committed/{name}"
        # Should we die before the other process's answer is recorded, this name belongs to no record.
        self._note(-number, scope.namespace, remote)
        self._committing.add(-number)
        return number, remote, self._name(number)

    def not_committed(self, number: int) -> None:
        """The commit has failed, as far as we know: what may have come of it is removed."""
        self._committing.discard(-number)
        self.discard(-number)

    def commit(
        self, scope: Scope, number: int, name: str, key: str, remote: str, labels: Mapping[str, str], usage: Usage
    ) -> None:
        """The other process has committed. Raises as `BoundSnapshots.commit`."""
        with self.db.transaction():
            self._note(number, scope.namespace, remote)
            self.forget(-number)
            self._committing.discard(-number)
            self.bind(scope).commit(name, key, labels, usage)

    def remote_name(self, scope: Scope, key: str) -> str:
        """The other process's name for a snapshot. Raises NotFoundError."""
        return self._name(self.bind(scope).row(key)["number"])

    def remains(self) -> list[Remains]:
        """What the other process has to remove, children before their parents."""
        rows = self.db.rows(
            "SELECT number, namespace, name FROM remote_snapshots AS r WHERE snapshotter = ? "
            "AND NOT EXISTS (SELECT 1 FROM snapshots WHERE number = r.number) ORDER BY abs(number) DESC",
            (self.name,),
        )
        found = [Remains(row["number"], row["namespace"], row["name"]) for row in rows]
        return [left for left in found if left.number not in self._committing]

    def forget(self, number: int) -> None:
        """The other process has removed it."""
        self.db.execute("DELETE FROM remote_snapshots WHERE number = ?", (number,))

    def _note(self, number: int, namespace: str, name: str) -> None:
        row = (number, self.name, namespace, name)
        self.db.execute("INSERT OR REPLACE INTO remote_snapshots VALUES (?, ?, ?, ?)", row)

    def _name(self, number: int) -> str:
        row = self.db.row("SELECT name FROM remote_snapshots WHERE number = ?", (number,))
        return row["name"] if row is not None else ""
