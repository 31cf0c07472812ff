# SPDX-License-Identifier: Apache-2.0
"""The tmpfs that containers of one IPC namespace share as /dev/shm."""

import errno
import os

from orlop.unix.mount import MNT_DETACH, MS_NODEV, MS_NOEXEC, MS_NOSUID, UMOUNT_NOFOLLOW, mount, umount2


def mount_shm(path: str, size: int) -> None:
    """Mount a fresh tmpfs of `size` bytes at `path`. Raises OSError."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    unmount_shm(path)
    mount("shm", path, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, f"mode=1777,size={size}")


def unmount_shm(path: str) -> None:
    """Unmount it; no error if it is not mounted."""
    try:
        umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise
