# SPDX-License-Identifier: Apache-2.0
"""Apply a layer to a directory, by file descriptors only.

No name of the archive is ever resolved outside the directory: a parent is opened with openat2(RESOLVE_IN_ROOT), in
which a link to / or .. ends at the root of the directory, and the last component is never followed. What a name
stands for when it is used is what the descriptor says, so a layer that swaps a directory for a link between two
members gains nothing.

Deletions: in the upper directory of an overlay they become what overlayfs knows (a character device 0/0, the xattr
trusted.overlay.opaque); elsewhere the names are removed. Names that the same layer brought are never deleted by
it.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence

from orlop.containerd.archive.attributes import set_attributes, set_xattr, times_of, xattrs_of
from orlop.containerd.archive.remove import remove_tree
from orlop.containerd.archive.tar import (
    BLOCKDEV,
    CHAR,
    DIRECTORY,
    FIFO,
    HARDLINK,
    REGULAR,
    SYMLINK,
    Entry,
    Stream,
    TarReader,
)
from orlop.containerd.disk import FULL
from orlop.errdefs import InternalError, InvalidArgumentError, OrlopError, ResourceExhaustedError
from orlop.unix import fs

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
OVERLAY_OPAQUE = "trusted.overlay.opaque"

_OPEN_DIRECTORIES = 128  # descriptors kept open at a time
_MAX_LINKS = 40
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SPECIAL = {CHAR: stat.S_IFCHR, BLOCKDEV: stat.S_IFBLK, FIFO: stat.S_IFIFO}


def apply_layer(
    chunks: Iterator[bytes],
    root: int,
    *,
    overlay: bool = False,
    lower: Sequence[int] = (),
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Apply the uncompressed tar stream `chunks` to the directory open at `root`, and read it to its end.

    `overlay`: the directory is an upper directory. `lower` are its lower directories, open, nearest first: a
    parent that the layer does not bring gets the attributes that it has there. `cancelled` is asked before each
    member. Raises InvalidArgumentError for a malformed layer, ResourceExhaustedError when the disk is full,
    InternalError for a member that cannot be made; what was made by then stays.
    """
    stream = Stream(chunks)
    reader = TarReader(stream)
    extractor = _Extractor(root, overlay, lower)
    try:
        for entry in reader:
            if cancelled():
                return
            try:
                extractor.extract(entry, reader)
            except OrlopError:
                raise
            except OSError as error:
                raise _explain(entry, error) from None
            except OverflowError as error:  # a device number
                raise InvalidArgumentError(f"invalid layer: {show(entry.name)}: {error}") from None
        extractor.finish()
    finally:
        extractor.close()
    stream.drain()


def clean(name: bytes) -> bytes:
    """A name relative to the root: without `.`, empty components and slashes at its ends; empty for the root.

    `..` takes one component away and stops at the root.
    """
    if name.startswith(b"./"):
        name = name[2:]
    name = name.strip(b"/")
    if name[:1] != b"." and b"/." not in name and b"//" not in name:
        return name
    components: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if components:
                components.pop()
        elif part and part != b".":
            components.append(part)
    return b"/".join(components)


class _Extractor:
    """The state of one layer being applied."""

    def __init__(self, root: int, overlay: bool, lower: Sequence[int]) -> None:
        self._root = root
        self._overlay = overlay
        self._lower = lower
        self._open: dict[bytes, int] = {}
        self._made: set[bytes] = set()  # what this layer brought
        self._directory_times: dict[bytes, tuple[int, int]] = {}

    def extract(self, entry: Entry, reader: TarReader) -> None:
        """Make one member."""
        path = clean(entry.name)
        if not path:
            return  # the root itself, which belongs to the snapshot
        above, _, name = path.rpartition(b"/")
        parent = self._parent(above)
        if name.startswith(WHITEOUT):
            self._delete(path, parent, entry)
            return
        if entry.type == REGULAR:
            self._file(path, name, parent, entry, reader)
        elif entry.type == DIRECTORY:
            self._directory(path, name, parent, entry)
        elif entry.type == SYMLINK:
            self._symlink(path, name, parent, entry)
        elif entry.type == HARDLINK:
            self._hardlink(path, name, parent, entry)
        elif entry.type in _SPECIAL:
            self._special(path, name, parent, entry)
        else:
            raise InvalidArgumentError(f"invalid layer: member {show(entry.name)} has unknown type {entry.type!r}")
        self._made.add(path)

    def finish(self) -> None:
        """Set the times of directories, which making files in them has changed."""
        for path, times in self._directory_times.items():
            try:
                fd = self._resolve(path)
            except (FileNotFoundError, NotADirectoryError):
                continue  # a later member took its place
            try:
                os.utime(fd, ns=times)
            finally:
                os.close(fd)

    def close(self) -> None:
        """Close the descriptors."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    # Directories.

    def _parent(self, path: bytes) -> int:
        """The directory at `path`, made if it is not there. The descriptor stays this object's."""
        if not path:
            return self._root
        fd = self._open.get(path)
        if fd is None:
            try:
                fd = self._resolve(path)
            except FileNotFoundError:
                fd = self._make_parents(path)
            self._keep(path, fd)
        return fd

    def _resolve(self, path: bytes) -> int:
        if not path:
            return os.dup(self._root)
        return fs.openat2(self._root, path, _DIRECTORY, fs.RESOLVE_IN_ROOT | fs.RESOLVE_NO_MAGICLINKS)

    def _keep(self, path: bytes, fd: int) -> None:
        if len(self._open) >= _OPEN_DIRECTORIES:
            oldest = next(iter(self._open))
            os.close(self._open.pop(oldest))
        self._open[path] = fd

    def _make_parents(self, path: bytes, links: int = 0) -> int:
        """Make what is missing of `path`; through a dangling link, what it names."""
        parts = path.split(b"/")
        for depth, name in enumerate(parts):
            here, above_path = b"/".join(parts[: depth + 1]), b"/".join(parts[:depth])
            try:
                os.close(self._resolve(here))
                continue
            except FileNotFoundError:
                pass
            above = self._resolve(above_path)
            try:
                try:
                    os.mkdir(name, 0o755, dir_fd=above)
                except FileExistsError:
                    target = os.readlink(name, dir_fd=above)
                    if links == _MAX_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
                    base = b"" if target.startswith(b"/") else above_path + b"/"
                    redirected = clean(b"/".join((base + target, *parts[depth + 1 :])))
                    return self._make_parents(redirected, links + 1) if redirected else os.dup(self._root)
                fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
            finally:
                os.close(above)
            try:
                self._inherit(here, fd)
            finally:
                os.close(fd)
        return self._resolve(path)

    def _inherit(self, path: bytes, fd: int) -> None:
        """Give a directory that the layer presupposes the attributes that it has in the lower directories."""
        os.fchmod(fd, 0o755)
        for lower in self._lower:
            try:
                model = fs.openat2(lower, path, _DIRECTORY, fs.RESOLVE_IN_ROOT)
            except FileNotFoundError:
                continue
            except OSError:
                return  # no directory there: it is being replaced
            try:
                status = os.fstat(model)
                os.fchown(fd, status.st_uid, status.st_gid)
                for name in os.listxattr(model):
                    if not name.startswith("trusted.overlay."):
                        os.setxattr(fd, name, os.getxattr(model, name))
                os.fchmod(fd, stat.S_IMODE(status.st_mode))
                self._directory_times[path] = (status.st_atime_ns, status.st_mtime_ns)
            finally:
                os.close(model)
            return

    # Members.

    def _file(self, path: bytes, name: bytes, parent: int, entry: Entry, reader: TarReader) -> None:
        try:
            fd = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        except FileExistsError:
            self._remove(path, parent)
            fd = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            if entry.sparse is not None:
                _write_sparse(fd, entry, reader)
            else:
                for piece in reader.data():
                    _write(fd, piece)
            set_attributes(fd, fd, entry)
        finally:
            os.close(fd)

    def _directory(self, path: bytes, name: bytes, parent: int, entry: Entry) -> None:
        hides = False
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                hides = self._overlay and stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
                self._remove(path, parent)
                os.mkdir(name, 0o700, dir_fd=parent)
        fd = self._open.get(path)
        if fd is None:
            fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            self._keep(path, fd)  # its members come next
        set_attributes(fd, fd, entry)
        if hides:  # a deletion, then a new directory: nothing of the lower one may show
            os.setxattr(fd, OVERLAY_OPAQUE, b"y")
        self._directory_times[path] = times_of(entry)

    def _symlink(self, path: bytes, name: bytes, parent: int, entry: Entry) -> None:
        try:
            os.symlink(entry.linkname, name, dir_fd=parent)
        except FileExistsError:
            self._remove(path, parent)
            os.symlink(entry.linkname, name, dir_fd=parent)
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        for xattr, value in xattrs_of(entry):
            set_xattr(f"/proc/self/fd/{parent}/".encode() + name, xattr, value, is_link=True)
        os.utime(name, ns=times_of(entry), dir_fd=parent, follow_symlinks=False)

    def _hardlink(self, path: bytes, name: bytes, parent: int, entry: Entry) -> None:
        target = clean(entry.linkname)
        if not target or target == path:
            raise InvalidArgumentError(
                f"invalid layer: {show(entry.name)} is a hard link to {show(entry.linkname)}"
            )
        above_path, _, target_name = target.rpartition(b"/")
        try:
            above = self._resolve(above_path)
            try:
                self._link(target_name, above, name, parent)
            except FileExistsError:
                self._remove(path, parent)
                self._link(target_name, above, name, parent)
            finally:
                os.close(above)
        except (FileNotFoundError, NotADirectoryError):
            raise InvalidArgumentError(
                f"invalid layer: {show(entry.name)} is a hard link to {show(entry.linkname)}, which is not there"
            ) from None
        self._set_by_name(name, parent, entry)

    @staticmethod
    def _link(target: bytes, above: int, name: bytes, parent: int) -> None:
        os.link(target, name, src_dir_fd=above, dst_dir_fd=parent, follow_symlinks=False)

    def _special(self, path: bytes, name: bytes, parent: int, entry: Entry) -> None:
        mode, device = _SPECIAL[entry.type] | 0o600, os.makedev(*entry.device)
        try:
            os.mknod(name, mode, device, dir_fd=parent)
        except FileExistsError:
            self._remove(path, parent)
            os.mknod(name, mode, device, dir_fd=parent)
        self._set_by_name(name, parent, entry)

    @staticmethod
    def _set_by_name(name: bytes, parent: int, entry: Entry) -> None:
        """Set the attributes of what is no link, through a descriptor that does not open it (a device, a fifo)."""
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            if stat.S_ISLNK(os.fstat(fd).st_mode):  # a hard link to a link: nothing may reach what that points at
                os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
                os.utime(name, ns=times_of(entry), dir_fd=parent, follow_symlinks=False)
            else:
                set_attributes(fd, f"/proc/self/fd/{fd}", entry)
        finally:
            os.close(fd)

    # Deletions.

    def _delete(self, path: bytes, parent: int, entry: Entry) -> None:
        above, _, marker = path.rpartition(b"/")
        if marker == OPAQUE:
            self._hide(above, parent)
            return
        name = marker.removeprefix(WHITEOUT)
        if name in (b"", b".", b".."):
            raise InvalidArgumentError(f"invalid layer: whiteout {show(entry.name)} names no file")
        hidden = above + b"/" + name if above else name
        if hidden in self._made:
            # It deletes what the layers below have there; of that only a directory could still show.
            if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                self._hide(hidden, self._parent(hidden))
            return
        if not self._overlay:
            self._remove(hidden, parent, missing_ok=True)
            return
        try:
            os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
        except FileExistsError:
            self._remove(hidden, parent)
            os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)

    def _hide(self, path: bytes, fd: int) -> None:
        """Let nothing of the layers below show in the directory."""
        if self._overlay:
            os.setxattr(fd, OVERLAY_OPAQUE, b"y")
            return
        prefix = path + b"/" if path else b""
        kept: set[bytes] = set()
        for made in self._made:
            while made.startswith(prefix) and made not in kept and made != path:
                kept.add(made)
                made = made.rpartition(b"/")[0]  # noqa: PLW2901 - climbs to the directory
        self._clear(prefix, fd, kept)

    def _clear(self, prefix: bytes, fd: int, kept: set[bytes]) -> None:
        for name in map(os.fsencode, os.listdir(fd)):
            inside = prefix + name
            if inside not in kept:
                self._remove(inside, fd, missing_ok=True)
            elif stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                below = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                try:
                    self._clear(inside + b"/", below, kept)
                finally:
                    os.close(below)

    def _remove(self, path: bytes, parent: int, missing_ok: bool = False) -> None:
        """Remove what has the name now, whole trees too, without following anything."""
        name = path.rpartition(b"/")[2]
        try:
            mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        except FileNotFoundError:
            if missing_ok:
                return
            raise
        if stat.S_ISDIR(mode):
            remove_tree(name, parent)
        else:
            os.unlink(name, dir_fd=parent)
        if not stat.S_ISREG(mode):
            # Directories kept open may have been below it, or reached through it.
            keep = next((kept for kept, fd in self._open.items() if fd == parent), None)
            for kept in [kept for kept in self._open if kept != keep]:
                os.close(self._open.pop(kept))


def _write(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _write_sparse(fd: int, entry: Entry, reader: TarReader) -> None:
    """Put the pieces of data where they belong and leave the holes."""
    os.ftruncate(fd, entry.real_size)
    data = reader.data()
    piece = memoryview(b"")
    for offset, length in entry.sparse or ():
        at, end = offset, offset + length
        while at < end:
            if not piece:
                piece = next(data)
            written = os.pwrite(fd, piece[: end - at], at)
            piece = piece[written:]
            at += written


def _explain(entry: Entry, error: OSError) -> OrlopError:
    message = f"failed to make {show(entry.name)}: {os.strerror(error.errno or errno.EIO)}"
    if error.errno in FULL:
        return ResourceExhaustedError(message)
    if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EXDEV):
        return InvalidArgumentError(f"invalid layer: {message}")
    return InternalError(message)


def show(name: bytes) -> str:
    """A name for a message."""
    return f'"{name[:200].decode(errors="backslashreplace")}"'
