# SPDX-License-Identifier: Apache-2.0
"""Snapshots as overlayfs layers.

    <root>/snapshots/<number>/fs      what is the snapshot's own: the upper directory
    <root>/snapshots/<number>/work    overlayfs's work directory, of active snapshots

A snapshot without a parent is a bind mount of its `fs`, a view of a single layer a read-only bind mount of that
layer: overlayfs needs a lower directory. `index=off`, because an upper directory may be mounted again while a
lazily unmounted overlay still holds it; `userxattr` (Linux 5.11) in a user namespace, where nobody may write
attributes `trusted.`. A snapshot that may only take so much is a project with a quota.
"""

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence

from orlop.containerd.core.mount import Mount
from orlop.containerd.core.snapshots import Kind, Usage, size_limit
from orlop.containerd.failpoints import failpoint
from orlop.containerd.plugins.directories import NumberedDirectories, disk_usage, remove_tree
from orlop.errdefs import NotImplementedByUsError
from orlop.unix import mount, quota
from orlop.unix.process import in_user_namespace

log = logging.getLogger("containerd.snapshots")

UPPER_LABEL = "containerd.io/snapshot/overlay.upperdir"
_FIRST_PROJECT = 2_000_000_000
"""A limited snapshot is the project of this number plus its own: far from those that administrators give."""


class OverlayDriver:
    """Implements `orlop.containerd.core.snapshots.SnapshotDriver`."""

    name = "overlayfs"
    slow_create = False
    maps_ids = True

    def __init__(self, root: str, options: Sequence[str] = (), *, label_upper: bool = False) -> None:
        """`options` are given to every overlay. `label_upper`: snapshots show `UPPER_LABEL`."""
        self._directories = NumberedDirectories(root)
        self.root = root
        self._label_upper = label_upper
        self._options = _mount_options(root, options)

    def create(self, number: int, kind: Kind, parents: Sequence[int], labels: Mapping[str, str]) -> None:
        """Make `fs` and `work`; `fs` belongs to whom the parent's does."""
        staging, final = self._directories.staging(number), self._directories.path(number)
        limit = size_limit(labels)
        if limit and not quota.supported(self.root):
            needed = "ext4 mounted with 'prjquota' or XFS with 'pquota'"
            raise NotImplementedByUsError(f"a snapshot of limited size needs {needed} at {self.root}")
        try:
            os.mkdir(staging, 0o700)
            if limit:
                quota.limit_tree(staging, _FIRST_PROJECT + number, limit)
            upper = f"{staging}/fs"
            os.mkdir(upper, 0o755)
            os.chmod(upper, 0o755)  # whatever the umask
            if kind == Kind.ACTIVE:
                os.mkdir(f"{staging}/work", 0o711)
            if parents:
                owner = os.stat(self.upper(parents[0]))
                if owner.st_uid or owner.st_gid:
                    os.chown(upper, owner.st_uid, owner.st_gid)
            failpoint("snapshot.prepare.after_staging")
            os.rename(staging, final)
        except BaseException:
            self._drop_limit(staging, number)
            remove_tree(staging)
            raise

    def mounts(self, number: int, kind: Kind, parents: Sequence[int]) -> list[Mount]:
        """A bind mount or an overlay."""
        if not parents:
            return [Mount("bind", self.upper(number), ("ro" if kind == Kind.VIEW else "rw", "rbind"))]
        if kind == Kind.VIEW and len(parents) == 1:
            return [Mount("bind", self.upper(parents[0]), ("ro", "rbind"))]
        options = []
        if kind == Kind.ACTIVE:
            options += [f"workdir={self._directories.path(number)}/work", f"upperdir={self.upper(number)}"]
        lower = ":".join(self.upper(parent) for parent in parents)
        return [Mount("overlay", "overlay", (*options, f"lowerdir={lower}", *self._options))]

    def labels(self, number: int) -> Mapping[str, str]:
        """Where the upper directory is, if that is wanted."""
        return {UPPER_LABEL: self.upper(number)} if self._label_upper else {}

    def upper(self, number: int) -> str:
        """The upper directory."""
        return f"{self._directories.path(number)}/fs"

    def usage(self, number: int) -> Usage:
        """What the upper directory takes."""
        return disk_usage(self.upper(number))

    def numbers(self) -> set[int]:
        """All snapshots with something on the disk."""
        return self._directories.numbers()

    def complete(self) -> set[int]:
        """The snapshots whose directory is whole."""
        return self._directories.complete()

    def delete(self, number: int) -> None:
        """Delete a snapshot's directories."""
        for directory in (self._directories.staging(number), self._directories.path(number)):
            self._drop_limit(directory, number)
        self._directories.delete(number)

    def _drop_limit(self, directory: str, number: int) -> None:
        project = _FIRST_PROJECT + number
        if quota.project_of(directory) == project:
            quota.drop_limit(self.root, project)


def _mount_options(root: str, configured: Sequence[str]) -> tuple[str, ...]:
    """The options of overlays: those that are configured, and what is needed besides."""
    names = {option.partition("=")[0] for option in configured}
    options = tuple(configured)
    if "userxattr" not in names and in_user_namespace() and _takes_userxattr(root):
        options += ("userxattr",)
    return options if "index" in names else (*options, "index=off")


def _takes_userxattr(root: str) -> bool:
    """Whether the kernel mounts overlays of directories below `root` with `userxattr`: tried."""
    place = tempfile.mkdtemp(prefix="userxattr-", dir=root)
    try:
        layers = [f"{place}/1", f"{place}/2"]
        for layer in layers:
            os.mkdir(layer)
        try:
            os.close(
                mount.detached_mount("overlay", "overlay", ("ro", f"lowerdir={':'.join(layers)}", "userxattr"))
            )
        except OSError as error:
            log.warning("overlays cannot be mounted with userxattr here: %s", error)
            return False
        return True
    finally:
        remove_tree(place)
