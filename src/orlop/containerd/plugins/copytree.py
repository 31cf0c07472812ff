# SPDX-License-Identifier: Apache-2.0
"""Copy a tree with everything that root can see of it: owners, modes, times, xattrs, devices, hard links."""

import errno
import fcntl
import os
import stat

FICLONE = 0x40049409  # ioctl_ficlone(2)


def copy_tree(source: str, target: str) -> None:
    """Copy what is in the directory `source` into the empty directory `target`, and its own attributes.

    Follows no link. Raises OSError; what was copied by then stays.
    """
    links: dict[tuple[int, int], str] = {}
    directories = [(source, target)]
    done = []
    while directories:
        here, there = directories.pop()
        done.append((here, there))
        with os.scandir(here) as entries:
            for entry in entries:
                copy = f"{there}/{entry.name}"
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    os.mkdir(copy, 0o700)
                    directories.append((entry.path, copy))
                    continue
                if status.st_nlink > 1:
                    first = links.setdefault((status.st_dev, status.st_ino), copy)
                    if first != copy:
                        os.link(first, copy, follow_symlinks=False)
                        continue
                _copy_one(entry.path, copy, status)
                _copy_attributes(entry.path, copy, status)
    for here, there in reversed(done):  # children first: making them changes the directory's time
        _copy_attributes(here, there, os.lstat(here))


def _copy_one(source: str, target: str, status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode):
        _copy_file(source, target)
    elif stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(source), target)
    elif not stat.S_ISSOCK(status.st_mode):
        os.mknod(target, stat.S_IFMT(status.st_mode) | 0o600, status.st_rdev)
    else:
        os.mknod(target, stat.S_IFSOCK | 0o600)


def _copy_file(source: str, target: str) -> None:
    source_fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        target_fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.ioctl(target_fd, FICLONE, source_fd)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY):
                    raise
                _copy_extents(source_fd, target_fd)
        finally:
            os.close(target_fd)
    finally:
        os.close(source_fd)


def _copy_extents(source: int, target: int) -> None:
    """Copy the data and leave the holes."""
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    offset = 0
    while offset < size:
        try:
            start = os.lseek(source, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        offset = os.lseek(source, start, os.SEEK_HOLE)
        while start < offset:
            copied = os.copy_file_range(source, target, offset - start, start, start)
            if not copied:
                return  # the file was cut meanwhile
            start += copied


def _copy_attributes(source: str, target: str, status: os.stat_result) -> None:
    os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    for name in os.listxattr(source, follow_symlinks=False):
        os.setxattr(target, name, os.getxattr(source, name, follow_symlinks=False), follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)
