# SPDX-License-Identifier: Apache-2.0
"""Apply a layer to a directory: an archive in which some names stand for deletions.

In the upper directory of an overlay deletions become what overlayfs knows (a character device 0/0, the xattr
trusted.overlay.opaque, or user.overlay.opaque for one mounted with `userxattr`); elsewhere the names are removed.
Names that the same layer brought are never deleted by it.
"""

import os
import stat
from collections.abc import Callable, Iterator, Sequence

from orlop.archive.extract import OPEN_DIRECTORY, Extractor, extract_all, show
from orlop.archive.tar import BLOCKDEV, CHAR, ArchiveError, Entry, TarReader
from orlop.errdefs import InvalidArgumentError
from orlop.unix import fs

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
OVERLAY_OPAQUE = "trusted.overlay.opaque"
USER_OVERLAY_OPAQUE = "user.overlay.opaque"
"""What overlayfs reads when mounted with `userxattr`, as in a user namespace, where nobody may write the other."""
OVERLAY_MARKS = ("trusted.overlay.", "user.overlay.")


def apply_layer(
    chunks: Iterator[bytes],
    root: int,
    *,
    opaque: str = "",
    lower: Sequence[int] = (),
    devices: bool = True,
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Apply the uncompressed tar stream `chunks` to the directory open at `root`, and read it to its end.

    `opaque`: the directory is an upper directory of an overlay with this mark. `lower` are its lower directories,
    open, nearest first: a parent that the layer does not bring gets the attributes that it has there. Not
    `devices`: those are left out, as in a user namespace, where nobody may make them. `cancelled` is asked before
    each member. Raises InvalidArgumentError for a malformed layer, ResourceExhaustedError when the disk is full,
    InternalError for a member that cannot be made; what was made by then stays.
    """
    try:
        extract_all(chunks, _LayerExtractor(root, opaque, lower, devices), cancelled)
    except ArchiveError as error:
        raise InvalidArgumentError(f"invalid layer: {error}") from None


class _LayerExtractor(Extractor):
    """The state of one layer being applied."""

    def __init__(self, root: int, opaque: str, lower: Sequence[int], devices: bool) -> None:
        super().__init__(root)
        self._opaque = opaque
        self._lower = lower
        self._left_out = () if devices else (CHAR, BLOCKDEV)
        self._made: set[bytes] = set()  # what this layer brought

    def make(self, path: bytes, name: bytes, parent: int, entry: Entry, reader: TarReader) -> None:
        if name.startswith(WHITEOUT):
            self._delete(path, parent, entry)
            return
        if entry.type in self._left_out:
            return
        super().make(path, name, parent, entry, reader)
        self._made.add(path)

    def inherit(self, path: bytes, fd: int) -> None:
        """Give a directory that the layer presupposes the attributes that it has in the lower directories."""
        super().inherit(path, fd)
        for lower in self._lower:
            try:
                model = fs.openat2(lower, path, OPEN_DIRECTORY, fs.RESOLVE_IN_ROOT)
            except FileNotFoundError:
                continue
            except OSError:
                return  # no directory there: it is being replaced
            try:
                status = os.fstat(model)
                os.fchown(fd, status.st_uid, status.st_gid)
                for name in os.listxattr(model):
                    if not name.startswith(OVERLAY_MARKS):
                        os.setxattr(fd, name, os.getxattr(model, name))
                os.fchmod(fd, stat.S_IMODE(status.st_mode))
                self._directory_times[path] = (status.st_atime_ns, status.st_mtime_ns)
            finally:
                os.close(model)
            return

    def replaces(self, name: bytes, parent: int, status: os.stat_result) -> bool:
        """A deletion, then a new directory: nothing of the lower one may show."""
        return bool(self._opaque) and stat.S_ISCHR(status.st_mode) and status.st_rdev == 0

    def hide(self, path: bytes, fd: int) -> None:
        """Let nothing of the layers below show in the directory."""
        if self._opaque:
            os.setxattr(fd, self._opaque, b"y")
            return
        prefix = path + b"/" if path else b""
        kept: set[bytes] = set()
        for made in self._made:
            while made.startswith(prefix) and made not in kept and made != path:
                kept.add(made)
                made = made.rpartition(b"/")[0]  # noqa: PLW2901 - climbs to the directory
        self._clear(prefix, fd, kept)

    def _delete(self, path: bytes, parent: int, entry: Entry) -> None:
        above, _, marker = path.rpartition(b"/")
        if marker == OPAQUE:
            self.hide(above, parent)
            return
        name = marker.removeprefix(WHITEOUT)
        if name in (b"", b".", b".."):
            raise ArchiveError(f"whiteout {show(entry.name)} names no file")
        hidden = above + b"/" + name if above else name
        if hidden in self._made:
            # It deletes what the layers below have there; of that only a directory could still show.
            if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                self.hide(hidden, self.parent(hidden))
            return
        if not self._opaque:
            self.remove(hidden, parent, missing_ok=True)
            return
        try:
            os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
        except FileExistsError:
            self.remove(hidden, parent)
            os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)

    def _clear(self, prefix: bytes, fd: int, kept: set[bytes]) -> None:
        for name in map(os.fsencode, os.listdir(fd)):
            inside = prefix + name
            if inside not in kept:
                self.remove(inside, fd, missing_ok=True)
            elif stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                below = os.open(name, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                try:
                    self._clear(inside + b"/", below, kept)
                finally:
                    os.close(below)
