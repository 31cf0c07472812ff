# SPDX-License-Identifier: Apache-2.0
"""Remove a tree of any depth, by descriptors and without following anything.

A container can nest directories deeper than a path can name, and deeper than a stack or a table of descriptors
holds. Below a certain depth a directory is therefore moved to the top of the tree and emptied there.
"""

import os

_DEEPEST = 64  # levels that are descended into, each with an open descriptor
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(name: str | bytes, dir_fd: int | None = None) -> None:
    """Remove the directory `name` and all that is in it. Raises OSError, NotADirectoryError for anything else."""
    top = os.open(name, _DIRECTORY, dir_fd=dir_fd)
    try:
        moved: list[str] = []
        _empty(top, top, moved, 0)
        while moved:
            deep = moved.pop()
            fd = os.open(deep, _DIRECTORY, dir_fd=top)
            try:
                _empty(fd, top, moved, 1)
            finally:
                os.close(fd)
            os.rmdir(deep, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=dir_fd)


def _empty(fd: int, top: int, moved: list[str], depth: int) -> None:
    with os.scandir(fd) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if not is_directory:
            os.unlink(name, dir_fd=fd)
        elif depth < _DEEPEST:
            below = os.open(name, _DIRECTORY, dir_fd=fd)
            try:
                _empty(below, top, moved, depth + 1)
            finally:
                os.close(below)
            os.rmdir(name, dir_fd=fd)
        else:
            unique = f".deep-{os.urandom(16).hex()}"  # a name that nobody can have put there
            os.rename(name, unique, src_dir_fd=fd, dst_dir_fd=top)
            moved.append(unique)
