# SPDX-License-Identifier: Apache-2.0
"""Write trees of files as tar streams, while somebody hostile may be changing them.

Nothing is opened before its kind is known: a name is pinned with O_PATH, looked at, and only a regular file is
then opened for reading, through that descriptor. No link is followed and no device is touched. One directory is
open at a time, so the depth of a tree costs no descriptors and no stack.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator

from orlop.archive import write
from orlop.archive.tar import DIRECTORY, HARDLINK, REGULAR, SYMLINK, Entry
from orlop.unix import fs

_CHUNK = 1 << 20  # bytes read at a time
_PIN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_INSIDE = fs.RESOLVE_BENEATH | fs.RESOLVE_NO_SYMLINKS
_MAX_STEP = 4000  # bytes of a path that the kernel takes at once, less than PATH_MAX
_MAX_PATH = 64 << 10  # bytes; nobody makes such a path in good faith
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_UNREADABLE = frozenset(
    (
        fs.PROC_SUPER_MAGIC,
        fs.SYSFS_MAGIC,
        fs.CGROUP_SUPER_MAGIC,
        fs.CGROUP2_SUPER_MAGIC,
        fs.DEVPTS_SUPER_MAGIC,
        fs.NSFS_MAGIC,
        fs.BPF_FS_MAGIC,
    )
)
_SECOND = 10**9
_XATTRS = "user."  # and security.capability: what belongs to the file and not to this machine


def buffered(pieces: Iterable[bytes], size: int = _CHUNK) -> Iterator[bytes]:
    """The same bytes in pieces of about `size`."""
    waiting: list[bytes] = []
    length = 0
    for piece in pieces:
        if len(piece) >= size:
            if waiting:
                yield b"".join(waiting)
                waiting, length = [], 0
            yield piece
            continue
        waiting.append(piece)
        length += len(piece)
        if length >= size:
            yield b"".join(waiting)
            waiting, length = [], 0
    if waiting:
        yield b"".join(waiting)


def is_unreadable(fd: int) -> bool:
    """Whether an object is the kernel's account of itself: its size means nothing, and /proc/kcore has no end."""
    return fs.filesystem_type(fd) in _UNREADABLE


class TreeWriter:
    """One archive: any number of objects, then `write.END`.

    Times are cut to seconds, as docker does: a pax header for each file doubles what small files take. Sockets,
    what is in /proc and its like, and what disappears meanwhile, are left out. A file that becomes shorter is
    filled up with zeros, one that grows is cut. The generators raise OSError for what cannot be read.
    """

    def __init__(self, owner: Callable[[int, int], tuple[int, int]] | None = None) -> None:
        """`owner` gives the user and group to be written for those on disk; None: the same."""
        self._owner = owner
        self._linked: dict[tuple[int, int], bytes] = {}  # files with several names that were written

    def one(self, pinned: int, name: bytes) -> Iterator[bytes]:
        """The object that the descriptor (O_PATH) refers to, as `name`; a directory with all that is in it."""
        status = os.fstat(pinned)
        if not stat.S_ISDIR(status.st_mode):
            yield from self._member(pinned, status, name)
            return
        fd = fs.openat2(pinned, ".", _LIST, _INSIDE)
        try:
            lead = name.rstrip(b"/") + b"/"
            yield self._header(lead, status, DIRECTORY, _xattrs(fd))
            yield from self.below(fd, lead)
        finally:
            os.close(fd)

    def below(self, top: int, lead: bytes = b"") -> Iterator[bytes]:
        """All that is in the directory open at `top`; each name begins with `lead`.

        Of a directory first what is no directory, in the order of names, then the directories.
        """
        pending: list[bytes] = [b""]
        device = -1  # whose file system is known to be readable
        while pending:
            inside = pending.pop()
            try:
                fd = _open_below(top, inside) if inside else os.dup(top)
            except OSError as error:
                if error.errno in _GONE:
                    continue  # it was a directory when the one that it is in was read
                raise
            try:
                inside += b"/" if inside else b""
                status = os.fstat(fd)
                if inside:
                    yield self._header(lead + inside, status, DIRECTORY, _xattrs(fd))
                if status.st_dev != device:
                    if is_unreadable(fd):
                        continue
                    device = status.st_dev
                directories: list[bytes] = []
                for child in sorted(map(os.fsencode, os.listdir(fd))):
                    yield from self._child(fd, child, lead + inside + child, directories)
                pending += [inside + child for child in reversed(directories)]
            finally:
                os.close(fd)

    def _child(self, parent: int, child: bytes, name: bytes, directories: list[bytes]) -> Iterator[bytes]:
        try:
            pinned = os.open(child, _PIN, dir_fd=parent)
        except FileNotFoundError:
            return
        try:
            status = os.fstat(pinned)
            if stat.S_ISDIR(status.st_mode):
                directories.append(child)
            else:
                yield from self._member(pinned, status, name)
        except OSError as error:
            raise OSError(error.errno, error.strerror, name) from None
        finally:
            os.close(pinned)

    def _header(
        self,
        name: bytes,
        status: os.stat_result,
        kind: bytes,
        xattrs: dict[bytes, bytes],
        target: bytes = b"",
    ) -> bytes:
        owner = status.st_uid, status.st_gid
        return _header(name, status, self._owner(*owner) if self._owner else owner, kind, xattrs, target)

    def _member(self, pinned: int, status: os.stat_result, name: bytes) -> Iterator[bytes]:
        kind = write.type_of(status.st_mode)
        if kind is None:
            return  # a socket, which tar cannot hold
        if status.st_nlink > 1:
            identity = (status.st_dev, status.st_ino)
            first = self._linked.setdefault(identity, name)
            if first != name:
                yield self._header(name, status, HARDLINK, {}, first)
                return
        if kind == REGULAR:
            yield from self._file(pinned, name)
        elif kind == SYMLINK:
            yield self._header(name, status, kind, {}, os.readlink(b"", dir_fd=pinned))
        else:
            yield self._header(name, status, kind, {})

    def _file(self, pinned: int, name: bytes) -> Iterator[bytes]:
        fd = os.open(f"/proc/self/fd/{pinned}", _READ)
        try:
            status = os.fstat(fd)
            yield self._header(name, status, REGULAR, _xattrs(fd))
            left = status.st_size
            while left:
                data = os.read(fd, min(left, _CHUNK))
                if not data:
                    break
                left -= len(data)
                yield data
            while left:
                data = bytes(min(left, _CHUNK))
                left -= len(data)
                yield data
            if status.st_size % 512:
                yield write.padding(status.st_size)
        finally:
            os.close(fd)


def _header(
    name: bytes,
    status: os.stat_result,
    owner: tuple[int, int],
    kind: bytes,
    xattrs: dict[bytes, bytes],
    target: bytes = b"",
) -> bytes:
    entry = Entry()
    entry.name = name
    entry.type = kind
    entry.linkname = target
    entry.mode = stat.S_IMODE(status.st_mode)
    entry.uid, entry.gid = owner
    entry.size = status.st_size if kind == REGULAR else 0
    entry.mtime = status.st_mtime_ns // _SECOND * _SECOND
    entry.xattrs = xattrs
    if status.st_rdev and kind not in (REGULAR, DIRECTORY, SYMLINK, HARDLINK):
        entry.device = (os.major(status.st_rdev), os.minor(status.st_rdev))
    return write.header(entry)


def _xattrs(fd: int) -> dict[bytes, bytes]:
    try:
        names = os.listxattr(fd)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EPERM, errno.EACCES):
            return {}
        raise
    if not names:
        return {}
    return {
        os.fsencode(name): os.getxattr(fd, name)
        for name in names
        if name == "security.capability" or name.startswith(_XATTRS)
    }


def _open_below(top: int, path: bytes) -> int:
    """Open a directory far below another one, of which no component may be a link."""
    if len(path) <= _MAX_STEP:
        return fs.openat2(top, path, _LIST, _INSIDE)
    if len(path) > _MAX_PATH:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path[:200])
    cut = path.rindex(b"/", 0, _MAX_STEP)
    middle = fs.openat2(top, path[:cut], _LIST, _INSIDE)
    try:
        return _open_below(middle, path[cut + 1 :])
    finally:
        os.close(middle)
