# SPDX-License-Identifier: Apache-2.0
"""What a container has changed in its image's files: `docker diff`."""

import asyncio
import os
import secrets
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import NamedTuple

from orlop.api.types_pb2 import Mount
from orlop.containerd.client import Client
from orlop.dockerd import rootfs
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.containers.view import Views
from orlop.errdefs import ConflictError

MODIFIED, ADDED, DELETED = 0, 1, 2

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MARKS = {f"{by}.overlay.{mark}" for by in ("trusted", "user") for mark in ("opaque", "redirect")}
# What a start makes for its mounts, which Docker has in a layer that it does not show.
_MOUNT_POINTS = frozenset(
    (
        "/.dockerenv", "/dev/console", "/dev/pts", "/dev/shm", "/dev/mqueue", "/etc/hostname", "/etc/hosts",
        "/etc/mtab", "/etc/resolv.conf", "/proc", "/sys",
    )
)  # fmt: skip
_ABOVE_MOUNT_POINTS = frozenset(("/dev", "/etc"))


class Change(NamedTuple):
    """`kind` is MODIFIED, ADDED or DELETED."""

    path: str
    kind: int


class Changes:
    """The use case."""

    def __init__(self, registry: Registry, client: Client, views: Views) -> None:
        self._registry = registry
        self._client = client
        self._views = views

    async def __call__(self, reference: str) -> list[Change]:
        """All changes, by path. Raises NotFoundError, ConflictError."""
        container = self._registry.get(reference)
        async with container.lock:
            if container.record.state.removing or container.record.state.dead:
                raise ConflictError(f"container {container.id} is marked for removal")
            mounts = await self._views.mounts(container)
        below = _lower_layers(mounts)
        if below is not None:
            return await asyncio.to_thread(_compare, below, mounts)
        async with self._below(container.record.snapshotter, container.id) as parent:
            return await asyncio.to_thread(_compare, parent, mounts)

    @asynccontextmanager
    async def _below(self, snapshotter: str, key: str) -> AsyncIterator[Sequence[rootfs.SnapshotMount]]:
        """The mounts of what the container's snapshot stands on."""
        snapshots = self._client.snapshots(snapshotter)
        view = f"changes-{secrets.token_hex(8)}"
        mounts = await snapshots.view(view, (await snapshots.stat(key)).parent)
        try:
            yield mounts
        finally:
            await asyncio.shield(snapshots.remove(view))


def _lower_layers(mounts: Sequence[rootfs.SnapshotMount]) -> Sequence[rootfs.SnapshotMount] | None:
    """What an overlay stands on, as it says itself; None for another kind of mount."""
    if mounts[0].type != "overlay":
        return None
    kept = [option for option in mounts[0].options if not option.startswith(("upperdir=", "workdir="))]
    return [Mount(type="overlay", source="overlay", options=kept)]


def _compare(parent: Sequence[rootfs.SnapshotMount], own: Sequence[rootfs.SnapshotMount]) -> list[Change]:
    with rootfs.opened(parent) as lower, rootfs.opened(own) as upper, _delta(own) as delta:
        found = list(changes(lower, upper, delta))
    return sorted(without_mount_points(found))


@contextmanager
def _delta(mounts: Sequence[rootfs.SnapshotMount]) -> Iterator[int | None]:
    """The directory that holds only what is different, where the file system has one."""
    given = dict(option.partition("=")[::2] for option in mounts[0].options)
    if mounts[0].type != "overlay" or "upperdir" not in given:
        yield None
        return
    fd = os.open(given["upperdir"], _DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def changes(lower: int, upper: int, delta: int | None) -> Iterator[Change]:
    """What makes the tree open at `lower` into the one at `upper`; `delta` names all that can be different.

    A directory in which something has changed is MODIFIED; of what was deleted the topmost is told.
    """
    pending: list[str] = [""]
    while pending:
        inside = pending.pop()
        with _opened(lower, inside) as below, _opened(upper, inside) as above:
            if above is None:
                continue  # gone meanwhile
            with _opened(delta, inside) as only:
                yield from _directory(inside, below, above, only, pending)


def _directory(
    inside: str, below: int | None, above: int, only: int | None, pending: list[str]
) -> Iterator[Change]:
    new = set(os.listdir(above))
    old = set(os.listdir(below)) if below is not None else set()
    names = new | old
    if only is not None and below is not None and _MARKS.isdisjoint(os.listxattr(only)):
        names &= set(os.listdir(only))
    changed = False
    for name in names:
        path = f"{inside}/{name}"
        try:
            status = os.stat(name, dir_fd=above, follow_symlinks=False) if name in new else None
        except FileNotFoundError:
            continue
        before = os.stat(name, dir_fd=below, follow_symlinks=False) if name in old else None
        if status is None:
            yield Change(path, DELETED)
        elif before is None:
            yield Change(path, ADDED)
        elif _different(before, status):
            yield Change(path, MODIFIED)
        elif stat.S_ISDIR(status.st_mode):
            pending.append(path)
            continue
        else:
            continue
        changed = True
        if status is not None and stat.S_ISDIR(status.st_mode):
            pending.append(path)
    if changed and inside and below is not None:
        yield from (Change(parent, MODIFIED) for parent in _with_parents(inside))


def _with_parents(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition("/")[0]


def _different(old: os.stat_result, new: os.stat_result) -> bool:
    if (old.st_mode, old.st_uid, old.st_gid, old.st_rdev) != (new.st_mode, new.st_uid, new.st_gid, new.st_rdev):
        return True
    if stat.S_ISDIR(new.st_mode):
        return False
    return (old.st_size, old.st_mtime_ns) != (new.st_size, new.st_mtime_ns)


@contextmanager
def _opened(top: int | None, inside: str) -> Iterator[int | None]:
    """The directory `inside` of a tree, None where there is no such directory; no link is followed."""
    fd = top
    try:
        if top is not None:
            fd = os.open(".", _DIRECTORY, dir_fd=top)
            for name in inside.split("/")[1:]:
                parent = fd
                try:
                    fd = os.open(name, _DIRECTORY, dir_fd=parent)
                except (FileNotFoundError, NotADirectoryError, OSError):
                    fd = None
                os.close(parent)
                if fd is None:
                    break
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


def without_mount_points(found: list[Change]) -> list[Change]:
    """The changes without what starting the container made, and without a directory that only holds such."""
    kinds: dict[str, int] = {}
    for change in found:
        # A directory may have been told twice: as what it is itself, and as the parent of a change.
        kinds[change.path] = max(kinds.get(change.path, MODIFIED), change.kind)
    hidden = {path for path, kind in kinds.items() if path in _MOUNT_POINTS and kind == ADDED}
    left = {path: kind for path, kind in kinds.items() if path not in hidden}
    for above in _ABOVE_MOUNT_POINTS & left.keys():
        ours = any(path.startswith(above + "/") for path in hidden)
        others = any(path.startswith(above + "/") for path in left)
        if ours and not others:
            del left[above]
        elif ours and left[above] == ADDED:
            left[above] = MODIFIED
    return [Change(path, kind) for path, kind in left.items()]
