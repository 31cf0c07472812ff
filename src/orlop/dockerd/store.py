# SPDX-License-Identifier: Apache-2.0
"""dockerd's database: one SQLite file in WAL mode with the user's intent."""

import sqlite3
from pathlib import Path

import msgspec

from orlop.dockerd.containers.model import ContainerRecord, ExecRecord
from orlop.errdefs import ConflictError, InternalError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS containers (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS execs (
    id TEXT PRIMARY KEY,
    container_id TEXT NOT NULL,
    record TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS execs_by_container ON execs (container_id);
"""


def connect(path: Path) -> sqlite3.Connection:
    """A connection in autocommit mode for use by several threads, with the settings every user of the file shares.

    synchronous=NORMAL: a commit survives the death of the daemon at any instant; a power cut may lose the last
    ones but never corrupts the file.
    """
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")
    return connection


class Store:
    """Containers and execs by id. One statement a call, each a commit of its own.

    Calls block for as long as a write to the WAL takes (no fsync), tens of microseconds: they run in the loop.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._db.executescript(_SCHEMA)

    def containers(self) -> list[ContainerRecord]:
        """Every record. Raises InternalError that names a record which cannot be read."""
        found = []
        for id_, text in self._db.execute("SELECT id, record FROM containers"):
            try:
                found.append(msgspec.json.decode(text, type=ContainerRecord))
            except msgspec.DecodeError as error:
                raise InternalError(f"container {id_}: unreadable record: {error}") from None
        return found

    def put(self, record: ContainerRecord) -> None:
        """Insert or replace a container. Raises ConflictError where another one has its name."""
        row = (record.id, record.name, msgspec.json.encode(record).decode())
        try:
            self._db.execute(
                "INSERT INTO containers (id, name, record) VALUES (?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET name = excluded.name, record = excluded.record",
                row,
            )
        except sqlite3.IntegrityError:
            raise ConflictError(f'the container name "/{record.name}" is already in use') from None

    def delete(self, container_id: str) -> None:
        """Forget a container and its execs, in one commit."""
        with self._transaction():
            self._db.execute("DELETE FROM execs WHERE container_id = ?", (container_id,))
            self._db.execute("DELETE FROM containers WHERE id = ?", (container_id,))

    def execs(self) -> list[ExecRecord]:
        """Every exec."""
        rows = self._db.execute("SELECT record FROM execs")
        return [msgspec.json.decode(text, type=ExecRecord) for (text,) in rows]

    def put_exec(self, record: ExecRecord) -> None:
        """Insert or replace an exec."""
        self._db.execute(
            "INSERT OR REPLACE INTO execs (id, container_id, record) VALUES (?, ?, ?)",
            (record.id, record.container_id, msgspec.json.encode(record).decode()),
        )

    def delete_execs(self, ids: list[str]) -> None:
        """Forget execs, in one commit."""
        if ids:
            marks = ",".join("?" * len(ids))
            self._db.execute(f"DELETE FROM execs WHERE id IN ({marks})", ids)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _transaction(self) -> "_Transaction":
        return _Transaction(self._db)


class _Transaction:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *rest: object) -> None:
        self._db.execute("ROLLBACK" if kind else "COMMIT")
