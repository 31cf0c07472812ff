# SPDX-License-Identifier: Apache-2.0
"""`orlop-containerd check`: compare what the metadata says with what is on the disk, and mend what can be mended.

A fault is something that the store promises and does not hold: a blob that is not its digest, an image that is not
whole, a container without its snapshot. A leftover is something that nothing refers to; the daemon removes it at
its next start or collection. Only faults make the exit status 1.

The metadata is read from a copy, so a daemon may be running. What it changes meanwhile would look like a fault:
a finding counts only when it is made twice.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from orlop.containerd.checks import Checks, Finding, snapshots_of
from orlop.containerd.metadata.db import Database
from orlop.containerd.metadata.unsynced import standing_on
from orlop.containerd.plugins.directories import remove_tree
from orlop.containerd.storage import CONTENT_DIRECTORY
from orlop.errdefs import FailedPreconditionError, NotFoundError


class Report(NamedTuple):
    """What a check came to; `counts` is what was looked at."""

    findings: list[Finding]
    counts: dict[str, int]

    @property
    def faults(self) -> list[Finding]:
        """The findings that are faults."""
        return [finding for finding in self.findings if finding.is_fault]


def check(root: str, state: str) -> Report:
    """Check the store of a daemon, whether it runs or not. Raises NotFoundError when there is none."""
    first = _pass(root, state, None)
    if not first.findings or not _in_use(root):
        return first
    suspects = {finding.subject for finding in first.findings}
    again = set(_pass(root, state, suspects).findings)
    return Report([finding for finding in first.findings if finding in again], first.counts)


def repair(root: str, report: Report) -> list[str]:
    """Remove damaged blobs, so that they are fetched again, and snapshots that lost their directory.

    Answers what was done. What a container uses stays. Raises FailedPreconditionError while a daemon has the root.
    """
    done = []
    with _locked(root):
        db = Database(os.path.join(root, "metadata.db"))
        try:
            for subject in dict.fromkeys(finding.subject for finding in report.faults):
                kind, _, name = subject.partition(" ")
                if kind == "blob":
                    _drop_blob(root, db, name)
                    done.append(f"removed {subject}")
                elif kind == "snapshot" and (number := name.rpartition("#")[2]).isdigit():
                    done += _drop_snapshots(root, db, int(number))
        finally:
            db.close()
    return done


def _pass(root: str, state: str, suspects: set[str] | None) -> Report:
    with _copy_of_metadata(root) as db:
        checks = Checks(root, state, db, suspects)
        findings = [finding for check in checks.all() for finding in check()]
        return Report(sorted(set(findings), key=lambda finding: (not finding.is_fault, finding)), checks.counts)


def _in_use(root: str) -> bool:
    try:
        with _locked(root):
            return False
    except FailedPreconditionError:
        return True


@contextmanager
def _locked(root: str) -> Iterator[None]:
    fd = os.open(os.path.join(root, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise FailedPreconditionError(f"root {root} is in use by a running containerd") from None
    finally:
        os.close(fd)


@contextmanager
def _copy_of_metadata(root: str) -> Iterator[Database]:
    """The metadata as of now, without disturbing who has it open: the file and the log that goes with it."""
    path = os.path.join(root, "metadata.db")
    with tempfile.TemporaryDirectory(prefix="orlop-check-") as directory:
        copy = os.path.join(directory, "metadata.db")
        try:
            for _ in range(5):  # a checkpoint between the two copies writes the file: then they do not match
                before = os.stat(path).st_mtime_ns
                shutil.copyfile(path, copy)
                with suppress(FileNotFoundError):
                    shutil.copyfile(path + "-wal", copy + "-wal")
                if os.stat(path).st_mtime_ns == before:
                    break
        except FileNotFoundError:
            raise NotFoundError(f"root {root}: there is no metadata.db") from None
        db = Database(copy)
        try:
            yield db
        finally:
            db.close()


def _drop_blob(root: str, db: Database, digest: str) -> None:
    with db.transaction():
        db.execute("DELETE FROM blobs WHERE digest = ?", (digest,))
        db.execute("DELETE FROM lease_resources WHERE type = 'content' AND id = ?", (digest,))
    with suppress(FileNotFoundError):
        os.unlink(os.path.join(root, CONTENT_DIRECTORY, "blobs", "sha256", digest.partition(":")[2]))


def _drop_snapshots(root: str, db: Database, number: int) -> list[str]:
    """Remove a snapshot and all that stands on it, unless a container does."""
    rows = standing_on(db, number)
    for row in rows:
        user = db.row(
            "SELECT id FROM containers WHERE namespace = ? AND snapshotter = ? AND snapshot_key = ?",
            (row["namespace"], row["snapshotter"], row["key"]),
        )
        if user is not None:
            return [f"kept snapshot {row['key']}: container {user['id']} uses it"]
    with db.transaction():
        db.execute_many("DELETE FROM snapshots WHERE number = ?", [(row["number"],) for row in rows])
    for row in rows:
        remove_tree(f"{snapshots_of(root, row['snapshotter'])}/{row['number']}")
    return [f"removed snapshot {row['namespace']}/{row['snapshotter']}/{row['key']}" for row in rows]
