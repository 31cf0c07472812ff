# SPDX-License-Identifier: Apache-2.0
"""Directories of control groups: the processes in a tree of them, and their removal."""

import errno
import os

from orlop.cgroups.write import read_file

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def subgroups(path: str) -> list[str]:
    """The groups directly below one; none when it does not exist."""
    try:
        # A cgroup directory's link count is two and the number of its subdirectories.
        if os.stat(path).st_nlink == 2:
            return []
        with os.scandir(path) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def processes(path: str, below: bool) -> list[int]:
    """The process ids in a group, and in all groups below it; none when it does not exist."""
    found: list[int] = []
    try:
        directory = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return found
    try:
        try:
            found += [int(pid) for pid in read_file(directory, "cgroup.procs").split()]
        except OSError as error:
            # The group was removed meanwhile (ENODEV, ENOENT), or is threaded (EOPNOTSUPP): its domain lists them.
            if error.errno not in (errno.ENODEV, errno.ENOENT, errno.EOPNOTSUPP):
                raise
    finally:
        os.close(directory)
    if below:
        for group in subgroups(path):
            found += processes(group, below)
    return found


def remove(path: str) -> bool:
    """Remove a group and those below it; False while processes keep the kernel from it (EBUSY)."""
    try:
        os.rmdir(path)
        return True
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
    for group in subgroups(path):
        if not remove(group):
            return False
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        return False
    return True
