# SPDX-License-Identifier: Apache-2.0
"""Copies a directory tree with everything that belongs to it, through descriptors."""

import errno
import os
import stat
from collections.abc import Callable, Sequence

from orlop.errdefs import InvalidArgumentError
from orlop.unix import fs

Owner = tuple[int, int]
"""User and group."""
Shift = Callable[[int, int], Owner]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_INSIDE = fs.RESOLVE_BENEATH | fs.RESOLVE_NO_SYMLINKS
_CHUNK = 16 << 20
_NOT_COPIED = ("trusted.overlay.", "user.overlay.")


def open_source(root: int, path: str) -> int | None:
    """The directory at `path` in a container's root filesystem; None where there is none.

    Symbolic links count as seen from inside. Raises InvalidArgumentError where a file is in its place.
    """
    try:
        return fs.openat2(root, path, os.O_RDONLY | os.O_DIRECTORY, fs.RESOLVE_IN_ROOT | fs.RESOLVE_NO_MAGICLINKS)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise InvalidArgumentError(f"cannot mount volume over existing file, file exists {path}") from None


def as_they_are(uid: int, gid: int) -> Owner:
    """Ids that are the same on both sides."""
    return uid, gid


def copy_tree(source: int, target: int, outside: Shift = as_they_are) -> None:
    """Copy what is below the directory descriptor `source` into `target`, which is empty, and its own attributes.

    Owners, modes, times, extended attributes, hard links, symbolic links, devices, pipes and sockets are kept;
    `outside` gives the owner there for one here. Raises OSError.
    """
    links: dict[tuple[int, int], str] = {}
    made: list[str] = []
    waiting = ["."]
    while waiting:
        place = waiting.pop()
        made.append(place)
        here, there = _open(source, place), _open(target, place)
        try:
            for name in os.listdir(here):
                inside = os.path.normpath(f"{place}/{name}")
                found = os.stat(name, dir_fd=here, follow_symlinks=False)
                key = (found.st_dev, found.st_ino)
                if stat.S_ISDIR(found.st_mode):
                    os.mkdir(name, 0o700, dir_fd=there)
                    waiting.append(inside)
                elif key in links:
                    os.link(links[key], name, src_dir_fd=target, dst_dir_fd=there, follow_symlinks=False)
                else:
                    _copy(here, there, name, found, outside)
                    if found.st_nlink > 1:
                        links[key] = inside
        finally:
            os.close(here)
            os.close(there)
    # Inner directories first, for whatever is made in a directory changes its times.
    for place in reversed(made):
        here, there = _open(source, place), _open(target, place)
        try:
            _copy_attributes(here, there, outside)
        finally:
            os.close(here)
            os.close(there)


def _open(root: int, place: str) -> int:
    return fs.openat2(root, place, _DIRECTORY, _INSIDE)


def _copy(here: int, there: int, name: str, found: os.stat_result, outside: Shift) -> None:
    if stat.S_ISREG(found.st_mode):
        _copy_file(here, there, name, outside)
        return
    if stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(name, dir_fd=here), name, dir_fd=there)
    else:
        os.mknod(name, found.st_mode, found.st_rdev, dir_fd=there)
    os.chown(name, *outside(found.st_uid, found.st_gid), dir_fd=there, follow_symlinks=False)
    if not stat.S_ISLNK(found.st_mode):
        os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=there)
    os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=there, follow_symlinks=False)


def _copy_file(here: int, there: int, name: str, outside: Shift) -> None:
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    source = os.open(name, os.O_RDONLY | flags, dir_fd=here)
    try:
        target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags, 0o600, dir_fd=there)
        try:
            _copy_content(source, target)
            _copy_attributes(source, target, outside)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _copy_content(source: int, target: int) -> None:
    copy: Callable[[int, int, int], int] = os.copy_file_range
    while True:
        try:
            if copy(source, target, _CHUNK) == 0:
                return
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP) or copy is _send:
                raise
            copy = _send  # two filesystems that cannot copy between each other


def _send(source: int, target: int, count: int) -> int:
    return os.sendfile(target, source, None, count)


def _copy_attributes(source: int, target: int, outside: Shift) -> None:
    """Owner, extended attributes, mode and times, in the order in which none undoes another."""
    found = os.fstat(source)
    os.fchown(target, *outside(found.st_uid, found.st_gid))
    for name in _attributes(source):
        os.setxattr(target, name, os.getxattr(source, name))
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


def _attributes(fd: int) -> Sequence[str]:
    try:
        names = os.listxattr(fd)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return ()
    return [name for name in names if not name.startswith(_NOT_COPIED)]


def size_of(path: str) -> int:
    """Bytes that a directory's content takes, each inode once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for _, _, names, fd in os.fwalk(path, follow_symlinks=False):
        for entry in names:
            try:
                found = os.stat(entry, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                total += found.st_size
    return total
