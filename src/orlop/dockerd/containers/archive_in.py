# SPDX-License-Identifier: Apache-2.0
"""Copy files into a container: `docker cp … CONTAINER:PATH`."""

import asyncio
import os
from typing import NamedTuple

from orlop.archive.extract import IN_ROOT, OPEN_DIRECTORY, clean, extract_all
from orlop.archive.relocate import RelocatingExtractor, Relocation
from orlop.archive.tar import ArchiveError
from orlop.containerd.client.tarstream import decompress
from orlop.dockerd import rootfs
from orlop.dockerd.containers.archive_out import explained
from orlop.dockerd.containers.bridge import Incoming
from orlop.dockerd.containers.path_stat import absolute
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.containers.remapping import Remapping
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

    def __init__(self, registry: Registry, views: Views, remapping: Remapping) -> None:
        self._registry = registry
        self._views = views
        self._remapping = remapping

    async def __call__(self, reference: str, wanted: Wanted, incoming: Incoming) -> None:
        """Extract a tar stream, which may be compressed, in a directory of a container.

        Raises NotFoundError (container, directory), ConflictError, InvalidArgumentError (no directory, read-only,
        malformed archive), ResourceExhaustedError, InternalError; what was extracted by then stays.
        """
        container = self._registry.get(reference)
        user = container.record.config.user if wanted.container_owner else ""
        outside = self._remapping.outside(container.record.host_config)

        def extract(view: int) -> None:
            with explained(wanted.path, reference):
                _check_target(view, wanted.path)
            owner = rootfs.resolve_user(view, user) if user else None
            relocation = Relocation(
                lead=clean(os.fsencode(absolute(wanted.path))),
                owner=(owner.uid, owner.gid) if owner else None,
                keep_kinds=wanted.keep_kinds,
                outside=outside,
            )
            extractor = RelocatingExtractor(view, relocation)
            try:
                extract_all(decompress(iter(incoming)), extractor)
            except ArchiveError as error:
                raise InvalidArgumentError(f"archive cannot be extracted: {error}") from None

        async with self._views.writing(container) as view:
            work = asyncio.ensure_future(asyncio.to_thread(extract, view))
            try:
                await asyncio.shield(work)  # a thread cannot be cancelled
            finally:
                if not work.done():
                    incoming.stop()
                    await asyncio.wait({work})
                    work.exception()
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
