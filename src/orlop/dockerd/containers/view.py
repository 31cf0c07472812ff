# SPDX-License-Identifier: Apache-2.0
"""A container's files as the container sees them, running or not, as a detached tree of mounts.

A running container's mounts are cloned out of its own mount namespace; for a stopped one the mounts that its start
would make (root filesystem, volumes, binds, its files in /etc) are put together. Either way the result is one
directory descriptor: nothing of it is in any mount table, what the container mounts or unmounts later does not
change it, and no device node in it can be opened. Paths in it are resolved with RESOLVE_IN_ROOT, so a link that a
container puts in the way, before or while it is used, leads nowhere but into the container.
"""

import asyncio
import errno
import os
import posixpath
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import NamedTuple

from orlop.containerd.client import Client
from orlop.dockerd import rootfs, userns
from orlop.dockerd.containers.bound import Bound, NoMountTargetError, clone_source, open_mount_target
from orlop.dockerd.containers.container import Container
from orlop.dockerd.containers.paths import Paths
from orlop.dockerd.containers.ports import Volumes
from orlop.dockerd.containers.remapping import Remapping
from orlop.dockerd.containers.running import lives, opened
from orlop.dockerd.userns import Remap
from orlop.errdefs import ConflictError, InternalError, InvalidArgumentError
from orlop.unix import idmap, mount
from orlop.unix.mntns import clone_tree, in_mount_namespace

_OWN_FILES = ("resolv.conf", "hostname", "hosts")


class Views:
    """Opens views. A descriptor that it gives is the caller's to close."""

    def __init__(self, client: Client, volumes: Volumes, paths: Paths, remapping: Remapping) -> None:
        self._client = client
        self._volumes = volumes
        self._paths = paths
        self._remapping = remapping

    async def reading(self, container: Container) -> int:
        """Read-only, everything with its mounts. Raises ConflictError, InternalError, InvalidArgumentError."""
        async with container.lock:
            _check(container)
            return await self._open(container, writable=False)

    @asynccontextmanager
    async def writing(self, container: Container) -> AsyncIterator[int]:
        """Writable where the container may write. A stopped container does not start meanwhile."""
        async with container.lock:
            _check(container)
            live = lives(container)
            view = await self._open(container, writable=True)
            if not live:
                try:
                    yield view
                finally:
                    os.close(view)
                return
        try:
            yield view
        finally:
            os.close(view)

    async def root(self, container: Container) -> int:
        """Read-only, the root filesystem alone: under mount points is what the layers have there."""
        async with container.lock:
            _check(container)
            if lives(container):
                return await self._clone(container, mount.MOUNT_ATTR_RDONLY, recursive=False)
            mounts = await self.mounts(container)
            return await asyncio.to_thread(_open_root, mounts, False, False)

    async def mounts(self, container: Container) -> Sequence[rootfs.SnapshotMount]:
        """The mounts of the container's snapshot."""
        if container.rootfs is None:
            snapshots = self._client.snapshots(container.record.snapshotter)
            container.rootfs = await snapshots.mounts(container.id)
        return container.rootfs

    async def _open(self, container: Container, *, writable: bool) -> int:
        if lives(container):
            return await self._clone(container, 0 if writable else mount.MOUNT_ATTR_RDONLY, recursive=True)
        return await self._assemble(container, writable)

    async def _clone(self, container: Container, attributes: int, *, recursive: bool) -> int:
        wanted = attributes | mount.MOUNT_ATTR_NODEV
        async with opened(self._client, container) as (namespace, root):
            return await asyncio.to_thread(
                in_mount_namespace,
                lambda: clone_tree(root, attributes=wanted, recursive=recursive),
                namespace,
            )

    async def _assemble(self, container: Container, writable: bool) -> int:
        record = container.record
        mounts = await self.mounts(container)
        bound = _bound(container, self._paths)
        names = [point.name for point in record.mounts if point.type == "volume"]
        scaffold = str(self._paths.data(container.id))
        readonly = record.host_config.readonly_rootfs
        plan = _Plan(mounts, bound, scaffold, self._remapping.of(record.host_config))

        def assemble() -> int:
            held: list[str] = []
            try:
                for name in names:
                    self._volumes.mount(name, container.id)
                    held.append(name)
                try:
                    return in_mount_namespace(lambda: _put_together(plan, writable, readonly))
                except NoMountTargetError:
                    # The first start would make it: so does the first look.
                    os.close(in_mount_namespace(lambda: _put_together(plan, True, False)))
                    return in_mount_namespace(lambda: _put_together(plan, writable, readonly))
            except OSError as error:
                reason = f"{os.strerror(error.errno or errno.EIO)}: {error.filename or 'root filesystem'}"
                raise InternalError(f"cannot open the files of container {container.id}: {reason}") from None
            finally:
                for name in held:
                    self._volumes.unmount(name, container.id)

        return await asyncio.to_thread(assemble)


def _check(container: Container) -> None:
    state = container.record.state
    if state.removing or state.dead:
        raise ConflictError(f"container {container.id} is marked for removal")


def _bound(container: Container, paths: Paths) -> list[Bound]:
    """The user's volumes and binds, and the files that the daemon keeps, outer ones first."""
    record = container.record
    found = []
    for point in record.mounts:
        if point.type in ("bind", "volume"):
            options = point.spec.bind_options if point.spec else None
            recursive = not (options and options.non_recursive)
            found.append(Bound(point.destination, point.source, point.rw, recursive))
    taken = {bound.destination for bound in found}
    for name in _OWN_FILES:
        source = paths.file(container.id, name)
        if f"/etc/{name}" not in taken and os.path.exists(source):
            found.append(Bound(f"/etc/{name}", source, not record.host_config.readonly_rootfs))
    return sorted(found, key=lambda bound: posixpath.normpath(bound.destination).count("/"))


class _Plan(NamedTuple):
    """What a stopped container's tree is made of, and how its ids are mapped."""

    mounts: Sequence[rootfs.SnapshotMount]
    bound: list[Bound]
    scaffold: str
    remap: Remap | None


def _put_together(plan: _Plan, writable: bool, readonly: bool) -> int:
    """The detached tree of a stopped container; runs in a mount namespace that is thrown away."""
    with ExitStack() as stack:
        trees = []
        for one in plan.bound:  # all before the first is attached: a source may lie below the scaffold
            trees.append(clone_source(one))
            stack.callback(os.close, trees[-1])
        if writable and plan.remap is not None:
            root = _open_mapped_root(plan.mounts, plan.remap, readonly)
        else:
            root = _open_root(plan.mounts, writable, readonly)
        stack.callback(os.close, root)
        place = os.open(plan.scaffold, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, place)
        mount.attach(root, place)
        owner = plan.remap.root if plan.remap is not None else (0, 0)
        for one, tree in zip(plan.bound, trees, strict=True):
            is_directory = stat.S_ISDIR(os.fstat(tree).st_mode)
            owned = owner if writable and not readonly else None
            target = open_mount_target(root, one.destination, is_directory=is_directory, create_for=owned)
            stack.callback(os.close, target)
            mount.attach(tree, target)
        attributes = mount.MOUNT_ATTR_NODEV | (0 if writable else mount.MOUNT_ATTR_RDONLY)
        return clone_tree(root, attributes=attributes)


def _open_root(mounts: Sequence[rootfs.SnapshotMount], writable: bool, readonly: bool) -> int:
    """The detached root filesystem. Read-only, the directory that is written to is but one more layer."""
    if len(mounts) != 1:
        raise InvalidArgumentError(f"root filesystem: one mount expected, not {len(mounts)}")
    (snapshot,) = mounts
    if snapshot.type not in ("bind", "rbind", "overlay"):
        raise InvalidArgumentError(f"root filesystem: mounts of type {snapshot.type!r} are not supported")
    options = list(snapshot.options)
    if snapshot.type == "overlay" and not writable:
        layers = rootfs.overlay_layers(options)
        if len(layers) == 1:
            return mount.detached_mount("bind", layers[0], ["ro", "nodev"])
        kept = [option for option in options if not option.startswith(("lowerdir=", "upperdir=", "workdir="))]
        lower = ":".join(layer.replace("\\", "\\\\").replace(":", "\\:") for layer in layers)
        options = [f"lowerdir={lower}", *kept, "ro", "nodev"]
    elif readonly or not writable:
        options.append("ro")
    return mount.detached_mount(snapshot.type, snapshot.source, options)


def _open_mapped_root(mounts: Sequence[rootfs.SnapshotMount], remap: Remap, readonly: bool) -> int:
    """The same to be written to, for a container in a user namespace: its layers with the ids that it sees."""
    (snapshot,) = mounts
    if snapshot.type != "overlay":
        raise InvalidArgumentError(f"userns-remap: root filesystems of type {snapshot.type!r} cannot be mapped")
    with userns.namespace(remap) as pid:
        namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            root = idmap.overlay_in(namespace, snapshot.options, remap.root)
        finally:
            os.close(namespace)
    if readonly:
        mount.mount_setattr(root, b"", mount.AT_EMPTY_PATH, attr_set=mount.MOUNT_ATTR_RDONLY)
    return root
