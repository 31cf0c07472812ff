# SPDX-License-Identifier: Apache-2.0
"""Paths of the archive endpoints: what they refer to in a container, and how docker describes it."""

import os
import posixpath
import stat
from typing import NamedTuple

from orlop.archive.extract import IN_ROOT
from orlop.dockerd import timestamps
from orlop.unix import fs

_PIN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LINKS = fs.RESOLVE_IN_ROOT | fs.RESOLVE_NO_SYMLINKS
_MAX_LINKS = 255

# Go's fs.FileMode, which the API speaks.
_KINDS = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
}
_BITS = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))


class Found(NamedTuple):
    """An object of a container, pinned by an O_PATH descriptor that the caller closes; its name for docker."""

    pinned: int
    name: str


def absolute(path: str) -> str:
    """The path from the root without `.` and `..`, but with what says "a directory" at its end."""
    cleaned = posixpath.normpath("/" + path.lstrip("/"))
    if posixpath.basename(path) == ".":
        return cleaned.rstrip("/") + "/."
    return cleaned + "/" if path.endswith("/") and cleaned != "/" else cleaned


def find(root: int, path: str) -> Found:
    """What a path refers to; the last component is not followed, unless a slash asserts that it is a directory.

    Raises OSError: FileNotFoundError, NotADirectoryError, …
    """
    wanted = absolute(path)
    name = posixpath.basename(wanted.rstrip("/")) or "/"
    if wanted.endswith(("/", "/.")):
        return Found(fs.openat2(root, wanted, os.O_PATH | os.O_DIRECTORY, IN_ROOT), name)
    return Found(fs.openat2(root, wanted, os.O_PATH | os.O_NOFOLLOW, IN_ROOT), name)


def describe(root: int, found: Found, path: str) -> dict[str, object]:
    """The value of X-Docker-Container-Path-Stat."""
    status = os.fstat(found.pinned)
    is_link = stat.S_ISLNK(status.st_mode)
    return {
        "name": found.name,
        "size": status.st_size,
        "mode": go_mode(status.st_mode),
        # 1970 is a time like any other here, not the one of never.
        "mtime": timestamps.rfc3339(status.st_mtime_ns) if status.st_mtime_ns else "1970-01-01T00:00:00Z",
        "linkTarget": evaluate(root, absolute(path)) if is_link else "",
    }


def go_mode(mode: int) -> int:
    """A file mode as Go's fs.FileMode has it."""
    bits = sum(go for unix, go in _BITS if mode & unix)
    return _KINDS.get(stat.S_IFMT(mode), 0) | bits | mode & 0o777


def evaluate(root: int, path: str) -> str:
    """A path without links in it, as far as it exists. Raises OSError where there are too many links."""
    left = [part for part in reversed(path.split("/")) if part and part != "."]
    done: list[str] = []
    links = 0
    while left:
        part = left.pop()
        if part == "..":
            done = done[:-1]
            continue
        here = "/".join((*done, part))
        try:
            pinned = fs.openat2(root, here, os.O_PATH | os.O_NOFOLLOW, _NO_LINKS)
        except OSError:
            done.append(part)  # not there: what follows is taken as it is
            continue
        try:
            target = os.readlink(b"", dir_fd=pinned) if stat.S_ISLNK(os.fstat(pinned).st_mode) else None
        finally:
            os.close(pinned)
        if target is None:
            done.append(part)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(f"too many links in {path}")
        text = os.fsdecode(target)
        if text.startswith("/"):
            done = []
        left += [piece for piece in reversed(text.split("/")) if piece and piece != "."]
    return "/" + "/".join(done)
