# SPDX-License-Identifier: Apache-2.0
"""Mounts that come to a container, or go, while it may be running.

The source is cloned as a detached mount and moved to its place in the container's mount namespace (open_tree(2),
move_mount(2)); a stopped container only has it written down. What is written down follows what has been done, and
both can be done again: after a crash in between, the request can be repeated.
"""

import asyncio
import errno
import os
import posixpath
import stat
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import msgspec

from orlop.archive.extract import IN_ROOT
from orlop.containerd.client import Client
from orlop.dockerd.containers.bound import Bound, clone_source, open_mount_target
from orlop.dockerd.containers.container import Container
from orlop.dockerd.containers.ports import Volumes
from orlop.dockerd.containers.remapping import Remapping
from orlop.dockerd.containers.running import lives, opened
from orlop.dockerd.events import Events
from orlop.dockerd.spec.mountpoint import MountPoint
from orlop.dockerd.spec.mounts import create_source, parse_bind, parse_mount
from orlop.engine.types import Mount
from orlop.errdefs import ConflictError, InternalError, InvalidArgumentError, NotFoundError
from orlop.unix import fs, mount
from orlop.unix.mntns import in_mount_namespace


class LiveMounts:
    """Both calls want the container's lock to be held, and leave saving the record to the caller."""

    def __init__(self, client: Client, volumes: Volumes, events: Events, remapping: Remapping) -> None:
        self._client = client
        self._volumes = volumes
        self._events = events
        self._remapping = remapping

    async def add(self, container: Container, mounts: list[Mount]) -> None:
        """Raises InvalidArgumentError, ConflictError (the place is taken), InternalError; then none is there."""
        record = container.record
        asked = [_parse(one) for one in mounts]
        _check_places(container, asked)
        for point in asked:
            create_source(point)
        points = await asyncio.to_thread(lambda: [self._volumes.resolve(point, record.id) for point in asked])
        if lives(container):
            await self._attach(container, points)
        kept = msgspec.structs.replace(record.host_config, mounts=[*record.host_config.mounts, *mounts])
        record.host_config = kept
        record.mounts = sorted([*record.mounts, *points], key=lambda point: point.destination)
        self._tell("mount", container, points)

    async def remove(self, container: Container, destinations: list[str]) -> None:
        """A volume stays, and so does what processes have open. Raises NotFoundError, InternalError."""
        record = container.record
        wanted = {posixpath.normpath(destination) for destination in destinations}
        points = [point for point in record.mounts if point.destination in wanted]
        if missing := wanted - {point.destination for point in points}:
            raise NotFoundError(f"container {record.id} has no mount at {min(missing)}")
        if lives(container):
            # Inner ones first: an outer one would take them along.
            for point in sorted(points, key=lambda point: point.destination, reverse=True):
                await self._in_container(container, partial(_detach, point=point, source=_identity(point.source)))
        record.mounts = [point for point in record.mounts if point.destination not in wanted]
        config = record.host_config
        record.host_config = msgspec.structs.replace(
            config,
            mounts=[one for one in config.mounts if posixpath.normpath(one.target) not in wanted],
            binds=[raw for raw in config.binds or [] if parse_bind(raw).destination not in wanted],
        )
        await self._let_go(container, points)
        self._tell("unmount", container, points)

    async def _attach(self, container: Container, points: list[MountPoint]) -> None:
        done: list[MountPoint] = []
        remap = self._remapping.of(container.record.host_config)
        owner = remap.root if remap else (0, 0)
        try:
            for point in points:
                done.append(point)
                if point.type == "volume":
                    await asyncio.to_thread(self._volumes.mount, point.name, container.id)
                with ExitStack() as stack:
                    tree = _clone(point)
                    stack.callback(os.close, tree)
                    await self._in_container(container, partial(_put, point=point, tree=tree, owner=owner))
        except BaseException:
            for point in reversed(done):
                await self._in_container(container, partial(_detach, point=point, source=_identity(point.source)))
            await self._let_go(container, done)
            for point in points:
                if point.anonymous:
                    await asyncio.to_thread(self._volumes.remove, point.name, True)
            raise

    async def _in_container(self, container: Container, work: Callable[[int], None]) -> None:
        async with opened(self._client, container) as (namespace, root):
            await asyncio.to_thread(in_mount_namespace, lambda: work(root), namespace)

    async def _let_go(self, container: Container, points: list[MountPoint]) -> None:
        """Volumes that the container has mounted nowhere any more."""
        still = {point.name for point in container.record.mounts}
        for name in {point.name for point in points if point.type == "volume"} - still:
            await asyncio.to_thread(self._volumes.unmount, name, container.id)

    def _tell(self, action: str, container: Container, points: list[MountPoint]) -> None:
        for point in points:
            if point.type == "volume":
                about = {"container": container.id, "driver": point.driver, "destination": point.destination}
                self._events.publish("volume", action, point.name, about)


def _parse(asked: Mount) -> MountPoint:
    point = parse_mount(asked)
    if point.type not in ("bind", "volume"):
        raise InvalidArgumentError(f"mount {point.destination}: type {point.type}: expected bind or volume")
    if asked.owner is not None:
        raise InvalidArgumentError(f"mount {point.destination}: uid and gid: only `create` and `run` take them")
    point.copy_data = False  # nothing of a running container is hidden but by what it sees
    return point


def _check_places(container: Container, points: list[MountPoint]) -> None:
    taken = {point.destination for point in container.record.mounts} | set(container.record.host_config.tmpfs)
    for point in points:
        if point.destination in taken:
            raise ConflictError(f"Duplicate mount point: {point.destination}")
        taken.add(point.destination)


def _clone(point: MountPoint) -> int:
    options = point.spec.bind_options if point.spec else None
    recursive = not (options and options.non_recursive)
    try:
        return clone_source(Bound(point.destination, point.source, point.rw, recursive))
    except OSError as error:
        raise InternalError(f"error mounting {point.source}: {os.strerror(error.errno or 0).lower()}") from None


def _put(root: int, point: MountPoint, tree: int, owner: tuple[int, int]) -> None:
    """In the container's mount namespace: move the detached mount to its place, made for `owner` if missing."""
    is_directory = stat.S_ISDIR(os.fstat(tree).st_mode)
    try:
        target = open_mount_target(root, point.destination, is_directory=is_directory, create_for=owner)
        try:
            mount.attach(tree, target)
        finally:
            os.close(target)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise InternalError(f"error mounting {point.source} at {point.destination}: {reason}") from None


def _identity(path: str) -> tuple[int, int] | None:
    """Device and inode; None for a source that is gone from the host."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _detach(root: int, point: MountPoint, source: tuple[int, int] | None) -> None:
    """In the container's mount namespace: take away what was mounted there, if it is what still is there."""
    above, name = posixpath.split(point.destination)
    try:
        directory = fs.openat2(root, above, os.O_PATH | os.O_DIRECTORY, IN_ROOT)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        there = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if source is not None and (there.st_dev, there.st_ino) != source:
            return  # it was never there, or the container has taken it away itself
        os.fchdir(directory)  # the thread's own, see in_mount_namespace
        mount.umount2(name, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL):  # EINVAL: not a mount point
            return
        reason = os.strerror(error.errno or 0).lower()
        raise InternalError(f"error unmounting {point.destination}: {reason}") from None
    finally:
        os.close(directory)
