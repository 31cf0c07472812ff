# SPDX-License-Identifier: Apache-2.0
"""Namespaces in the metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from orlop.api.events_pb2 import NamespaceCreate, NamespaceDelete, NamespaceUpdate
from orlop.containerd.core import labels as label_rules
from orlop.containerd.core.namespaces import Namespace, validate_identifier
from orlop.containerd.metadata.db import Database, pack, unpack
from orlop.errdefs import AlreadyExistsError, FailedPreconditionError, InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from orlop.containerd.core.events import EventPublisher

_MIGRATIONS = ("CREATE TABLE namespaces (name TEXT PRIMARY KEY, labels TEXT NOT NULL) WITHOUT ROWID",)


class MetadataNamespaces:
    """Implements `orlop.containerd.core.namespaces.NamespaceStore`."""

    def __init__(self, db: Database, events: EventPublisher) -> None:
        db.migrate("namespaces", _MIGRATIONS)
        self._db = db
        self._events = events
        self._contents: dict[str, str] = {}
        self._known = {row["name"] for row in db.rows("SELECT name FROM namespaces")}

    def register_contents(self, kind: str, sql: str) -> None:
        """Tell what keeps a namespace from being deleted.

        `sql` has one parameter, the namespace, and gives a row for each object (or kind of object) left in it; the
        first column, if it is text, is added to `kind` in the error, as in `snapshots on "overlayfs" snapshotter`.
        """
        self._contents[kind] = sql

    def ensure(self, name: str) -> None:
        """Make the namespace if it is not there, as creating any object in it does."""
        if name not in self._known:
            self._db.execute("INSERT OR IGNORE INTO namespaces VALUES (?, '')", (name,))
            self._known.add(name)

    def get(self, name: str) -> Namespace:
        """A namespace; raises NotFoundError."""
        row = self._db.row("SELECT labels FROM namespaces WHERE name = ?", (name,))
        if row is None:
            raise NotFoundError(f'namespace "{name}": not found')
        return Namespace(name, unpack(row["labels"]))

    def list(self) -> list[Namespace]:
        """All namespaces, by name."""
        rows = self._db.rows("SELECT name, labels FROM namespaces ORDER BY name")
        return [Namespace(row["name"], unpack(row["labels"])) for row in rows]

    def create(self, name: str, labels: Mapping[str, str]) -> Namespace:
        """Add a namespace; raises AlreadyExistsError, InvalidArgumentError."""
        validate_identifier(name, "namespace")
        labels = label_rules.checked(labels)
        with self._db.transaction():
            if self._db.row("SELECT 1 FROM namespaces WHERE name = ?", (name,)):
                raise AlreadyExistsError(f'namespace "{name}": already exists')
            self._db.execute("INSERT INTO namespaces VALUES (?, ?)", (name, pack(labels)))
        self._known.add(name)
        self._events.publish(name, "/namespaces/create", NamespaceCreate(name=name, labels=labels))
        return Namespace(name, labels)

    def update(self, name: str, labels: Mapping[str, str], paths: Sequence[str]) -> Namespace:
        """Set labels, of a namespace that is made if it is not there; raises InvalidArgumentError."""
        validate_identifier(name, "namespace")
        with self._db.transaction():
            self.ensure(name)
            stored = dict(self.get(name).labels)
            if paths:
                for path in paths:
                    key = path.removeprefix("labels.")
                    if key == path:
                        raise InvalidArgumentError(f'cannot update "{path}" field on namespace "{name}"')
                    stored[key] = labels.get(key, "")
            else:
                stored = dict(labels)
            stored = label_rules.checked(stored)
            self._db.execute("UPDATE namespaces SET labels = ? WHERE name = ?", (pack(stored), name))
        self._events.publish(name, "/namespaces/update", NamespaceUpdate(name=name, labels=labels))
        return Namespace(name, stored)

    def delete(self, name: str) -> None:
        """Remove an empty namespace; raises NotFoundError, FailedPreconditionError."""
        with self._db.transaction():
            self.get(name)
            left = []
            for kind, sql in self._contents.items():
                for row in self._db.rows(sql, (name,)):
                    left.append(kind if not isinstance(row[0], str) else f'{kind} on "{row[0]}" snapshotter')
            if left:
                raise FailedPreconditionError(
                    f'namespace "{name}" must be empty, but it still has {", ".join(dict.fromkeys(left))}'
                )
            # What is neither content nor a container dies with its namespace.
            self._db.execute("DELETE FROM namespaces WHERE name = ?", (name,))
        self._known.discard(name)
        self._events.publish(name, "/namespaces/delete", NamespaceDelete(name=name))
