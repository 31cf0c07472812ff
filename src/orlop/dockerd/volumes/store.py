# SPDX-License-Identifier: Apache-2.0
"""The rows of volumes in dockerd's database."""

import json
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence

import msgspec

SCHEMA = """
CREATE TABLE IF NOT EXISTS volumes (
    name TEXT PRIMARY KEY,
    created_at TEXT NOT NULL,
    labels TEXT NOT NULL,
    options TEXT NOT NULL,
    anonymous INTEGER NOT NULL,
    driver TEXT NOT NULL DEFAULT 'local'
) STRICT;
CREATE TABLE IF NOT EXISTS volume_mounts (
    name TEXT NOT NULL,
    container_id TEXT NOT NULL,
    PRIMARY KEY (name, container_id)
) STRICT;
CREATE TABLE IF NOT EXISTS volume_subpaths (
    name TEXT NOT NULL,
    container_id TEXT NOT NULL,
    place TEXT NOT NULL,
    subpath TEXT NOT NULL,
    PRIMARY KEY (place)
) STRICT;
"""


_COLUMNS = "name, created_at, labels, options, anonymous, driver"


class VolumeRow(msgspec.Struct, kw_only=True, frozen=True):
    """What the database knows of a volume."""

    name: str
    created_at: str
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    anonymous: bool = False
    driver: str = "local"


def init_schema(connection: sqlite3.Connection) -> None:
    """Create the tables of volumes where they are missing. To be called once, at the daemon's start."""
    for statement in SCHEMA.split(";"):
        connection.execute(statement)
    columns = {row[1] for row in connection.execute("PRAGMA table_info(volumes)")}
    if "driver" not in columns:  # a database of before there were plugins
        connection.execute("ALTER TABLE volumes ADD COLUMN driver TEXT NOT NULL DEFAULT 'local'")


class VolumeStore:
    """Rows by name. Each call is a transaction of its own; safe to call from several threads."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._lock = threading.Lock()

    def get(self, name: str) -> VolumeRow | None:
        """The row of a volume."""
        rows = self._run(f"SELECT {_COLUMNS} FROM volumes WHERE name = ?", name)
        return _row(rows[0]) if rows else None

    def list(self) -> Sequence[VolumeRow]:
        """All rows by name."""
        rows = self._run(f"SELECT {_COLUMNS} FROM volumes ORDER BY name")
        return [_row(row) for row in rows]

    def insert(self, row: VolumeRow) -> None:
        """Write down a new volume."""
        self._run(
            f"INSERT INTO volumes ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
            row.name,
            row.created_at,
            _text(row.labels),
            _text(row.options),
            int(row.anonymous),
            row.driver,
        )

    def delete(self, name: str) -> None:
        """Forget a volume and who has mounted it."""
        self._run("DELETE FROM volume_subpaths WHERE name = ?", name)
        self._run("DELETE FROM volume_mounts WHERE name = ?", name)
        self._run("DELETE FROM volumes WHERE name = ?", name)

    def hold(self, name: str, container_id: str) -> None:
        """Note that a container has the volume mounted."""
        self._run("INSERT OR IGNORE INTO volume_mounts (name, container_id) VALUES (?, ?)", name, container_id)

    def release(self, name: str, container_id: str) -> None:
        """Note that a container has it mounted no more."""
        self._run("DELETE FROM volume_mounts WHERE name = ? AND container_id = ?", name, container_id)

    def holders(self, name: str) -> Sequence[str]:
        """The containers that have it mounted."""
        return [row[0] for row in self._run("SELECT container_id FROM volume_mounts WHERE name = ?", name)]

    def add_subpath(self, name: str, container_id: str, place: str, subpath: str) -> None:
        """Note that a container wants a part of the volume bound at `place`."""
        self._run(
            "INSERT OR REPLACE INTO volume_subpaths (name, container_id, place, subpath) VALUES (?, ?, ?, ?)",
            name,
            container_id,
            place,
            subpath,
        )

    def subpaths(self, name: str) -> Sequence[tuple[str, str, str]]:
        """Container, place and subpath of each part of the volume."""
        rows = self._run("SELECT container_id, place, subpath FROM volume_subpaths WHERE name = ?", name)
        return [(row[0], row[1], row[2]) for row in rows]

    def delete_subpath(self, place: str) -> None:
        """Forget a part of a volume."""
        self._run("DELETE FROM volume_subpaths WHERE place = ?", place)

    def _run(self, statement: str, *values: object) -> Sequence[tuple[str, ...]]:
        with self._lock:
            connection = self._connect()
            rows: Sequence[tuple[str, ...]] = connection.execute(statement, values).fetchall()
            if connection.in_transaction:
                connection.commit()
            return rows


def _row(values: tuple[str, ...]) -> VolumeRow:
    name, created_at, labels, options, anonymous, driver = values
    return VolumeRow(
        name=name,
        created_at=created_at,
        labels=json.loads(labels),
        options=json.loads(options),
        anonymous=bool(anonymous),
        driver=driver,
    )


def _text(mapping: Mapping[str, str]) -> str:
    return json.dumps(mapping, sort_keys=True)
