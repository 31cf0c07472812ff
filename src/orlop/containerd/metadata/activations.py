# SPDX-License-Identifier: Apache-2.0
"""The records of activated mounts. One without `record` is being made, or was when a daemon died."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, NamedTuple

from orlop.api.types_pb2 import ActivationInfo
from orlop.containerd.core import filters, labels
from orlop.errdefs import AlreadyExistsError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.containerd.core.namespaces import Scope
    from orlop.containerd.metadata.db import Database
    from orlop.containerd.metadata.namespaces import MetadataNamespaces

_CREATE = """
CREATE TABLE activations (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    lease TEXT NOT NULL,
    record BLOB,
    UNIQUE (namespace, name)
)
"""


class Entry(NamedTuple):
    """An activation: `number` names its directory."""

    number: int
    namespace: str
    name: str


class MetadataActivations:
    """The table of activations."""

    def __init__(self, db: Database, namespaces: MetadataNamespaces) -> None:
        self._db = db
        self._ensure_namespace = namespaces.ensure
        db.migrate("activations", (_CREATE,))
        namespaces.register_contents("mounts", "SELECT 1 FROM activations WHERE namespace = ? LIMIT 1")

    def begin(self, scope: Scope, name: str) -> int:
        """Take a name: the number of the activation. Raises AlreadyExistsError, NotFoundError for the lease."""
        with self._db.transaction():
            self._ensure_namespace(scope.namespace)
            lease = (scope.namespace, scope.lease)
            if scope.lease and self._db.row("SELECT 1 FROM leases WHERE namespace = ? AND id = ?", lease) is None:
                raise NotFoundError(f'lease "{scope.lease}": not found')
            try:
                done = self._db.execute(
                    "INSERT INTO activations (namespace, name, lease) VALUES (?, ?, ?)",
                    (scope.namespace, name, scope.lease),
                )
            except sqlite3.IntegrityError:
                raise AlreadyExistsError(f'mount "{name}": already exists') from None
        assert done.lastrowid is not None
        return done.lastrowid

    def complete(self, number: int, info: ActivationInfo) -> None:
        """All of it is mounted."""
        self._db.execute("UPDATE activations SET record = ? WHERE number = ?", (info.SerializeToString(), number))

    def remove(self, number: int) -> None:
        """Nothing of it is mounted any more."""
        self._db.execute("DELETE FROM activations WHERE number = ?", (number,))

    def find(self, namespace: str, name: str) -> Entry:
        """The activation of that name, complete or not. Raises NotFoundError."""
        row = self._db.row("SELECT number FROM activations WHERE namespace = ? AND name = ?", (namespace, name))
        if row is None:
            raise NotFoundError(f'mount "{name}": not found')
        return Entry(row["number"], namespace, name)

    def get(self, namespace: str, name: str) -> ActivationInfo:
        """Raises NotFoundError."""
        sql = "SELECT record FROM activations WHERE namespace = ? AND name = ? AND record IS NOT NULL"
        row = self._db.row(sql, (namespace, name))
        if row is None:
            raise NotFoundError(f'mount "{name}": not found')
        return ActivationInfo.FromString(row["record"])

    def update(self, namespace: str, info: ActivationInfo, paths: Sequence[str]) -> ActivationInfo:
        """Set labels. Raises NotFoundError, InvalidArgumentError."""
        with self._db.transaction():
            stored = self.get(namespace, info.name)
            wanted = labels.update(f'mount "{info.name}"', dict(stored.labels), dict(info.labels), paths)
            stored.labels.clear()
            stored.labels.update(wanted)
            self.complete(self.find(namespace, info.name).number, stored)
        return stored

    def list(self, namespace: str, filters_: Sequence[str]) -> list[ActivationInfo]:
        """Those that match. Raises InvalidArgumentError."""
        accept = filters.parse_all(filters_)
        sql = "SELECT record FROM activations WHERE namespace = ? AND record IS NOT NULL ORDER BY name"
        found = [ActivationInfo.FromString(row["record"]) for row in self._db.rows(sql, (namespace,))]
        return [info for info in found if accept(filters.adapt({"name": info.name}, {"labels": info.labels}))]

    def all(self) -> dict[int, ActivationInfo | None]:
        """Every activation by number; None for one that is not complete."""
        rows = self._db.rows("SELECT number, record FROM activations")
        return {row["number"]: ActivationInfo.FromString(row["record"]) if row["record"] else None for row in rows}

    def abandoned(self) -> Sequence[Entry]:
        """Those whose lease has ended."""
        sql = """SELECT number, namespace, name FROM activations AS a WHERE lease != '' AND NOT EXISTS
            (SELECT 1 FROM leases WHERE leases.namespace = a.namespace AND leases.id = a.lease)"""
        return [Entry(row["number"], row["namespace"], row["name"]) for row in self._db.rows(sql)]
