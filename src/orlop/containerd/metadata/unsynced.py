# SPDX-License-Identifier: Apache-2.0
"""Committed snapshots whose files may not be on the disk yet.

Others build on a committed snapshot, and its record may reach the disk before its files do. So a commit also notes
in which boot of the machine it was made, and the note goes when the file system has been synced: in a worker
thread, once for the layers of an image, so that no client waits. A note of another boot means that the machine
went down in between: such a snapshot is not trusted any more.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

from orlop.containerd.client.leases import HALF_MADE
from orlop.containerd.core.snapshots import Kind
from orlop.unix import fs

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from orlop.containerd.metadata.db import Database, Row

_log = logging.getLogger("containerd.snapshots")
_DELAY = 2.0  # seconds after the last commit: an image has several layers

MIGRATIONS = (
    """
    CREATE TABLE unsynced_snapshots (
        number INTEGER PRIMARY KEY REFERENCES snapshots (number) ON DELETE CASCADE, boot TEXT NOT NULL
    )
    """,
)


class UnsyncedSnapshots:
    """Those of one snapshotter, whose directories are below `root` (empty: they are not ours to sync)."""

    def __init__(self, db: Database, name: str, root: str, workers: Executor) -> None:
        db.migrate("unsynced_snapshots", MIGRATIONS)
        self._db = db
        self._name = name
        self._root = root
        self._workers = workers
        self._boot = boot_id()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def note(self, number: int) -> None:
        """A snapshot is being committed: call it in the transaction that records it."""
        if self._root:
            self._db.execute("INSERT OR REPLACE INTO unsynced_snapshots VALUES (?, ?)", (number, self._boot))

    def schedule(self) -> None:
        """Sync when no more commits come. Without a running loop: at the next start."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self._timer = loop.call_later(_DELAY, self._begin)

    def drop_torn(self) -> None:
        """Drop what a power cut has caught before it was on the disk, and what stands on it.

        A client unpacks it again. What a container uses stays, and `orlop-containerd check` tells of it.
        """
        for torn in [number for number, boot in self._noted() if boot != self._boot]:
            rows = standing_on(self._db, torn)
            if any(row["kind"] != Kind.COMMITTED and not row["key"].startswith(HALF_MADE) for row in rows):
                _log.error("snapshot %s/%d is used and may not be whole: the machine went down", self._name, torn)
                continue
            with self._db.transaction():
                self._db.execute_many("DELETE FROM snapshots WHERE number = ?", [(row["number"],) for row in rows])
            for row in rows:
                _log.warning("snapshot %s is dropped: the machine went down before it was synced", row["key"])

    def close(self) -> None:
        """Sync what is noted; blocks on the disk."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        numbers = self._mine()
        if numbers and self._sync():
            self._forget(numbers)

    def _begin(self) -> None:
        self._timer = None
        numbers = self._mine()
        if numbers:
            done = asyncio.wrap_future(self._workers.submit(self._sync))
            done.add_done_callback(lambda future: self._synced(future, numbers))

    def _synced(self, future: asyncio.Future[bool], numbers: list[int]) -> None:
        if not self._closed and not future.cancelled() and future.result():
            self._forget(numbers)

    def _sync(self) -> bool:
        try:
            fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fs.syncfs(fd)
            finally:
                os.close(fd)
        except OSError as error:
            _log.error("snapshots of %s are not synced: %s", self._name, error)
            return False
        return True

    def _forget(self, numbers: list[int]) -> None:
        with self._db.transaction():
            self._db.execute_many("DELETE FROM unsynced_snapshots WHERE number = ?", [(one,) for one in numbers])

    def _mine(self) -> list[int]:
        return [number for number, boot in self._noted() if boot == self._boot]

    def _noted(self) -> list[tuple[int, str]]:
        rows = self._db.rows(
            "SELECT number, boot FROM unsynced_snapshots JOIN snapshots USING (number) WHERE snapshotter = ?",
            (self._name,),
        )
        return [(row["number"], row["boot"]) for row in rows]


def standing_on(db: Database, number: int) -> list[Row]:
    """The records of a snapshot and of all that has it below, children before their parents."""
    return db.rows(
        "WITH RECURSIVE tree (number) AS (SELECT ? UNION SELECT s.number FROM snapshots s JOIN tree "
        "ON s.parent = tree.number) SELECT s.* FROM snapshots s JOIN tree USING (number) ORDER BY number DESC",
        (number,),
    )


def boot_id() -> str:
    """What names the time from the machine's start to its end (proc(5), random/boot_id)."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
