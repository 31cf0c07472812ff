# SPDX-License-Identifier: Apache-2.0
"""Root file systems for the ids of a user namespace: by the snapshotter, else by changing every owner once."""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
from typing import TYPE_CHECKING

from orlop.ctr.labels import label_arguments
from orlop.ctr.mounting import mount_all, unmount_all
from orlop.errdefs import AlreadyExistsError, InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.api.types_pb2 import Mount
    from orlop.containerd.client.snapshots import Snapshots
    from orlop.ctr.flags import Values

UID_LABEL = "containerd.io/snapshot/uidmapping"
GID_LABEL = "containerd.io/snapshot/gidmapping"
_CAPABILITIES = "security.capability"
_REVISION_2, _REVISION_3 = 0x02, 0x03  # the last byte of the first word (linux/capability.h, VFS_CAP_REVISION)

Range = tuple[int, int, int]
"""First id inside, first id outside, how many."""


async def prepare_rootfs(snapshots: Snapshots, id: str, parent: str, values: Values) -> None:
    """The snapshot of a container on its image, for the ids that `uidmap` and `gidmap` give it.

    With `remap-labels` the snapshotter is told of the mappings. Raises InvalidArgumentError for one without the
    other.
    """
    labels = label_arguments(values["snapshotter-label"])
    uids, gids = values["uidmap"], values["gidmap"]
    if bool(uids) != bool(gids):
        raise InvalidArgumentError("uidmap and gidmap: expected both or none of them")
    if not uids:
        await snapshots.prepare(id, parent, labels)
    elif values["remap-labels"]:
        await snapshots.prepare(id, parent, {**labels, UID_LABEL: ",".join(uids), GID_LABEL: ",".join(gids)})
    else:
        remapped = await _remapped(snapshots, parent, ranges_of(uids), ranges_of(gids))
        await snapshots.prepare(id, remapped, labels)


def ranges_of(texts: Sequence[str]) -> list[Range]:
    """Mappings of the flags, which have been checked."""
    found = []
    for text in texts:
        inside, outside, size = map(int, text.split(":"))
        found.append((inside, outside, size))
    return found


async def _remapped(snapshots: Snapshots, parent: str, uids: Sequence[Range], gids: Sequence[Range]) -> str:
    """The committed snapshot of an image whose files belong to the mapped ids, made at its first use."""
    name = f"{parent}-{_name(uids)}-{_name(gids)}"
    try:
        await snapshots.stat(name)
        return name
    except NotFoundError:
        pass
    key = f"{name}-remap-{os.getpid()}"
    mounts = await snapshots.prepare(key, parent)
    try:

        def shift() -> None:
            root = tempfile.mkdtemp(prefix="orlop-ctr-")
            try:
                mount_all([_with_index(each) for each in mounts], root)
                try:
                    shift_owners(root, uids, gids)
                finally:
                    unmount_all(root)
            finally:
                os.rmdir(root)

        await asyncio.to_thread(shift)
        await snapshots.commit(name, key)
    except AlreadyExistsError:
        await snapshots.remove(key)  # another ctr was faster
    except BaseException:
        await snapshots.remove(key)
        raise
    return name


def _with_index(given: Mount) -> Mount:
    """The mount so that a file of several names stays one, where overlayfs would else copy each for itself."""
    made = type(given)()
    made.CopyFrom(given)
    made.options[:] = ["index=on" if option == "index=off" else option for option in given.options]
    return made


def _name(ranges: Sequence[Range]) -> str:
    return "_".join(f"{inside}.{outside}.{size}" for inside, outside, size in ranges)


def shift_owners(root: str, uids: Sequence[Range], gids: Sequence[Range]) -> None:
    """Give each file below `root` to the outside ids of its owner and group; modes and capabilities stay.

    A file of several names is changed once. Raises InvalidArgumentError for an owner that has no mapping.
    """
    changed: set[tuple[int, int]] = set()
    _shift(root, uids, gids)
    for directory, names, files, fd in os.fwalk(root, follow_symlinks=False):
        for name in (*names, *files):
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            path = os.path.join(directory, name)
            if (status.st_dev, status.st_ino) in changed:
                # An overlay has this name in the layer above only once it is written to by it.
                _own(path, status, status.st_uid, status.st_gid, _capabilities(path))
                continue
            _shift(path, uids, gids)
            if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                # As it is now: a change may have made another file of a name.
                status = os.lstat(path)
                changed.add((status.st_dev, status.st_ino))


def _shift(path: str, uids: Sequence[Range], gids: Sequence[Range]) -> None:
    status = os.lstat(path)
    capabilities = _capabilities(path)
    if capabilities:
        capabilities = _owned(capabilities, _outside(0, uids, path))
    _own(path, status, _outside(status.st_uid, uids, path), _outside(status.st_gid, gids, path), capabilities)


def _own(path: str, status: os.stat_result, uid: int, gid: int, capabilities: bytes) -> None:
    """Change the owner, and give the file back what chown(2) takes away."""
    os.lchown(path, uid, gid)
    if stat.S_ISREG(status.st_mode) and status.st_mode & (stat.S_ISUID | stat.S_ISGID):
        os.chmod(path, stat.S_IMODE(status.st_mode))
    if capabilities:
        os.setxattr(path, _CAPABILITIES, capabilities, follow_symlinks=False)


def _outside(id: int, ranges: Sequence[Range], path: str) -> int:
    for inside, outside, size in ranges:
        if inside <= id < inside + size:
            return outside + id - inside
    raise InvalidArgumentError(f"{path}: its owner or group {id} has no mapping")


def _capabilities(path: str) -> bytes:
    try:
        return os.getxattr(path, _CAPABILITIES, follow_symlinks=False)
    except OSError:
        return b""  # it has none


def _owned(value: bytes, root: int) -> bytes:
    """Capabilities of a file for the user namespace whose root is `root` outside."""
    if value[3] not in (_REVISION_2, _REVISION_3):
        return value
    return value[:3] + bytes([_REVISION_3]) + value[4:20] + root.to_bytes(4, "little")
