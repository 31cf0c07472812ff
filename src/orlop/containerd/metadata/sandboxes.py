# SPDX-License-Identifier: Apache-2.0
"""The sandbox store, in the metadata database."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from orlop.api.types_pb2 import Sandbox
from orlop.containerd.core import filters, labels
from orlop.containerd.core.namespaces import validate_identifier
from orlop.containerd.failpoints import failpoint
from orlop.containerd.metadata.records import apply_to_maps
from orlop.errdefs import AlreadyExistsError, InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.containerd.metadata.db import Database
    from orlop.containerd.metadata.namespaces import MetadataNamespaces

_CREATE = """
CREATE TABLE sandboxes (
    namespace TEXT NOT NULL,
    id TEXT NOT NULL,
    record BLOB NOT NULL,
    PRIMARY KEY (namespace, id)
) WITHOUT ROWID
"""
_MUTABLE = ("labels", "extensions", "spec", "runtime")


class MetadataSandboxes:
    """Implements `core.sandboxes.SandboxStore`."""

    def __init__(self, db: Database, namespaces: MetadataNamespaces) -> None:
        self._db = db
        self._ensure_namespace = namespaces.ensure
        db.migrate("sandboxes", (_CREATE,))
        namespaces.register_contents("sandboxes", "SELECT 1 FROM sandboxes WHERE namespace = ? LIMIT 1")

    def get(self, namespace: str, id: str) -> Sandbox:
        """As the contract says."""
        row = self._db.row("SELECT record FROM sandboxes WHERE namespace = ? AND id = ?", (namespace, id))
        if row is None:
            raise NotFoundError(f'sandbox "{id}": not found')
        return Sandbox.FromString(row["record"])

    def list(self, namespace: str, filters_: Sequence[str] = ()) -> list[Sandbox]:
        """As the contract says."""
        accept = filters.parse_all(filters_)
        rows = self._db.rows("SELECT record FROM sandboxes WHERE namespace = ? ORDER BY id", (namespace,))
        records = (Sandbox.FromString(row["record"]) for row in rows)
        return [one for one in records if accept(filters.adapt({"id": one.sandbox_id}, {"labels": one.labels}))]

    def create(self, namespace: str, sandbox: Sandbox) -> Sandbox:
        """As the contract says."""
        _validate(sandbox)
        sandbox.created_at.GetCurrentTime()
        sandbox.updated_at.CopyFrom(sandbox.created_at)
        with self._db.transaction():
            self._ensure_namespace(namespace)
            try:
                self._write(namespace, sandbox, "INSERT")
            except sqlite3.IntegrityError:
                raise AlreadyExistsError(f'sandbox "{sandbox.sandbox_id}": already exists') from None
        failpoint("sandbox.create.after_record")
        return sandbox

    def update(self, namespace: str, sandbox: Sandbox, paths: Sequence[str] = ()) -> Sandbox:
        """As the contract says."""
        with self._db.transaction():
            stored = self.get(namespace, sandbox.sandbox_id)
            if not paths and sandbox.runtime.name != stored.runtime.name:
                raise InvalidArgumentError("sandbox.Runtime.Name field is immutable")
            for path in paths or _MUTABLE:
                if apply_to_maps(stored, sandbox, path):
                    continue
                if path not in ("spec", "runtime"):
                    raise InvalidArgumentError(f'cannot update "{path}" field on sandbox "{stored.sandbox_id}"')
                getattr(stored, path).CopyFrom(getattr(sandbox, path))
            _validate(stored)
            stored.updated_at.GetCurrentTime()
            self._write(namespace, stored, "INSERT OR REPLACE")
        return stored

    def delete(self, namespace: str, id: str) -> None:
        """As the contract says."""
        done = self._db.execute("DELETE FROM sandboxes WHERE namespace = ? AND id = ?", (namespace, id))
        if not done.rowcount:
            raise NotFoundError(f'sandbox "{id}": not found')

    def _write(self, namespace: str, sandbox: Sandbox, verb: str) -> None:
        row = (namespace, sandbox.sandbox_id, sandbox.SerializeToString())
        self._db.execute(f"{verb} INTO sandboxes VALUES (?, ?, ?)", row)


def _validate(sandbox: Sandbox) -> None:
    validate_identifier(sandbox.sandbox_id, "sandbox id")
    labels.validate(sandbox.labels)
    if not sandbox.runtime.name:
        raise InvalidArgumentError("sandbox.runtime.name must be set")
