# SPDX-License-Identifier: Apache-2.0
"""Copies a directory tree between two open directories, for tmpfs mounts with `tmpcopyup`."""

import os
import stat

_CHUNK = 1 << 20


def copy_tree(source: int, target: int) -> None:
    """Copy what is in directory `source` into directory `target`: files, links, nodes, modes, owners, times.

    Links are copied, never followed.
    """
    _copy_attributes(os.fstat(source), target)
    with os.scandir(source) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        _copy_entry(source, target, name)


def _copy_entry(source: int, target: int, name: str) -> None:
    status = os.stat(name, dir_fd=source, follow_symlinks=False)
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        os.mkdir(name, 0o700, dir_fd=target)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        inner_source = os.open(name, flags, dir_fd=source)
        inner_target = os.open(name, flags, dir_fd=target)
        try:
            copy_tree(inner_source, inner_target)
        finally:
            os.close(inner_source)
            os.close(inner_target)
    elif kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    elif kind == stat.S_IFREG:
        _copy_file(source, target, name, status)
    else:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)


def _copy_file(source: int, target: int, name: str, status: os.stat_result) -> None:
    reader = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
    writer = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
    try:
        while os.sendfile(writer, reader, None, _CHUNK):
            pass
        _copy_attributes(status, writer)
    finally:
        os.close(reader)
        os.close(writer)


def _copy_attributes(status: os.stat_result, target: int) -> None:
    os.chown(target, status.st_uid, status.st_gid)
    os.chmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
