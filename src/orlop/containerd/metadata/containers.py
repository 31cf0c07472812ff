# SPDX-License-Identifier: Apache-2.0
"""The container store, in the metadata database."""

from __future__ import annotations

import builtins
import sqlite3
from typing import TYPE_CHECKING

from orlop.api.containers_pb2 import Container
from orlop.containerd.core import filters, labels
from orlop.containerd.core.namespaces import validate_identifier
from orlop.containerd.failpoints import failpoint
from orlop.containerd.metadata.db import pack, unpack
from orlop.containerd.metadata.gc import Holder
from orlop.containerd.metadata.records import apply_to_maps
from orlop.errdefs import AlreadyExistsError, InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orlop.containerd.metadata.db import Database
    from orlop.containerd.metadata.gc import GarbageCollector
    from orlop.containerd.metadata.namespaces import MetadataNamespaces

# The record is the API's message; the columns beside it are what the collector asks for.
_CREATE = """
CREATE TABLE containers (
    namespace TEXT NOT NULL,
    id TEXT NOT NULL,
    snapshotter TEXT NOT NULL,
    snapshot_key TEXT NOT NULL,
    image TEXT NOT NULL,
    gc_labels TEXT NOT NULL,
    record BLOB NOT NULL,
    PRIMARY KEY (namespace, id)
) WITHOUT ROWID
"""

_GC_PREFIX = "containerd.io/gc."
_MUTABLE = ("labels", "spec", "extensions", "image", "snapshotkey")


class MetadataContainers:
    """Implements `core.containers.ContainerStore`."""

    def __init__(self, db: Database, namespaces: MetadataNamespaces, gc: GarbageCollector) -> None:
        self._db = db
        self._ensure_namespace = namespaces.ensure
        self._removed = gc.deleted
        db.migrate("containers", (_CREATE,))
        namespaces.register_contents("containers", "SELECT 1 FROM containers WHERE namespace = ? LIMIT 1")
        gc.add_holders(self.holders)

    def holders(self) -> Iterator[Holder]:
        """Every container, as a root of the garbage collector."""
        for row in self._db.rows(
            "SELECT namespace, id, snapshotter, snapshot_key, image, gc_labels FROM containers"
        ):
            yield Holder(
                row["namespace"],
                row["id"],
                row["snapshotter"],
                row["snapshot_key"],
                row["image"],
                unpack(row["gc_labels"]),
            )

    def get(self, namespace: str, id: str) -> Container:
        """As the contract says."""
        row = self._db.row("SELECT record FROM containers WHERE namespace = ? AND id = ?", (namespace, id))
        if row is None:
            raise NotFoundError(f'container "{id}" in namespace "{namespace}": not found')
        return Container.FromString(row["record"])

    def list(self, namespace: str, filters_: Sequence[str] = ()) -> list[Container]:
        """As the contract says."""
        return [Container.FromString(record) for record in self.encoded(namespace, filters_)]

    def encoded(self, namespace: str, filters_: Sequence[str] = ()) -> builtins.list[bytes]:
        """As the contract says."""
        accept = filters.parse_all(filters_)
        rows = self._db.rows("SELECT record FROM containers WHERE namespace = ? ORDER BY id", (namespace,))
        records = [row["record"] for row in rows]
        if not filters_:
            return records
        return [record for record in records if accept(_adaptor(Container.FromString(record)))]

    def create(self, namespace: str, container: Container) -> Container:
        """As the contract says."""
        _validate(container)
        container.created_at.GetCurrentTime()
        container.updated_at.CopyFrom(container.created_at)
        with self._db.transaction():
            self._ensure_namespace(namespace)
            try:
                self._db.execute("INSERT INTO containers VALUES (?, ?, ?, ?, ?, ?, ?)", _row(namespace, container))
            except sqlite3.IntegrityError:
                raise AlreadyExistsError(f'container "{container.id}": already exists') from None
            failpoint("container.create.after_insert")
        failpoint("container.create.after_record")
        return container

    def update(self, namespace: str, container: Container, paths: Sequence[str] = ()) -> Container:
        """As the contract says."""
        if not container.id:
            raise InvalidArgumentError("container.id must not be empty")
        with self._db.transaction():
            stored = self.get(namespace, container.id)
            if not paths:
                _check_immutable(stored, container)
            for path in paths or _MUTABLE:
                _apply(stored, container, path)
            _validate(stored)
            stored.updated_at.GetCurrentTime()
            self._db.execute(
                "INSERT OR REPLACE INTO containers VALUES (?, ?, ?, ?, ?, ?, ?)", _row(namespace, stored)
            )
        self._removed()
        return stored

    def delete(self, namespace: str, id: str) -> None:
        """As the contract says."""
        done = self._db.execute("DELETE FROM containers WHERE namespace = ? AND id = ?", (namespace, id))
        if not done.rowcount:
            raise NotFoundError(f'container "{id}" in namespace "{namespace}": not found')
        failpoint("container.delete.after_record")
        self._removed()


def _row(namespace: str, container: Container) -> tuple[str, str, str, str, str, str, bytes]:
    references = {key: value for key, value in container.labels.items() if key.startswith(_GC_PREFIX)}
    return (
        namespace,
        container.id,
        container.snapshotter,
        container.snapshot_key,
        container.image,
        pack(references),
        container.SerializeToString(),
    )


def _validate(container: Container) -> None:
    validate_identifier(container.id, "container.id")
    labels.validate(container.labels)
    for key in container.extensions:
        if not key:
            raise InvalidArgumentError("container.extensions keys must not be zero-length")
    if not container.runtime.name:
        raise InvalidArgumentError("container.runtime.name must be set")
    if not container.HasField("spec"):
        raise InvalidArgumentError("container.spec must be set")
    if container.snapshot_key and not container.snapshotter:
        raise InvalidArgumentError("container.snapshotter must be set if container.snapshot_key is set")


def _check_immutable(stored: Container, wanted: Container) -> None:
    if stored.snapshotter != wanted.snapshotter:
        raise InvalidArgumentError("container.snapshotter field is immutable")
    if stored.runtime.name != wanted.runtime.name:
        raise InvalidArgumentError("container.runtime.name field is immutable")


def _apply(stored: Container, wanted: Container, path: str) -> None:
    """Copy one field of the field mask."""
    if apply_to_maps(stored, wanted, path):
        return
    if path == "spec":
        stored.spec.CopyFrom(wanted.spec)
    elif path == "image":
        stored.image = wanted.image
    elif path in ("snapshotkey", "snapshot_key"):
        stored.snapshot_key = wanted.snapshot_key
    else:
        raise InvalidArgumentError(f'cannot update "{path}" field on "{stored.id}"')


def _adaptor(record: Container) -> filters.Adaptor:
    fields: dict[str, str | None] = {
        "id": record.id,
        "runtime.name": record.runtime.name,
        "image": record.image or None,
        "snapshotter": record.snapshotter or None,
    }
    return filters.adapt(fields, {"labels": record.labels})
