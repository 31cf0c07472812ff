# SPDX-License-Identifier: Apache-2.0
"""Make files of an archive's members in a directory, by file descriptors only.

No name of the archive is ever resolved outside the directory: a parent is opened with openat2(2) relative to it,
and the last component is never followed. What a name stands for when it is used is what the descriptor says, so
neither an archive that swaps a directory for a link between two members nor a process that does so meanwhile gains
anything.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator

from orlop.archive.attributes import set_attributes, set_xattr, times_of, xattrs_of
from orlop.archive.remove import remove_tree
from orlop.archive.tar import (
    BLOCKDEV,
    CHAR,
    DIRECTORY,
    FIFO,
    HARDLINK,
    REGULAR,
    SYMLINK,
    ArchiveError,
    Entry,
    Stream,
    TarReader,
)
from orlop.errdefs import InternalError, OrlopError, ResourceExhaustedError
from orlop.unix import fs

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
IN_ROOT = fs.RESOLVE_IN_ROOT | fs.RESOLVE_NO_MAGICLINKS
"""Links are followed as they read for a process whose root is the directory."""
BENEATH = fs.RESOLVE_BENEATH | fs.RESOLVE_NO_MAGICLINKS
"""Links that lead out of the directory are errors."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OPEN_DIRECTORIES = 128  # descriptors kept open at a time
_MAX_LINKS = 40
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SPECIAL = {CHAR: stat.S_IFCHR, BLOCKDEV: stat.S_IFBLK, FIFO: stat.S_IFIFO}


def extract_all(
    chunks: Iterator[bytes | memoryview], extractor: "Extractor", cancelled: Callable[[], bool] = lambda: False
) -> None:
    """Feed a tar stream without compression to an extractor, close it, and read the stream to its end.

    `cancelled` is asked before each member. Raises ArchiveError for a malformed archive, ResourceExhaustedError
    when the disk is full, InternalError for a member that cannot be made; what was made by then stays.
    """
    stream = Stream(chunks)
    reader = TarReader(stream)
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
                raise ArchiveError(f"{show(entry.name)}: {error}") from None
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


class Extractor:
    """The state of one archive being extracted into the directory open at `root`.

    `resolve` is IN_ROOT or BENEATH. `own`: members are given to their owners, with their attributes, which takes
    root; otherwise all belongs to the caller, and attributes that he may not set are left out.
    """

    def __init__(self, root: int, *, resolve: int = IN_ROOT, own: bool = True) -> None:
        self.root = root
        self._resolve_flags = resolve
        self._own = own
        self._open: dict[bytes, int] = {}
        self._directory_times: dict[bytes, tuple[int, int]] = {}

    def extract(self, entry: Entry, reader: TarReader) -> None:
        """Make one member."""
        path = clean(entry.name)
        if path:  # the root itself is somebody else's
            above, _, name = path.rpartition(b"/")
            self.make(path, name, self.parent(above), entry, reader)

    def make(self, path: bytes, name: bytes, parent: int, entry: Entry, reader: TarReader) -> None:
        """Make one member: `name` in the directory `parent`; from the root it is `path`."""
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
            raise ArchiveError(f"member {show(entry.name)} has unknown type {entry.type!r}")

    def finish(self) -> None:
        """Set the times of directories, which making files in them has changed."""
        for path, times in self._directory_times.items():
            try:
                fd = self.resolve(path)
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

    # What kinds of archives do differently.

    def inherit(self, path: bytes, fd: int) -> None:
        """A directory was made that the archive presupposes."""
        os.fchmod(fd, 0o755)

    def replaces(self, name: bytes, parent: int, status: os.stat_result) -> bool:
        """Something that is no directory is about to make way for one; whether the new one hides what is below."""
        return False

    def hide(self, path: bytes, fd: int) -> None:
        """A new directory shall show nothing of what is below."""

    def link_target(self, entry: Entry) -> bytes:
        """The path from the root of what a hard link refers to."""
        return clean(entry.linkname)

    # Directories.

    def parent(self, path: bytes) -> int:
        """The directory at `path`, made if it is not there. The descriptor stays this object's."""
        if not path:
            return self.root
        fd = self._open.get(path)
        if fd is None:
            try:
                fd = self.resolve(path)
            except FileNotFoundError:
                fd = self._make_parents(path)
            self._keep(path, fd)
        return fd

    def resolve(self, path: bytes) -> int:
        """Open the directory at `path`; the caller closes it. Raises OSError."""
        if not path:
            return os.dup(self.root)
        return fs.openat2(self.root, path, OPEN_DIRECTORY, self._resolve_flags)

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
                os.close(self.resolve(here))
                continue
            except FileNotFoundError:
                pass
            above = self.resolve(above_path)
            try:
                try:
                    os.mkdir(name, 0o755, dir_fd=above)
                except FileExistsError:
                    target = os.readlink(name, dir_fd=above)
                    if links == _MAX_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
                    base = b"" if target.startswith(b"/") else above_path + b"/"
                    redirected = clean(b"/".join((base + target, *parts[depth + 1 :])))
                    return self._make_parents(redirected, links + 1) if redirected else os.dup(self.root)
                fd = os.open(name, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
            finally:
                os.close(above)
            try:
                self.inherit(here, fd)
            finally:
                os.close(fd)
        return self.resolve(path)

    # Members.

    def _file(self, path: bytes, name: bytes, parent: int, entry: Entry, reader: TarReader) -> None:
        try:
            fd = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        except FileExistsError:
            self.remove(path, parent)
            fd = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            if entry.sparse is not None:
                _write_sparse(fd, entry, reader)
            else:
                for piece in reader.data():
                    _write(fd, piece)
            set_attributes(fd, fd, entry, own=self._own)
        finally:
            os.close(fd)

    def _directory(self, path: bytes, name: bytes, parent: int, entry: Entry) -> None:
        hides = False
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                hides = self.replaces(name, parent, status)
                self.remove(path, parent)
                os.mkdir(name, 0o700, dir_fd=parent)
        fd = self._open.get(path)
        if fd is None:
            fd = os.open(name, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            self._keep(path, fd)  # its members come next
        set_attributes(fd, fd, entry, own=self._own)
        if hides:
            self.hide(path, fd)
        self._directory_times[path] = times_of(entry)

    def _symlink(self, path: bytes, name: bytes, parent: int, entry: Entry) -> None:
        try:
            os.symlink(entry.linkname, name, dir_fd=parent)
        except FileExistsError:
            self.remove(path, parent)
            os.symlink(entry.linkname, name, dir_fd=parent)
        self._set_on_link(name, parent, entry)

    def _set_on_link(self, name: bytes, parent: int, entry: Entry) -> None:
        if self._own:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
            for xattr, value in xattrs_of(entry):
                set_xattr(f"/proc/self/fd/{parent}/".encode() + name, xattr, value, is_link=True)
        os.utime(name, ns=times_of(entry), dir_fd=parent, follow_symlinks=False)

    def _hardlink(self, path: bytes, name: bytes, parent: int, entry: Entry) -> None:
        target = self.link_target(entry)
        if not target or target == path:
            raise ArchiveError(f"{show(entry.name)} is a hard link to {show(entry.linkname)}")
        above_path, _, target_name = target.rpartition(b"/")
        try:
            above = self.resolve(above_path)
            try:
                self._link(target_name, above, name, parent)
            except FileExistsError:
                self.remove(path, parent)
                self._link(target_name, above, name, parent)
            finally:
                os.close(above)
        except (FileNotFoundError, NotADirectoryError):
            raise ArchiveError(
                f"{show(entry.name)} is a hard link to {show(entry.linkname)}, which is not there"
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
            self.remove(path, parent)
            os.mknod(name, mode, device, dir_fd=parent)
        self._set_by_name(name, parent, entry)

    def _set_by_name(self, name: bytes, parent: int, entry: Entry) -> None:
        """Set the attributes of what is no link, through a descriptor that does not open it (a device, a fifo)."""
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            if stat.S_ISLNK(os.fstat(fd).st_mode):  # a hard link to a link: nothing may reach what that points at
                if self._own:
                    os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
                os.utime(name, ns=times_of(entry), dir_fd=parent, follow_symlinks=False)
            else:
                set_attributes(fd, f"/proc/self/fd/{fd}", entry, own=self._own)
        finally:
            os.close(fd)

    # Making way.

    def remove(self, path: bytes, parent: int, missing_ok: bool = False) -> None:
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
    if error.errno in _FULL:
        return ResourceExhaustedError(message)
    if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EXDEV):
        return ArchiveError(message)
    return InternalError(message)


def show(name: bytes) -> str:
    """A name for a message."""
    return f'"{name[:200].decode(errors="backslashreplace")}"'
