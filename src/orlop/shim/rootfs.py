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
        fd = mount.detached_mount(wanted.type, wanted.source, list(wanted.options))
        try:
            mount.attach(fd, target)
        finally:
            os.close(fd)
    finally:
        os.close(target)


def unmount_all(rootfs: str) -> None:
    """Unmount everything on `rootfs`; fine when nothing is."""
    while True:
        try:
            mount.umount2(rootfs, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return
            raise
