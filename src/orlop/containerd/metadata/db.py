# SPDX-License-Identifier: Apache-2.0
"""The metadata database: one SQLite file, one connection, short transactions.

Threads. The connection belongs to the thread that opened it, which is the one of the event loop. Every metadata
call is synchronous and short (tens of microseconds), so there is neither a lock nor a writer thread: what runs
between two `await`s is atomic against everybody else. Work on files that may block goes to worker threads, which
never touch the database.

Durability. WAL with synchronous=NORMAL: a commit is a write to the log and costs no fsync, so none when a
container is created. SQLite syncs the log and the file only at a checkpoint (each 1000 pages of log, about 4 MiB).
When the process dies nothing is lost; when the machine loses its power, the last commits may be, never the
consistency. Files that a commit speaks of are reconciled with it at the next start.

Schema. Each module owns its tables and gives the list of its migrations, which only grows:

    db.migrate("containers", (CREATE_CONTAINERS, ADD_SANDBOX_COLUMN))
"""

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence

from orlop.errdefs import FailedPreconditionError, InternalError, ResourceExhaustedError

Row = sqlite3.Row
Value = str | int | float | bytes | None


class Database:
    """One open metadata file. Close it with `close`."""

    def __init__(self, path: str) -> None:
        """Open or create the file at `path`, mode 0600.

        Raises FailedPreconditionError when another process holds it, InternalError when it is no database.
        """
        self._depth = 0
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._connection = sqlite3.connect(path, timeout=0, isolation_level=None, cached_statements=256)
        self._connection.row_factory = sqlite3.Row
        try:
            # Exclusive: one daemon a root. It also keeps the index of the log in memory instead of a mapped file.
            self._connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute("PRAGMA foreign_keys=ON")
            self._connection.execute("PRAGMA temp_store=MEMORY")
            with self.transaction():
                self._connection.execute(
                    "CREATE TABLE IF NOT EXISTS schema_versions (owner TEXT PRIMARY KEY, version INTEGER NOT NULL)"
                )
        except sqlite3.OperationalError as error:
            self._connection.close()
            raise FailedPreconditionError(f"metadata {path} cannot be opened: {error}") from None
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise InternalError(f"metadata {path} is damaged: {error}") from None

    def close(self) -> None:
        """Write the log back into the file and close it."""
        self._connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside the `with` happens or, when it raises, nothing of it. Nested ones join the outer one.

        No `await` may stand inside. Raises ResourceExhaustedError when the disk is full.
        """
        if self._depth:
            yield
            return
        self._connection.execute("BEGIN IMMEDIATE")
        self._depth = 1
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
                raise ResourceExhaustedError(f"metadata cannot be written: {error}") from None
            raise
        finally:
            self._depth = 0

    def execute(self, sql: str, parameters: Sequence[Value] = ()) -> sqlite3.Cursor:
        """Run one statement, inside the open transaction or in one of its own."""
        return self._connection.execute(sql, parameters)

    def execute_many(self, sql: str, rows: Sequence[Sequence[Value]]) -> None:
        """Run one statement for each row of parameters."""
        self._connection.executemany(sql, rows)

    def row(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        """The first row, or None."""
        row: Row | None = self._connection.execute(sql, parameters).fetchone()
        return row

    def rows(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        """All rows."""
        return self._connection.execute(sql, parameters).fetchall()

    def skip_numbers(self, table: str, used: int) -> None:
        """Give no row of an AUTOINCREMENT table a number up to `used`:

        Files of those numbers may still be there.
        """
        with self.transaction():
            changed = self.execute("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?", (used, table))
            if changed.rowcount == 0:
                self.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, used))

    def migrate(self, owner: str, migrations: Sequence[str]) -> None:
        """Bring the tables of `owner` to the newest version: run those SQL scripts that have not run yet.

        Raises FailedPreconditionError when the file was written by a newer version.
        """
        row = self.row("SELECT version FROM schema_versions WHERE owner = ?", (owner,))
        version = int(row["version"]) if row else 0
        if version > len(migrations):
            raise FailedPreconditionError(
                f"metadata of {owner} has version {version}, newer than the {len(migrations)} that is known"
            )
        for number, script in enumerate(migrations[version:], version + 1):
            with self.transaction():
                for statement in filter(None, map(str.strip, script.split(";"))):
                    self.execute(statement)
                self.execute("INSERT OR REPLACE INTO schema_versions VALUES (?, ?)", (owner, number))


def now() -> int:
    """The time as it is stored: nanoseconds since the epoch, UTC."""
    return time.time_ns()


def pack(labels: Mapping[str, str]) -> str:
    """Labels or annotations as the text that is stored; what has an empty value is left out."""
    existing = {key: value for key, value in labels.items() if value}
    return json.dumps(existing, separators=(",", ":"), ensure_ascii=False) if existing else ""


def unpack(text: str) -> dict[str, str]:
    """Labels or annotations from the text that is stored."""
    return json.loads(text) if text else {}
