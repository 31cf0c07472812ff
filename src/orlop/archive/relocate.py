# SPDX-License-Identifier: Apache-2.0
"""Extract an archive somewhere else than its names say, as `docker cp` does."""

import os
import stat
from collections.abc import Callable
from typing import NamedTuple

from orlop.archive.extract import IN_ROOT, Extractor, clean, show
from orlop.archive.tar import DIRECTORY, ArchiveError, Entry, TarReader


class Relocation(NamedTuple):
    """Where members go: the first `strip` components of a name are left out, `lead` is put in front instead.

    What `lead` names is there and stays as it is. `owner`: all belongs to this user and group.
    `outside` gives the user and group on disk for those of the archive (None: the same).
    `keep_kinds`: a directory is not replaced by anything else, nor anything else by a directory.
    """

    lead: bytes = b""
    strip: int = 0
    owner: tuple[int, int] | None = None
    keep_kinds: bool = False
    outside: Callable[[int, int], tuple[int, int]] | None = None


class RelocatingExtractor(Extractor):
    """Extracts an archive somewhere below its root; what the archive calls its own top stays as it is there."""

    def __init__(self, root: int, relocation: Relocation, *, resolve: int = IN_ROOT, own: bool = True) -> None:
        super().__init__(root, resolve=resolve, own=own)
        self._relocation = relocation

    def extract(self, entry: Entry, reader: TarReader) -> None:
        """Make one member."""
        path = self._place(entry.name)
        if not path or (path == self._relocation.lead and not self._relocation.strip):
            if entry.type != DIRECTORY:
                raise ArchiveError(f"member {show(entry.name)} has no name")
            return
        if self._relocation.owner is not None:
            entry.uid, entry.gid = self._relocation.owner
        if self._relocation.outside is not None:
            entry.uid, entry.gid = self._relocation.outside(entry.uid, entry.gid)
        above, _, name = path.rpartition(b"/")
        self.make(path, name, self.parent(above), entry, reader)

    def make(self, path: bytes, name: bytes, parent: int, entry: Entry, reader: TarReader) -> None:
        if self._relocation.keep_kinds:
            _check_kind(name, parent, entry)
        super().make(path, name, parent, entry, reader)

    def link_target(self, entry: Entry) -> bytes:
        return self._place(entry.linkname)

    def _place(self, name: bytes) -> bytes:
        inside = clean(name)
        if self._relocation.strip:
            inside = b"/".join(inside.split(b"/")[self._relocation.strip :])
        lead = self._relocation.lead
        return lead + b"/" + inside if lead and inside else lead or inside


def _check_kind(name: bytes, parent: int, entry: Entry) -> None:
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    is_directory, becomes = stat.S_ISDIR(status.st_mode), entry.type == DIRECTORY
    if is_directory and not becomes:
        raise ArchiveError(f"cannot overwrite directory {show(name)} with non-directory {show(entry.name)}")
    if becomes and not is_directory:
        raise ArchiveError(f"cannot overwrite non-directory {show(name)} with directory {show(entry.name)}")
