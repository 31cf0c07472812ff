# SPDX-License-Identifier: Apache-2.0
"""Copy files into a container: `docker cp … CONTAINER:PATH`."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from typing import NamedTuple

from orlop.archive.extract import IN_ROOT, OPEN_DIRECTORY, Extractor, clean, extract_all, show
from orlop.archive.tar import DIRECTORY, ArchiveError, Entry, TarReader
from orlop.containerd.client.tarstream import decompress
from orlop.dockerd import rootfs
from orlop.dockerd.containers.archive_out import explained
from orlop.dockerd.containers.bridge import into_thread
from orlop.dockerd.containers.path_stat import absolute
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.containers.view import Views
from orlop.errdefs import InvalidArgumentError
from orlop.unix import fs


class Wanted(NamedTuple):
    """What to do with an archive.

    `path` is a directory of the container. `container_owner`: all belongs to the container's user, not to whom the
    archive says. `keep_kinds`: a directory is not replaced by anything else, nor anything else by a directory.
    """

    path: str
    container_owner: bool = False
    keep_kinds: bool = False


class ArchiveIn:
    """The use case."""

    def __init__(self, registry: Registry, views: Views) -> None:
        self._registry = registry
        self._views = views

    async def __call__(self, reference: str, wanted: Wanted, chunks: AsyncIterator[bytes]) -> None:
        """Extract a tar stream, which may be compressed, in a directory of a container.

        Raises NotFoundError (container, directory), ConflictError, InvalidArgumentError (no directory, read-only,
        malformed archive), ResourceExhaustedError, InternalError; what was extracted by then stays.
        """
        container = self._registry.get(reference)
        user = container.record.config.user if wanted.container_owner else ""
        incoming = into_thread(chunks, asyncio.get_running_loop())

        def extract(view: int) -> None:
            with explained(wanted.path, reference):
                _check_target(view, wanted.path)
            owner = rootfs.resolve_user(view, user) if user else None
            extractor = _Extractor(view, wanted, (owner.uid, owner.gid) if owner else None)
            try:
                extract_all(decompress(incoming), extractor)
            except ArchiveError as error:
                raise InvalidArgumentError(f"invalid archive: {error}") from None

        async with self._views.writing(container) as view:
            work = asyncio.ensure_future(asyncio.to_thread(extract, view))
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                await asyncio.wait({work})  # it ends with the request's body
                raise
        self._registry.publish(container, "extract-to-dir")


def _check_target(view: int, path: str) -> None:
    try:
        target = fs.openat2(view, absolute(path), OPEN_DIRECTORY, IN_ROOT)
    except NotADirectoryError:
        raise InvalidArgumentError("extraction point is not a directory") from None
    try:
        if os.fstatvfs(target).f_flag & os.ST_RDONLY:
            what = "container rootfs" if _mount_id(target) == _mount_id(view) else "mounted volume"
            raise InvalidArgumentError(f"{what} is marked read-only")
    finally:
        os.close(target)


def _mount_id(fd: int) -> str:
    with open(f"/proc/self/fdinfo/{fd}") as lines:
        return next(line for line in lines if line.startswith("mnt_id:"))


class _Extractor(Extractor):
    """Members go below a directory of the container; links in their way lead where they lead in the container."""

    def __init__(self, view: int, wanted: Wanted, owner: tuple[int, int] | None) -> None:
        super().__init__(view)
        target = clean(os.fsencode(absolute(wanted.path)))
        self._lead = target + b"/" if target else b""
        self._keep_kinds = wanted.keep_kinds
        self._owner = owner

    def extract(self, entry: Entry, reader: TarReader) -> None:
        inside = clean(entry.name)
        if not inside and entry.type != DIRECTORY:
            raise ArchiveError(f"member {show(entry.name)} has no name")
        if not inside:
            return  # the directory itself stays as it is
        if self._owner is not None:
            entry.uid, entry.gid = self._owner
        path = self._lead + inside
        above, _, name = path.rpartition(b"/")
        self.make(path, name, self.parent(above), entry, reader)

    def make(self, path: bytes, name: bytes, parent: int, entry: Entry, reader: TarReader) -> None:
        if self._keep_kinds:
            self._check_kind(name, parent, entry)
        super().make(path, name, parent, entry, reader)

    def link_target(self, entry: Entry) -> bytes:
        return self._lead + clean(entry.linkname)

    @staticmethod
    def _check_kind(name: bytes, parent: int, entry: Entry) -> None:
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        is_directory, becomes = stat.S_ISDIR(status.st_mode), entry.type == DIRECTORY
        if is_directory and not becomes:
            raise InvalidArgumentError(f"cannot overwrite directory {show(entry.name)} with non-directory")
        if becomes and not is_directory:
            raise InvalidArgumentError(f"cannot overwrite non-directory {show(entry.name)} with directory")
