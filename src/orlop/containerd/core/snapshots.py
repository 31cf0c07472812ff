# SPDX-License-Identifier: Apache-2.0
"""Contracts of snapshots: the namespaced snapshotter, and the driver that keeps its directories."""

import enum
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from orlop.containerd.core.mount import Mount
from orlop.errdefs import InvalidArgumentError

SIZE_LABEL = "io.orlop.snapshot.size"
"""At its making: how many bytes a snapshot may take by itself, where the file system keeps quotas of projects."""


class Kind(enum.IntEnum):
    """What a snapshot is; the numbers are those of the API and of the metadata."""

    VIEW = 1
    ACTIVE = 2
    COMMITTED = 3


class Info(NamedTuple):
    """A snapshot. Times are nanoseconds since the epoch."""

    name: str
    parent: str
    kind: Kind
    created: int
    updated: int
    labels: Mapping[str, str]


class Usage(NamedTuple):
    """What a snapshot takes by itself, without its parents: bytes on disk and inodes."""

    size: int
    inodes: int


def size_limit(labels: Mapping[str, str]) -> int:
    """What `SIZE_LABEL` says, in bytes; 0 for no limit. Raises InvalidArgumentError."""
    text = labels.get(SIZE_LABEL, "0")
    if not text.isascii() or not text.isdecimal():
        raise InvalidArgumentError(f"label {SIZE_LABEL}: expected a number of bytes, got {text!r}")
    return int(text)


class Snapshotter(Protocol):
    """The snapshots of one scope in one snapshotter.

    Vocabulary: a snapshot is a file system tree that is a change to its *parent*, or to nothing. An *active* one
    is writable and has a *key*; `commit` turns it into a *committed* one, which has a *name*, never changes and
    can be a parent. A *view* is a read-only active one, which cannot be committed. Keys and names share one space.

        mounts = snapshotter.prepare("layer-1", parent="")     # unpack a layer onto the mounts …
        snapshotter.commit("sha256:…", "layer-1")              # … the key is gone, the name exists
        mounts = snapshotter.prepare("container-1", "sha256:…")
        snapshotter.remove("container-1")

    Who calls mounts them: a snapshotter mounts nothing. A snapshot with children cannot be removed. Removal is
    immediate in the metadata; the directory is deleted afterwards, and at the latest by `cleanup` or at the next
    start. Labels `containerd.io/gc.root` and `containerd.io/gc.ref.snapshot.<snapshotter>` are the collector's.

    All methods run in the thread of the event loop; `usage` of an active snapshot and `commit` walk the tree
    unless they are given what `measure` found in a worker thread.
    """

    def stat(self, key: str) -> Info:
        """Raises NotFoundError."""
        ...

    def update(self, name: str, labels: Mapping[str, str], paths: Sequence[str]) -> Info:
        """Change labels as the field mask `paths` says. Raises NotFoundError, InvalidArgumentError."""
        ...

    def usage(self, key: str) -> Usage:
        """Raises NotFoundError."""
        ...

    def mounts(self, key: str) -> list[Mount]:
        """The mounts of an active snapshot or a view. Raises NotFoundError, FailedPreconditionError."""
        ...

    def prepare(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        """Create an active snapshot. Raises AlreadyExistsError, NotFoundError for the parent,
        FailedPreconditionError when the parent is not committed."""
        ...

    def view(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        """Create a view. Raises as `prepare` does."""
        ...

    def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None) -> None:
        """Turn the active snapshot `key` into the committed one `name`; labels of the key do not carry over.

        Raises AlreadyExistsError for the name, NotFoundError for the key, FailedPreconditionError for a view or a
        committed snapshot.
        """
        ...

    def remove(self, key: str) -> None:
        """Raises NotFoundError, or FailedPreconditionError when it has children."""
        ...

    def walk(self, filters: Sequence[str] = ()) -> Iterator[Info]:
        """The snapshots that match, by key. Raises InvalidArgumentError for a malformed filter."""
        ...

    def cleanup(self) -> None:
        """Delete the directories that belong to no snapshot; returns when they are deleted."""
        ...


class SnapshotDriver(Protocol):
    """How one kind of snapshotter lays out its directories.

    It knows neither names nor namespaces: a snapshot is a number that is never used again, and its parents are
    numbers, nearest first. Creating runs inside a transaction of the metadata, before the record is there for
    others, so it is to be quick; a directory without a record is waste, and deleted.
    """

    @property
    def name(self) -> str:
        """The name in the API: `overlayfs`, `native`."""
        ...

    @property
    def root(self) -> str:
        """The directory that the driver owns."""
        ...

    @property
    def slow_create(self) -> bool:
        """Whether `create` copies data, and so must not run in the event loop."""
        ...

    @property
    def maps_ids(self) -> bool:
        """Whether mounts of it can show the ids of a user namespace, as labels of snapshots ask for."""
        ...

    def create(self, number: int, kind: Kind, parents: Sequence[int], labels: Mapping[str, str]) -> None:
        """Make the directories; leaves nothing behind when it raises.

        Raises InvalidArgumentError, NotImplementedByUsError for a label (`SIZE_LABEL`) that it cannot honour.
        """
        ...

    def mounts(self, number: int, kind: Kind, parents: Sequence[int]) -> list[Mount]:
        """What to mount. Touches no file."""
        ...

    def labels(self, number: int) -> Mapping[str, str]:
        """Labels that are shown with a snapshot's own, and not kept."""
        ...

    def upper(self, number: int) -> str:
        """The directory that holds what is the snapshot's own."""
        ...

    def usage(self, number: int) -> Usage:
        """Walk the tree; may take long."""
        ...

    def numbers(self) -> set[int]:
        """The snapshots that have something on the disk, also half-made."""
        ...

    def complete(self) -> set[int]:
        """The snapshots whose directories are whole."""
        ...

    def delete(self, number: int) -> None:
        """Delete the directories; it is no error when they are gone. May take long."""
        ...
