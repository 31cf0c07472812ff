# SPDX-License-Identifier: Apache-2.0
"""The mount manager: carries out what `mount_plan` makes of requests, below the daemon's volatile directory.

An activation is a directory by number; its mounts lie in 0, 1, … below it, made in that order.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

from orlop.api.types_pb2 import ActivationInfo, ActiveMount
from orlop.containerd.core import labels
from orlop.containerd.core.mount import Mount, to_proto
from orlop.containerd.failpoints import failpoint
from orlop.containerd.plugins.mount_plan import Active, Directory, Image, count_ours, transformed
from orlop.containerd.plugins.runtime.bundle import unmount_all
from orlop.containerd.threads import in_thread
from orlop.errdefs import FailedPreconditionError, InvalidArgumentError, NotImplementedByUsError, OrlopError
from orlop.unix import fs
from orlop.unix import mount as unix_mount

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

    from orlop.containerd.core.activations import Request
    from orlop.containerd.core.namespaces import Scope
    from orlop.containerd.metadata.activations import Entry, MetadataActivations

log = logging.getLogger("containerd.mounts")

DIRECTORY = "io.containerd.mount-manager.v1"
MOUNTS_MAX = 128  # of one activation
NAME_MAX = 4096


class LocalMounts:
    """Implements `core.activations.MountManager`. Mounts are made and removed in worker threads."""

    def __init__(self, root: str, state: str, store: MetadataActivations, workers: Executor) -> None:
        """File systems are made in files below `root` and `state` only."""
        self._roots = (root, state)
        self._base = os.path.join(state, DIRECTORY)
        self._store = store
        self._workers = workers
        os.makedirs(self._base, 0o700, exist_ok=True)

    async def activate(self, scope: Scope, request: Request) -> ActivationInfo:
        """As the contract says."""
        if not 0 < len(request.name) <= NAME_MAX:  # clients name them after paths
            raise InvalidArgumentError(f"mount name: expected 1 to {NAME_MAX} characters")
        labels.validate(request.labels)
        ours = count_ours(request.mounts, temporary=request.temporary)
        if ours is None:
            raise NotImplementedByUsError("none of the mounts needs the mount manager")
        if len(request.mounts) > MOUNTS_MAX:
            raise InvalidArgumentError(f"mounts: more than {MOUNTS_MAX}")
        number = self._store.begin(scope, request.name)
        failpoint("mount.activate.after_record")
        try:
            active, system = await in_thread(self._workers, lambda: self._mount(number, request.mounts, ours))
        except BaseException:
            self._clear(number)  # also what was mounted before the caller went away
            self._store.remove(number)
            raise
        failpoint("mount.activate.after_mount")
        if request.temporary and active:
            system = [Mount("bind", active[-1].point, ("rbind",))]
        info = _info(request, active, system)
        self._store.complete(number, info)
        return info

    def _mount(self, number: int, mounts: Sequence[Mount], ours: int) -> tuple[list[Active], list[Mount]]:
        """Make the first mounts; those that are left, the first of them transformed."""
        place = os.path.join(self._base, str(number))
        os.mkdir(place, 0o700)
        active: list[Active] = []
        for index, wanted in enumerate(mounts[:ours]):
            mount, needed = transformed(wanted, active)
            self._make(number, needed)
            point = os.path.join(place, str(index))
            _attach(mount, point)
            active.append(Active(mount, point))
        system = list(mounts[ours:])
        if system:
            system[0], needed = transformed(system[0], active)
            self._make(number, needed)
        return active, system

    def _make(self, number: int, needed: Sequence[Directory | Image]) -> None:
        """Make directories, only inside our mounts: what lies there may hold links that lead out; and images."""
        base = os.path.join(self._base, str(number)) + "/"
        for wanted in needed:
            if isinstance(wanted, Image):
                from orlop.containerd.plugins.images_of_file_systems import make_image

                make_image(wanted, self._roots)
                continue
            index, _, below = wanted.path.removeprefix(base).partition("/")
            if not wanted.path.startswith(base) or not index.isdigit():
                raise InvalidArgumentError(f"mount option mkdir: {wanted.path} is in none of the mounts before it")
            try:
                root = os.open(base + index, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    _mkdir(root, below, wanted)
                finally:
                    os.close(root)
            except OSError as error:
                raise InvalidArgumentError(f"make directory {wanted.path}: {error.strerror}") from None

    async def deactivate(self, namespace: str, name: str) -> None:
        """As the contract says."""
        info = self._store.get(namespace, name)
        entry = self._store.find(namespace, name)
        points = [mount.mount_point for mount in info.active]
        await in_thread(self._workers, lambda: self._unmount(entry.number, points))
        failpoint("mount.deactivate.after_unmount")
        self._store.remove(entry.number)

    def _unmount(self, number: int, points: Sequence[str]) -> None:
        for done, point in enumerate(reversed(points)):
            try:
                unix_mount.umount2(point, unix_mount.UMOUNT_NOFOLLOW)
            except OSError as error:
                if not unix_mount.mounts_on(point):
                    continue  # an earlier try has unmounted it
                raise FailedPreconditionError(
                    f"unmount {point}: {error.strerror} ({done} of {len(points)} are unmounted)"
                ) from None
        self._clear(number)

    def _clear(self, number: int) -> None:
        """Unmount whatever is left of an activation, and remove its directory."""
        place = os.path.join(self._base, str(number))
        unmount_all(place)
        for name in os.listdir(place) if os.path.isdir(place) else ():
            os.rmdir(os.path.join(place, name))
        if os.path.isdir(place):
            os.rmdir(place)

    def get(self, namespace: str, name: str) -> ActivationInfo:
        """As the contract says."""
        return self._store.get(namespace, name)

    def update(self, namespace: str, info: ActivationInfo, paths: Sequence[str]) -> ActivationInfo:
        """As the contract says."""
        return self._store.update(namespace, info, paths)

    def list(self, namespace: str, filters: Sequence[str] = ()) -> list[ActivationInfo]:
        """As the contract says."""
        return self._store.list(namespace, filters)

    def settle(self) -> None:
        """At the daemon's start: undo what is half-made, and forget what a reboot has taken."""
        known = self._store.all()
        for number, info in known.items():
            if info is None or not all(unix_mount.mounts_on(mount.mount_point) for mount in info.active):
                self._clear(number)
                self._store.remove(number)
        for name in os.listdir(self._base):
            if int(name) not in known:
                self._clear(int(name))

    def release_abandoned(self) -> None:
        """Deactivate what was made under leases that have ended, in a worker thread."""
        for entry in self._store.abandoned():
            self._workers.submit(self._release, entry)
            self._store.remove(entry.number)

    def _release(self, entry: Entry) -> None:
        try:
            self._clear(entry.number)
        except (OrlopError, OSError) as error:
            log.error("mount %s/%s of an ended lease: %s", entry.namespace, entry.name, error)


def _attach(mount: Mount, point: str) -> None:
    try:
        fd = unix_mount.detached_mount(mount.type, mount.source, mount.options)
    except OSError as error:
        raise InvalidArgumentError(f"mount {mount.type} {mount.source}: {error.strerror}") from None
    try:
        os.mkdir(point, 0o700)
        target = os.open(point, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            unix_mount.attach(fd, target)
        finally:
            os.close(target)
    finally:
        os.close(fd)


def _mkdir(root: int, below: str, wanted: Directory) -> None:
    parent, _, name = below.rpartition("/")
    if name in ("", ".", ".."):
        raise InvalidArgumentError(f"mount option mkdir: {wanted.path} names no directory in a mount")
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    directory = fs.openat2(root, parent or ".", flags, fs.RESOLVE_BENEATH | fs.RESOLVE_NO_SYMLINKS)
    try:
        os.mkdir(name, wanted.mode, dir_fd=directory)
        os.chmod(name, wanted.mode, dir_fd=directory)
        if wanted.uid is not None:
            os.chown(name, wanted.uid, wanted.gid or 0, dir_fd=directory, follow_symlinks=False)
    except FileExistsError:
        pass  # that is what is asked for
    finally:
        os.close(directory)


def _info(request: Request, active: Sequence[Active], system: Sequence[Mount]) -> ActivationInfo:
    info = ActivationInfo(name=request.name, labels=labels.checked(request.labels), system=to_proto(system))
    for one in active:
        message = ActiveMount(mount=to_proto([one.mount])[0], mount_point=one.point)
        message.mounted_at.FromNanoseconds(time.time_ns())
        info.active.append(message)
    return info
