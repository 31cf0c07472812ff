# SPDX-License-Identifier: Apache-2.0
"""Who a container runs as: looked up in its root filesystem, or known from another one of the same image."""

import asyncio
import copy
import os
from collections.abc import Sequence

from orlop.dockerd import rootfs
from orlop.oci.runtime import User

_KEPT = 256
_Key = tuple[tuple[tuple[str, int, int, int], ...], str, tuple[str, ...]]


class Users:
    """The users of the layers that have been looked into of late."""

    def __init__(self) -> None:
        self._known: dict[_Key, User] = {}

    async def resolve(
        self, mounts: Sequence[rootfs.SnapshotMount], user: str, group_add: Sequence[str] | None
    ) -> User:
        """As `rootfs.resolve_user`, in the root filesystem that these mounts make up."""
        if not rootfs.needs_rootfs(user, group_add):
            return rootfs.resolve_user(None, user, group_add)
        layers = _untouched(mounts)
        key = None if layers is None else (layers, user, tuple(group_add or ()))
        if key is not None and key in self._known:
            return copy.deepcopy(self._known[key])
        found = await asyncio.to_thread(_look_up, mounts, user, group_add)
        if key is not None:
            self._known[key] = copy.deepcopy(found)
            if len(self._known) > _KEPT:
                del self._known[next(iter(self._known))]
        return found


def _look_up(mounts: Sequence[rootfs.SnapshotMount], user: str, group_add: Sequence[str] | None) -> User:
    with rootfs.opened(mounts) as root:
        return rootfs.resolve_user(root, user, group_add)


def _untouched(mounts: Sequence[rootfs.SnapshotMount]) -> tuple[tuple[str, int, int, int], ...] | None:
    """The layers of an image below a container that has written nothing yet; None for any other.

    Those do not change; a directory that has been made anew by the same name is told by its inode and its times.
    """
    if len(mounts) != 1 or mounts[0].type != "overlay":
        return None
    upper, *lower = rootfs.overlay_layers(mounts[0].options)
    try:
        if not any(option.startswith("upperdir=") for option in mounts[0].options) or os.listdir(upper):
            return None
        found = [(layer, os.stat(layer)) for layer in lower]
    except OSError:
        return None  # whoever opens it says what is wrong
    return tuple((layer, status.st_dev, status.st_ino, status.st_ctime_ns) for layer, status in found)
