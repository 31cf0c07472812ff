# SPDX-License-Identifier: Apache-2.0
"""The attributes of a member, set on the file that was made of it."""

import errno
import os
import stat
from collections.abc import Iterator

from orlop.archive.tar import Entry

_MAX_TIME = (1 << 63) - 1  # nanoseconds; what is later or before 1970 becomes 1970, as in containerd


def set_attributes(fd: int, target: int | str, entry: Entry, *, own: bool = True) -> None:
    """Give the file open at `fd`, also named `target`, what the member says.

    Owner first, which clears set-id bits and capabilities, then xattrs, mode and times. Not `own`: the owner
    stays, and attributes that the caller may not set are left out.
    """
    if own:
        os.chown(target, entry.uid, entry.gid)
    if entry.xattrs:
        regular_or_directory = stat.S_IFMT(os.fstat(fd).st_mode) in (stat.S_IFREG, stat.S_IFDIR)
        for xattr, value in xattrs_of(entry):
            if own or xattr.startswith(b"user."):
                set_xattr(target, xattr, value, is_link=not regular_or_directory)
    os.chmod(target, entry.mode & 0o7777)
    os.utime(target, ns=times_of(entry))


def xattrs_of(entry: Entry) -> Iterator[tuple[bytes, bytes]]:
    """The extended attributes that are taken from a layer."""
    for name, value in entry.xattrs.items():
        # overlayfs's own marks are no part of a layer: one could redirect a directory to another layer's.
        if not name.startswith((b"trusted.overlay.", b"user.overlay.")):
            yield name, value


def set_xattr(target: int | str | bytes, name: bytes, value: bytes, is_link: bool) -> None:
    """Set one attribute; a path in bytes is not followed. `is_link`: the file can have no user attributes."""
    try:
        os.setxattr(target, name, value, follow_symlinks=not isinstance(target, bytes))
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return  # the file system has none of these; the layer still works there, as in containerd
        if error.errno == errno.EPERM and is_link and name.startswith(b"user."):
            return  # xattr(7): only files and directories have them
        raise


def times_of(entry: Entry) -> tuple[int, int]:
    """Access and modification time, in nanoseconds."""
    modified = entry.mtime if 0 <= entry.mtime <= _MAX_TIME else 0
    accessed = entry.atime if entry.mtime < entry.atime <= _MAX_TIME else modified
    return accessed, modified
