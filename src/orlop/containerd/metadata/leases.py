# SPDX-License-Identifier: Apache-2.0
"""Leases in the metadata."""

import base64
import os
import time
from collections.abc import Mapping, Sequence

from orlop.containerd.core import filters as filter_language
from orlop.containerd.core import labels as label_rules
from orlop.containerd.core.leases import Lease, Resource, validate_resource
from orlop.containerd.core.namespaces import Scope
from orlop.containerd.failpoints import failpoint
from orlop.containerd.metadata.db import Database, now, pack, unpack
from orlop.containerd.metadata.namespaces import MetadataNamespaces
from orlop.errdefs import AlreadyExistsError, NotFoundError

_MIGRATIONS = (
    """
    CREATE TABLE leases (
        namespace TEXT NOT NULL, id TEXT NOT NULL, created INTEGER NOT NULL, labels TEXT NOT NULL,
        PRIMARY KEY (namespace, id)
    ) WITHOUT ROWID;
    CREATE TABLE lease_resources (
        namespace TEXT NOT NULL, lease TEXT NOT NULL, type TEXT NOT NULL, id TEXT NOT NULL,
        PRIMARY KEY (namespace, lease, type, id),
        FOREIGN KEY (namespace, lease) REFERENCES leases (namespace, id) ON DELETE CASCADE
    ) WITHOUT ROWID
    """,
)


class MetadataLeases:
    """All leases; `bind` gives the `LeaseManager` of a scope."""

    def __init__(self, db: Database, namespaces: MetadataNamespaces) -> None:
        db.migrate("leases", _MIGRATIONS)
        self._db = db
        self._namespaces = namespaces

    def bind(self, scope: Scope) -> "BoundLeases":
        """The leases of one namespace."""
        return BoundLeases(self._db, self._namespaces, scope)

    def hold(self, scope: Scope, type: str, id: str) -> bool:
        """Add a resource to the lease of the request; False when it has none.

        Raises NotFoundError for the lease.
        """
        if not scope.lease:
            return False
        if self._db.row("SELECT 1 FROM leases WHERE namespace = ? AND id = ?", scope) is None:
            raise NotFoundError(f'lease "{scope.lease}": not found')
        self._db.execute(
            "INSERT OR IGNORE INTO lease_resources VALUES (?, ?, ?, ?)", (scope.namespace, scope.lease, type, id)
        )
        return True

    def release(self, scope: Scope, type: str, id: str) -> None:
        """Take a resource that is gone out of the lease of the request, if it has one."""
        if scope.lease:
            self._db.execute(
                "DELETE FROM lease_resources WHERE namespace = ? AND lease = ? AND type = ? AND id = ?",
                (scope.namespace, scope.lease, type, id),
            )


class BoundLeases:
    """Implements `orlop.containerd.core.leases.LeaseManager`."""

    def __init__(self, db: Database, namespaces: MetadataNamespaces, scope: Scope) -> None:
        self._db = db
        self._namespaces = namespaces
        self._namespace = scope.namespace

    def create(self, id: str, labels: Mapping[str, str]) -> Lease:
        """Add a lease; raises AlreadyExistsError, InvalidArgumentError."""
        labels = label_rules.checked(labels)
        lease = Lease(id or _random_id(), now(), labels)
        with self._db.transaction():
            self._namespaces.ensure(self._namespace)
            if self._exists(lease.id):
                raise AlreadyExistsError(f'lease "{lease.id}": already exists')
            self._db.execute(
                "INSERT INTO leases VALUES (?, ?, ?, ?)", (self._namespace, lease.id, lease.created, pack(labels))
            )
        failpoint("lease.create.after_record")
        return lease

    def delete(self, id: str) -> None:
        """Remove a lease; raises NotFoundError."""
        cursor = self._db.execute("DELETE FROM leases WHERE namespace = ? AND id = ?", (self._namespace, id))
        if cursor.rowcount == 0:
            raise NotFoundError(f'lease "{id}": not found')
        failpoint("lease.delete.after_record")

    def list(self, filters: Sequence[str] = ()) -> list[Lease]:
        """The leases that match, by id; raises InvalidArgumentError."""
        matches = filter_language.parse_all(filters)
        rows = self._db.rows("SELECT * FROM leases WHERE namespace = ? ORDER BY id", (self._namespace,))
        leases = [Lease(row["id"], row["created"], unpack(row["labels"])) for row in rows]
        return [
            lease for lease in leases if matches(filter_language.adapt({"id": lease.id}, {"labels": lease.labels}))
        ]

    def add_resource(self, id: str, resource: Resource) -> None:
        """Hold a resource; raises NotFoundError, InvalidArgumentError, NotImplementedByUsError."""
        with self._db.transaction():
            self._require(id)
            validate_resource(resource)
            self._db.execute(
                "INSERT OR IGNORE INTO lease_resources VALUES (?, ?, ?, ?)",
                (self._namespace, id, resource.type, resource.id),
            )

    def delete_resource(self, id: str, resource: Resource) -> None:
        """Let a resource go; raises NotFoundError, InvalidArgumentError, NotImplementedByUsError."""
        with self._db.transaction():
            self._require(id)
            validate_resource(resource)
            self._db.execute(
                "DELETE FROM lease_resources WHERE namespace = ? AND lease = ? AND type = ? AND id = ?",
                (self._namespace, id, resource.type, resource.id),
            )

    def list_resources(self, id: str) -> Sequence[Resource]:
        """What the lease holds, by type and id; raises NotFoundError."""
        self._require(id)
        rows = self._db.rows(
            "SELECT type, id FROM lease_resources WHERE namespace = ? AND lease = ? ORDER BY type, id",
            (self._namespace, id),
        )
        return [Resource(row["type"], row["id"]) for row in rows]

    def _exists(self, id: str) -> bool:
        return (
            self._db.row("SELECT 1 FROM leases WHERE namespace = ? AND id = ?", (self._namespace, id)) is not None
        )

    def _require(self, id: str) -> None:
        if not self._exists(id):
            raise NotFoundError(f'lease "{id}": not found')


def _random_id() -> str:
    # As containerd's clients make them: unique, and sorted by time for who reads them.
    return f"{time.time_ns()}-{base64.urlsafe_b64encode(os.urandom(3)).decode()}"
