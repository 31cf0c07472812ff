# SPDX-License-Identifier: Apache-2.0
"""The checks of `orlop-containerd check`: each compares a part of the metadata with what is on the disk."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from orlop.api.containers_pb2 import Container
from orlop.containerd.core.snapshots import Kind
from orlop.containerd.metadata.db import Database
from orlop.containerd.metadata.unsynced import boot_id
from orlop.containerd.plugins.runtime.bundle import TASK_DIRECTORY, Bundle, bundle_at
from orlop.containerd.plugins.snapshots_overlay import OverlayDriver
from orlop.containerd.storage import CONTENT_DIRECTORY, SNAPSHOTTER_DIRECTORY
from orlop.errdefs import NotFoundError, OrlopError
from orlop.oci.image import (
    INDEX_TYPES,
    MANIFEST_SIZE_MAX,
    MANIFEST_TYPES,
    Descriptor,
    Index,
    parse_document,
    parse_image,
)

_DEPTH_MAX = 4  # of indexes in indexes
_CONFIGS_WITH_LAYERS = ("application/vnd.oci.image.config.", "application/vnd.docker.container.image.")


class Finding(NamedTuple):
    """Something that is not as it should be. Equal findings of two passes are the same finding."""

    is_fault: bool
    subject: str  # "blob sha256:…"
    text: str

    def __str__(self) -> str:
        return f"{'fault' if self.is_fault else 'leftover'}: {self.subject}: {self.text}"


class Checks:
    """One pass. `suspects`: the subjects that are looked at again; only their bytes are read."""

    def __init__(self, root: str, state: str, db: Database, suspects: set[str] | None) -> None:
        self._root = root
        self._state = state
        self._db = db
        self._suspects = suspects
        self._content = os.path.join(root, CONTENT_DIRECTORY)
        self._sizes = {
            (row["namespace"], row["digest"]): int(row["size"])
            for row in db.rows("SELECT namespace, digest, size FROM blobs")
        }
        self._damaged: set[str] = set()
        self._known: dict[tuple[str, str, str, int], str] = {}
        self.counts: dict[str, int] = {}

    def all(self) -> list[Callable[[], Iterator[Finding]]]:
        """The checks in their order: images believe in the blobs that have been checked."""
        return [
            self._database,
            self._modes,
            self._blobs,
            self._ingests,
            self._images,
            self._snapshots,
            self._containers,
            self._leases,
            self._bundles,
            self._sockets,
        ]

    def _database(self) -> Iterator[Finding]:
        for row in self._db.rows("PRAGMA integrity_check"):
            if row[0] != "ok":
                yield Finding(True, "metadata", str(row[0]))
        for row in self._db.rows("PRAGMA foreign_key_check"):
            yield Finding(True, "metadata", f"a row of {row[0]} refers to a row of {row[2]} that is not there")

    def _modes(self) -> Iterator[Finding]:
        # A user namespace's root passes through `state` on its way to its root file system (see `Bundle`).
        for path, forbidden in ((self._root, 0o077), (self._state, 0o066), (self._content, 0o077)):
            with suppress(FileNotFoundError):
                mode = stat.S_IMODE(os.stat(path).st_mode)
                if mode & forbidden:
                    yield Finding(True, f"directory {path}", f"mode {mode:04o} lets others in")

    # Bytes.

    def _blobs(self) -> Iterator[Finding]:
        files = {f"sha256:{name}" for name in _names(f"{self._content}/blobs/sha256")}
        recorded: dict[str, set[int]] = {}
        for (_, digest), size in self._sizes.items():
            recorded.setdefault(digest, set()).add(size)
        shared = {row["expected"] for row in self._db.rows("SELECT expected FROM ingests WHERE shared")}
        self.counts["blobs"] = len(recorded)
        for digest, sizes in sorted(recorded.items()):
            problem = self._damage(digest, sizes)
            if problem:
                self._damaged.add(digest)
                yield Finding(True, f"blob {digest}", problem)
        for digest in files - recorded.keys() - shared:
            yield Finding(False, f"file {digest}", "a blob without a record")
        for name in _names(f"{self._content}/trash"):
            yield Finding(False, f"file {name}", "discarded content that is not deleted")

    def _damage(self, digest: str, sizes: set[int]) -> str:
        path = f"{self._content}/blobs/sha256/{digest.partition(':')[2]}"
        try:
            file = open(path, "rb")  # noqa: SIM115 - closed below; only the opening may fail
        except FileNotFoundError:
            return "its file is not there"
        with file:
            size = os.fstat(file.fileno()).st_size
            if sizes != {size}:
                return f"has {size} bytes, its record says {', '.join(map(str, sorted(sizes)))}"
            if self._suspects is not None and f"blob {digest}" not in self._suspects:
                return ""
            found = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
            return "" if found == digest else f"its digest is {found}"

    def _ingests(self) -> Iterator[Finding]:
        numbers = {str(row["number"]) for row in self._db.rows("SELECT number FROM ingests")}
        self.counts["ingests"] = len(numbers)
        for name in _names(f"{self._content}/ingest") - numbers:
            yield Finding(False, f"ingest {name}", "a file without a record")

    # Images.

    def _images(self) -> Iterator[Finding]:
        rows = self._db.rows("SELECT namespace, name, media_type, digest, size FROM images")
        self.counts["images"] = len(rows)
        for row in rows:
            target = Descriptor(media_type=row["media_type"], digest=row["digest"], size=row["size"])
            problem = self._missing(row["namespace"], target, 0)
            if problem:
                yield Finding(True, f"image {row['namespace']}/{row['name']}", problem)

    def _missing(self, namespace: str, descriptor: Descriptor, depth: int) -> str:
        """What keeps a target from being whole; empty if nothing does. Each document is looked at once."""
        key = (namespace, descriptor.digest, descriptor.media_type, descriptor.size)
        if key not in self._known:
            self._known[key] = self._lacks(namespace, descriptor, depth)
        return self._known[key]

    def _lacks(self, namespace: str, descriptor: Descriptor, depth: int) -> str:
        problem = self._absent(namespace, descriptor)
        if problem or descriptor.media_type not in INDEX_TYPES | MANIFEST_TYPES:
            return problem
        if depth > _DEPTH_MAX:
            return f"{descriptor.digest} is an index nested deeper than {_DEPTH_MAX} levels"
        try:
            document = parse_document(self._read(descriptor.digest), descriptor.media_type)
            if isinstance(document, Index):
                # Clients fetch the platform that they need: one that is whole is enough.
                problems = [self._missing(namespace, child, depth + 1) for child in document.manifests]
                return problems[0] if problems and all(problems) else ""
            children = [document.config, *document.layers]
            problem = next(filter(None, (self._absent(namespace, child) for child in children)), "")
            if not problem and document.config.media_type.startswith(_CONFIGS_WITH_LAYERS):
                diff_ids = len(parse_image(self._read(document.config.digest)).rootfs.diff_ids)
                if diff_ids != len(document.layers):
                    return f"{descriptor.digest} has {len(document.layers)} layers, its configuration {diff_ids}"
            return problem
        except OrlopError as error:
            return f"{descriptor.digest}: {error}"

    def _absent(self, namespace: str, descriptor: Descriptor) -> str:
        size = self._sizes.get((namespace, descriptor.digest))
        if size is None:
            return f"{descriptor.digest} ({descriptor.media_type}) is not there"
        if descriptor.digest in self._damaged:
            return f"{descriptor.digest} is damaged"
        return "" if size == descriptor.size else f"{descriptor.digest} has {size} bytes, not {descriptor.size}"

    def _read(self, digest: str) -> bytes:
        try:
            with open(f"{self._content}/blobs/sha256/{digest.partition(':')[2]}", "rb") as file:
                return file.read(MANIFEST_SIZE_MAX + 1)
        except FileNotFoundError:  # a daemon has collected it since the blobs were looked at
            raise NotFoundError(f"{digest} is not there") from None

    # Snapshots and containers.

    def _snapshots(self) -> Iterator[Finding]:
        rows = self._db.rows(
            "SELECT s.*, p.kind AS parent_kind, p.namespace AS parent_namespace, "
            "p.snapshotter AS parent_snapshotter FROM snapshots s LEFT JOIN snapshots p ON p.number = s.parent"
        )
        self.counts["snapshots"] = len(rows)
        recorded: dict[str, set[str]] = {}
        torn = self._unsynced_in_another_boot()
        for row in rows:
            number, snapshotter = row["number"], row["snapshotter"]
            recorded.setdefault(snapshotter, set()).add(str(number))
            subject = f"snapshot {row['namespace']}/{snapshotter}/{row['key']}#{number}"
            base = f"{snapshots_of(self._root, snapshotter)}/{number}"
            wanted = [base]
            if snapshotter == OverlayDriver.name:
                wanted = [f"{base}/fs"] + ([f"{base}/work"] if row["kind"] == Kind.ACTIVE else [])
            for path in wanted:
                if not os.path.isdir(path):
                    yield Finding(True, subject, f"its directory {path} is not there")
            if number in torn:
                yield Finding(True, subject, "it was not on the disk when the machine went down")
            if row["parent"] is not None and (
                (row["parent_namespace"], row["parent_snapshotter"]) != (row["namespace"], snapshotter)
                or row["parent_kind"] != Kind.COMMITTED
                or row["parent"] >= number
            ):
                yield Finding(True, subject, f"its parent #{row['parent']} is no committed snapshot before it")
        for name in os.listdir(self._root):
            if name.startswith(SNAPSHOTTER_DIRECTORY.format(name="")):
                snapshotter = name.removeprefix(SNAPSHOTTER_DIRECTORY.format(name=""))
                for number in _names(snapshots_of(self._root, snapshotter)) - recorded.get(snapshotter, set()):
                    yield Finding(False, f"directory {snapshotter}/{number}", "belongs to no snapshot")

    def _unsynced_in_another_boot(self) -> set[int]:
        if self._db.row("SELECT 1 FROM sqlite_master WHERE name = 'unsynced_snapshots'") is None:
            return set()  # the metadata of an older version
        rows = self._db.rows("SELECT number FROM unsynced_snapshots WHERE boot != ?", (boot_id(),))
        return {row["number"] for row in rows}

    def _containers(self) -> Iterator[Finding]:
        rows = self._db.rows("SELECT * FROM containers")
        self.counts["containers"] = len(rows)
        for row in rows:
            subject = f"container {row['namespace']}/{row['id']}"
            record = Container.FromString(row["record"])
            if record.id != row["id"] or record.snapshot_key != row["snapshot_key"]:
                yield Finding(True, subject, "its record is not the one that its row describes")
            key = (row["namespace"], row["snapshotter"], row["snapshot_key"])
            if row["snapshot_key"] and not self._db.row(
                "SELECT 1 FROM snapshots WHERE namespace = ? AND snapshotter = ? AND key = ?", key
            ):
                yield Finding(
                    True, subject, f"its snapshot {row['snapshotter']}/{row['snapshot_key']} is not there"
                )

    def _leases(self) -> Iterator[Finding]:
        # A lease may name what is not there yet, or not any more: it only keeps what is.
        self.counts["leases"] = len(self._db.rows("SELECT 1 FROM leases"))
        query = (
            "SELECT DISTINCT r.namespace, r.lease FROM lease_resources r LEFT JOIN leases l "
            "ON l.namespace = r.namespace AND l.id = r.lease WHERE l.id IS NULL"
        )
        for row in self._db.rows(query):
            yield Finding(True, f"lease {row['namespace']}/{row['lease']}", "holds something and is not there")

    # Tasks.

    def _bundles(self) -> Iterator[Finding]:
        self.counts["tasks"] = 0
        for base, is_state in ((self._state, True), (self._root, False)):
            for namespace in _names(os.path.join(base, TASK_DIRECTORY)):
                for id in _names(os.path.join(base, TASK_DIRECTORY, namespace)):
                    bundle = bundle_at(self._state, self._root, namespace, id)
                    if is_state:
                        self.counts["tasks"] += 1
                        yield from self._bundle(bundle)
                    elif not os.path.isdir(bundle.path):
                        yield Finding(False, f"directory {bundle.work}", "belongs to no task")

    def _bundle(self, bundle: Bundle) -> Iterator[Finding]:
        subject = f"task {bundle.namespace}/{bundle.id}"
        key = (bundle.namespace, bundle.id)
        if self._db.row("SELECT 1 FROM containers WHERE namespace = ? AND id = ?", key) is None:
            yield Finding(False, subject, "belongs to no container")
        try:
            bootstrap = bundle.read_bootstrap()
        except OrlopError as error:
            yield Finding(False, subject, str(error))
            return
        if bootstrap is None or not _is_served(bootstrap.address.removeprefix("unix://")):
            yield Finding(False, subject, "its shim is gone")

    def _sockets(self) -> Iterator[Finding]:
        for name in _names(f"{self._state}/s"):
            if not _is_served(f"{self._state}/s/{name}"):
                yield Finding(False, f"socket {name}", "its shim is gone")


def _names(directory: str) -> set[str]:
    with suppress(FileNotFoundError):
        return set(os.listdir(directory))
    return set()


def snapshots_of(root: str, snapshotter: str) -> str:
    """Where a snapshotter keeps its directories."""
    return os.path.join(root, SNAPSHOTTER_DIRECTORY.format(name=snapshotter), "snapshots")


def _is_served(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True
