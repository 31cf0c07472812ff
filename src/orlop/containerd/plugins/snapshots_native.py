# SPDX-License-Identifier: Apache-2.0
"""Snapshots as full copies, for file systems on which overlayfs does not work.

    <root>/snapshots/<number>    the whole tree

Files are reflinked where the file system can, so that a copy on XFS or Btrfs takes no space.
"""

import os
from collections.abc import Mapping, Sequence

from orlop.containerd.core.mount import Mount
from orlop.containerd.core.snapshots import Kind, Usage, size_limit
from orlop.containerd.failpoints import failpoint
from orlop.containerd.plugins.copytree import copy_tree
from orlop.containerd.plugins.directories import NumberedDirectories, disk_usage, remove_tree
from orlop.errdefs import NotImplementedByUsError


class NativeDriver:
    """Implements `orlop.containerd.core.snapshots.SnapshotDriver`."""

    name = "native"
    slow_create = True
    maps_ids = False

    def __init__(self, root: str) -> None:
        self._directories = NumberedDirectories(root)
        self.root = root

    def create(self, number: int, kind: Kind, parents: Sequence[int], labels: Mapping[str, str]) -> None:
        """Copy the parent; a view of a parent is the parent itself and only needs its number."""
        if size_limit(labels):
            raise NotImplementedByUsError("the snapshotter native cannot limit the size of a snapshot")
        staging = self._directories.staging(number)
        try:
            os.mkdir(staging, 0o755)
            os.chmod(staging, 0o755)  # whatever the umask
            if parents and kind == Kind.ACTIVE:
                copy_tree(self._directories.path(parents[0]), staging)
            failpoint("snapshot.prepare.after_staging")
            os.rename(staging, self._directories.path(number))
        except BaseException:
            remove_tree(staging)
            raise

    def mounts(self, number: int, kind: Kind, parents: Sequence[int]) -> list[Mount]:
        """A bind mount, read-only for a view."""
        if kind == Kind.VIEW:
            return [Mount("bind", self._directories.path(parents[0] if parents else number), ("rbind", "ro"))]
        return [Mount("bind", self._directories.path(number), ("rbind", "rw"))]

    def labels(self, number: int) -> Mapping[str, str]:
        """None."""
        return {}

    def upper(self, number: int) -> str:
        """The copy."""
        return self._directories.path(number)

    def usage(self, number: int) -> Usage:
        """What the whole tree takes."""
        return disk_usage(self._directories.path(number))

    def numbers(self) -> set[int]:
        """All snapshots with something on the disk."""
        return self._directories.numbers()

    def complete(self) -> set[int]:
        """The snapshots whose directory is whole."""
        return self._directories.complete()

    def delete(self, number: int) -> None:
        """Delete a snapshot's directory."""
        self._directories.delete(number)
