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


def open_mount_target(root: int, destination: str, *, is_directory: bool, may_create: bool) -> int:
    """A descriptor of the mount point, made where there is none, inside the root whatever links there are.

    Raises NoMountTargetError, OSError.
    """
    try:
        return fs.openat2(root, destination, os.O_PATH, IN_ROOT)
    except FileNotFoundError:
        if not may_create:
            raise NoMountTargetError from None
    maker = Extractor(root)
    try:
        path = posixpath.normpath("/" + destination).strip("/").encode(errors="surrogateescape")
        above, _, name = path.rpartition(b"/")
        if is_directory:
            return os.dup(maker.parent(path))
        return os.open(
            name,
            os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC,
            0o644,
            dir_fd=maker.parent(above),
        )
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
