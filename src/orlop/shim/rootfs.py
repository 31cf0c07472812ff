# SPDX-License-Identifier: Apache-2.0
"""Mounts a task's root filesystem on the bundle, and takes it off again."""

import errno
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from orlop.errdefs import InvalidArgumentError
from orlop.unix import mount

if TYPE_CHECKING:
    from orlop.api.types_pb2 import Mount


def mount_all(mounts: "Sequence[Mount]", rootfs: str) -> None:
    """Mount each on `rootfs`, in order. Raises InvalidArgumentError, and leaves nothing mounted then."""
    if not mounts:
        return
    os.makedirs(rootfs, 0o711, exist_ok=True)
    try:
        for wanted in mounts:
            _mount(wanted, rootfs)
    except OSError as error:
        unmount_all(rootfs)
        said = error.strerror or str(error)
        raise InvalidArgumentError(
            f"failed to mount rootfs component: {error.filename or rootfs}: {said}"
        ) from None
    except BaseException:
        unmount_all(rootfs)
        raise


def _mount(wanted: "Mount", rootfs: str) -> None:
    target = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if wanted.target:
            inner = os.open(wanted.target.lstrip("/"), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
            os.close(target)
            target = inner
        fd = _detached(wanted)
        try:
            mount.attach(fd, target)
        finally:
            os.close(fd)
    finally:
        os.close(target)


def _detached(wanted: "Mount") -> int:
    """A detached mount; with `uidmap=` and `gidmap=`, as containerd has them, idmapped (an overlay's layers)."""
    options = list(wanted.options)
    maps = {option[:6]: option[7:] for option in options if option[:7] in ("uidmap=", "gidmap=")}
    if not maps:
        return mount.detached_mount(wanted.type, wanted.source, options)
    if wanted.type not in ("overlay", "bind") or len(maps) != 2:
        raise InvalidArgumentError(
            "idmapped root filesystems must be overlays or bind mounts with both uidmap and gidmap"
        )
    from orlop.unix import idmap

    rest = [option for option in options if option[:7] not in ("uidmap=", "gidmap=")]
    uids, gids = _ranges(maps["uidmap"]), _ranges(maps["gidmap"])
    if wanted.type == "overlay":
        return idmap.overlay(rest, uids, gids)
    made = mount.detached_mount(wanted.type, wanted.source, rest)
    try:
        idmap.map_mount(made, uids, gids)
    except BaseException:
        os.close(made)
        raise
    return made


def _ranges(text: str) -> list[tuple[int, int, int]]:
    ranges = []
    for part in text.split(","):
        words = part.split(":")
        if len(words) != 3 or not all(word.isascii() and word.isdigit() for word in words):
            raise InvalidArgumentError(f"invalid mapping of ids {part!r}: expected inside:outside:count")
        inside, outside, count = map(int, words)
        ranges.append((inside, outside, count))
    return ranges


def may_end_later(mounts: "Sequence[Mount]") -> bool:
    """Whether these may live on, in no mount table, when the task is gone.

    Overlays that allow their upper directory to be mounted anew, with all layers in one file system: not what has
    a device of its own, which whoever is told that the task is gone may remove.
    """
    return bool(mounts) and all(map(_is_plain_overlay, mounts))


def _is_plain_overlay(wanted: "Mount") -> bool:
    if wanted.type != "overlay" or "index=off" not in wanted.options:
        return False
    layers = [
        layer
        for name, _, value in (option.partition("=") for option in wanted.options)
        if name in ("lowerdir", "lowerdir+", "datadir+", "upperdir")
        for layer in value.split(":")
    ]
    try:
        return len({os.stat(layer).st_dev for layer in layers}) == 1
    except OSError:
        return False


def take_off(rootfs: str) -> int:
    """Unmount, but let the file system live until the descriptor that is given back is closed.

    The end of an overlay is a syncfs(2) of what its upper directory is on: it takes as long as the disk is busy.
    """
    held = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        unmount_all(rootfs)
    except BaseException:
        os.close(held)
        raise
    return held


def unmount_all(rootfs: str) -> None:
    """Unmount everything on `rootfs`; fine when nothing is."""
    while True:
        try:
            mount.umount2(rootfs, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return
            raise
