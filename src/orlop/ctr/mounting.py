# SPDX-License-Identifier: Apache-2.0
"""The mounts of snapshots on directories of the host."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from orlop.errdefs import InternalError
from orlop.unix.mount import MNT_DETACH, MS_BIND, MS_RDONLY, MS_REC, MS_REMOUNT, mount, umount2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orlop.api.types_pb2 import Mount

_FLAGS = {"ro": MS_RDONLY, "rw": 0, "bind": MS_BIND, "rbind": MS_BIND | MS_REC}


def mount_all(mounts: Iterable[Mount], target: str) -> None:
    """Mount one after the other on `target`; all of them or none. Raises InternalError."""
    done = 0
    try:
        for each in mounts:
            flags, data = 0, []
            for option in each.options:
                if option in _FLAGS:
                    flags |= _FLAGS[option]
                else:
                    data.append(option)
            mount(each.source, target, each.type, flags, ",".join(data))
            done += 1
            if flags & MS_BIND and flags & MS_RDONLY:  # the first call of a bind does not look at that
                mount("", target, "", flags | MS_REMOUNT)
    except OSError as error:
        unmount_all(target, done)
        raise InternalError(f"mount on {target}: {os.strerror(error.errno or 0).lower()}") from None


def unmount_all(target: str, limit: int = 64) -> None:
    """Take away what is mounted on `target`; nothing need be. Raises InternalError."""
    for _ in range(limit):
        try:
            umount2(target, MNT_DETACH)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINVAL):  # it is no mount point (any more)
                return
            raise InternalError(f"unmount {target}: {os.strerror(error.errno or 0).lower()}") from None
