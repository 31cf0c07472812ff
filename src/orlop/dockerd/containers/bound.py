# SPDX-License-Identifier: Apache-2.0
"""Host paths that are mounted in a container, and the places where they go."""

import os
import posixpath
from typing import NamedTuple

from orlop.archive.extract import IN_ROOT, Extractor
from orlop.unix import fs, mount


class Bound(NamedTuple):
    """A host path at a path of the container."""

    destination: str
    source: str
    writable: bool
    recursive: bool = True


class NoMountTargetError(Exception):
    """The mount point is missing and may not be made."""


class _Maker(Extractor):
    """Makes directories and an empty file, all somebody's."""

    def __init__(self, root: int, owner: tuple[int, int]) -> None:
        super().__init__(root)
        self._owner = owner

    def inherit(self, path: bytes, fd: int) -> None:
        """A directory was made."""
        super().inherit(path, fd)
        os.fchown(fd, *self._owner)

    def file(self, path: bytes) -> int:
        """Its descriptor."""
        above, _, name = path.rpartition(b"/")
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o644, dir_fd=self.parent(above))
        os.fchown(fd, *self._owner)
        return fd


def open_mount_target(
    root: int, destination: str, *, is_directory: bool, create_for: tuple[int, int] | None
) -> int:
    """A descriptor of the mount point, made where there is none, inside the root whatever links there are.

    `create_for` is whose it shall be then: user and group; None: it may not be made. Raises NoMountTargetError,
    OSError.
    """
    try:
        return fs.openat2(root, destination, os.O_PATH, IN_ROOT)
    except FileNotFoundError:
        if create_for is None:
            raise NoMountTargetError from None
    maker = _Maker(root, create_for)
    try:
        path = posixpath.normpath("/" + destination).strip("/").encode(errors="surrogateescape")
        return os.dup(maker.parent(path)) if is_directory else maker.file(path)
    finally:
        maker.close()


def clone_source(bound: Bound) -> int:
    """A detached copy of what is to be mounted."""
    below = mount.AT_RECURSIVE if bound.recursive else 0
    tree = mount.open_tree(mount.AT_FDCWD, bound.source, mount.OPEN_TREE_CLONE | below)
    try:
        attributes = 0 if bound.writable else mount.MOUNT_ATTR_RDONLY
        flags = mount.AT_EMPTY_PATH | below
        mount.mount_setattr(tree, b"", flags, attr_set=attributes, propagation=mount.MS_PRIVATE)
    except BaseException:
        os.close(tree)
        raise
    return tree
