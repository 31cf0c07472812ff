# SPDX-License-Identifier: Apache-2.0
"""Make a layer: walk two trees and write what makes one into the other as a tar stream.

The trees are read through descriptors and no link is followed. For an overlay whose lower directories are the
other tree, only what its upper directory names is looked at: everything else is the same by construction.
"""

import os
import stat
from collections.abc import Iterator

from orlop.archive import write
from orlop.archive.tar import DIRECTORY, HARDLINK, REGULAR, SYMLINK, Entry
from orlop.containerd.archive.apply import OVERLAY_MARKS, WHITEOUT
from orlop.errdefs import InvalidArgumentError

_CHUNK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# Marks of a directory in an upper directory whose contents are not simply merged with the lower one of that name.
_PRUNING_MARKS = {prefix + mark for prefix in OVERLAY_MARKS for mark in ("opaque", "redirect")}


def write_changes(
    lower: int | None, upper: int, overlay: int | None = None, latest: int | None = None
) -> Iterator[bytes]:
    """The layer that turns the tree open at `lower` (None: nothing) into the one at `upper`, in pieces.

    `overlay` is the upper directory when `upper` is an overlay over exactly `lower`. No modification time is later
    than `latest` (nanoseconds). Members are in the order of their names, so equal trees give equal layers. Raises
    OSError for what cannot be read.
    """
    yield from _Walk(latest).directory(b"", lower, upper, overlay, False, None)
    yield write.END


class _Walk:
    """The state of one layer being made."""

    def __init__(self, latest: int | None) -> None:
        self._latest = latest
        self._linked: dict[tuple[int, int], bytes] = {}  # files with several names that were written

    def directory(
        self,
        path: bytes,
        lower: int | None,
        upper: int,
        overlay: int | None,
        changed: bool,
        entry: Entry | None,
    ) -> Iterator[bytes]:
        """The changes in one directory. Its own `entry` comes first, if it or anything in it has changed."""
        pending = entry
        if changed and entry is not None:
            yield write.header(entry)
            pending = None
        for change in self._children(path, lower, upper, overlay):
            for piece in change:
                if pending is not None:
                    yield write.header(pending)
                    pending = None
                yield piece

    def _children(
        self, path: bytes, lower: int | None, upper: int, overlay: int | None
    ) -> Iterator[Iterator[bytes]]:
        above = _names(upper)
        below = _names(lower) if lower is not None else set()
        names = above | below
        if overlay is not None:
            names &= _names(overlay)
        for name in sorted(names):
            inside = path + b"/" + name if path else name
            if name not in above:
                yield self._deletion(path, name)
            else:
                yield self._child(inside, name, lower if name in below else None, upper, overlay)

    def _child(
        self, path: bytes, name: bytes, lower: int | None, upper: int, overlay: int | None
    ) -> Iterator[bytes]:
        status = os.stat(name, dir_fd=upper, follow_symlinks=False)
        old = os.stat(name, dir_fd=lower, follow_symlinks=False) if lower is not None else None
        if not stat.S_ISDIR(status.st_mode):
            if old is None or lower is None or not _same(name, lower, old, upper, status):
                yield from self._member(path, name, upper, status)
            return
        both = old is not None and stat.S_ISDIR(old.st_mode)
        fds: list[int] = []
        try:
            fds.append(os.open(name, _DIRECTORY, dir_fd=upper))
            below = above_only = None
            if both:
                below = os.open(name, _DIRECTORY, dir_fd=lower)
                fds.append(below)
                above_only = _pruned(name, overlay)
                if above_only is not None:
                    fds.append(above_only)
            entry = self._entry(path + b"/", status, _xattrs(fds[0]))
            changed = below is None or old is None or not _same_attributes(old, status, below, fds[0])
            yield from self.directory(path, below, fds[0], above_only, changed, entry)
        finally:
            for fd in fds:
                os.close(fd)

    def _member(self, path: bytes, name: bytes, parent: int, status: os.stat_result) -> Iterator[bytes]:
        """A file, link or device."""
        if write.type_of(status.st_mode) is None:
            return  # a socket is no file of an image
        if name.startswith(WHITEOUT):
            raise InvalidArgumentError(f"file {path!r} cannot be in a layer: its name is that of a whiteout")
        identity = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and identity in self._linked:
            entry = self._entry(path, status, {})
            entry.type, entry.linkname, entry.size = HARDLINK, self._linked[identity], 0
            yield write.header(entry)
            return
        if stat.S_ISREG(status.st_mode):
            yield from self._file(path, name, parent)
        else:
            entry = self._entry(path, status, {})
            if stat.S_ISLNK(status.st_mode):
                entry.linkname = os.readlink(name, dir_fd=parent)
            yield write.header(entry)
        if status.st_nlink > 1:
            self._linked[identity] = path

    def _file(self, path: bytes, name: bytes, parent: int) -> Iterator[bytes]:
        fd = os.open(name, _FILE, dir_fd=parent)
        try:
            status = os.fstat(fd)
            entry = self._entry(path, status, _xattrs(fd))
            yield write.header(entry)
            left = entry.size
            while left:
                data = os.read(fd, min(left, _CHUNK))
                if not data:
                    raise InvalidArgumentError(f"file {path!r} became shorter while it was read")
                left -= len(data)
                yield data
            if entry.size % 512:
                yield write.padding(entry.size)
        finally:
            os.close(fd)

    def _deletion(self, path: bytes, name: bytes) -> Iterator[bytes]:
        entry = Entry()
        entry.name = path + b"/" + WHITEOUT + name if path else WHITEOUT + name
        yield write.header(entry)

    def _entry(self, path: bytes, status: os.stat_result, xattrs: dict[bytes, bytes]) -> Entry:
        entry = Entry()
        kind = write.type_of(status.st_mode)
        assert kind is not None
        entry.name = path
        entry.type = kind
        entry.mode = stat.S_IMODE(status.st_mode)
        entry.uid, entry.gid = status.st_uid, status.st_gid
        entry.size = status.st_size if kind == REGULAR else 0
        entry.mtime = status.st_mtime_ns if self._latest is None else min(status.st_mtime_ns, self._latest)
        entry.xattrs = xattrs
        if kind not in (REGULAR, DIRECTORY, SYMLINK):
            entry.device = (os.major(status.st_rdev), os.minor(status.st_rdev))
        return entry


def _names(fd: int) -> set[bytes]:
    return {os.fsencode(name) for name in os.listdir(fd)}


def _pruned(name: bytes, overlay: int | None) -> int | None:
    """The directory of that name in the upper directory, if what it does not name is as it was below."""
    if overlay is None:
        return None
    fd = os.open(name, _DIRECTORY, dir_fd=overlay)
    if _PRUNING_MARKS.isdisjoint(os.listxattr(fd)):
        return fd
    os.close(fd)
    return None


def _xattrs(fd: int) -> dict[bytes, bytes]:
    """The attributes that belong to an image: capabilities and what users set; no labels of this machine."""
    return {
        os.fsencode(name): os.getxattr(fd, name)
        for name in os.listxattr(fd)
        if name == "security.capability" or (name.startswith("user.") and not name.startswith(OVERLAY_MARKS))
    }


def _same(name: bytes, lower: int, old: os.stat_result, upper: int, new: os.stat_result) -> bool:
    """Whether a name that is no directory stands for the same file in both trees."""
    if (old.st_mode, old.st_uid, old.st_gid, old.st_rdev) != (new.st_mode, new.st_uid, new.st_gid, new.st_rdev):
        return False
    if stat.S_ISLNK(new.st_mode):
        return os.readlink(name, dir_fd=lower) == os.readlink(name, dir_fd=upper)
    if not stat.S_ISREG(new.st_mode):
        return old.st_mtime_ns == new.st_mtime_ns
    if (old.st_size, old.st_mtime_ns) != (new.st_size, new.st_mtime_ns):
        return False
    old_fd = os.open(name, _FILE, dir_fd=lower)
    try:
        new_fd = os.open(name, _FILE, dir_fd=upper)
        try:
            # A time without a fraction comes from an archive or a coarse clock and proves nothing.
            return _xattrs(old_fd) == _xattrs(new_fd) and (
                new.st_mtime_ns % 10**9 != 0 or _same_bytes(old_fd, new_fd)
            )
        finally:
            os.close(new_fd)
    finally:
        os.close(old_fd)


def _same_bytes(one: int, other: int) -> bool:
    while True:
        data = os.read(one, _CHUNK)
        if data != os.read(other, len(data) or 1):
            return False
        if not data:
            return True


def _same_attributes(old: os.stat_result, new: os.stat_result, lower: int, upper: int) -> bool:
    if (old.st_mode, old.st_uid, old.st_gid) != (new.st_mode, new.st_uid, new.st_gid):
        return False
    return _xattrs(lower) == _xattrs(upper)
