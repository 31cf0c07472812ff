# SPDX-License-Identifier: Apache-2.0
"""Work in another mount namespace, in a thread of its own: the process stays where it is."""

import os
import threading
from collections.abc import Callable
from typing import TypeVar

from orlop.unix import mount
from orlop.unix.process import CLONE_NEWNS, setns, unshare

T = TypeVar("T")

_CLONE_FS = 0x200


def in_mount_namespace(work: Callable[[], T], namespace: int | None = None) -> T:
    """What `work` returns, called in the mount namespace open at `namespace`, or (None) in a copy of ours.

    In a copy nothing propagates to or from ours, and it is gone afterwards: what is to last has to be a detached
    mount (open_tree(2)). Paths are those of the namespace. Blocks. Raises what `work` raises, OSError.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            if namespace is None:
                unshare(CLONE_NEWNS)
                mount.mount("", "/", "", mount.MS_REC | mount.MS_PRIVATE)
            else:
                unshare(_CLONE_FS)  # setns(2): a thread that shares its root and directory cannot join
                setns(namespace, CLONE_NEWNS)
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, name="mount-namespace")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def clone_tree(fd: int, *, attributes: int, recursive: bool = True) -> int:
    """A detached copy of the mounts from `fd` on, which must be of the calling thread's mount namespace.

    `attributes` (MOUNT_ATTR_*) are set on all of them; nothing that happens to the originals shows in the copy.
    """
    below = mount.AT_RECURSIVE if recursive else 0
    tree = mount.open_tree(fd, b"", mount.OPEN_TREE_CLONE | mount.AT_EMPTY_PATH | below)
    try:
        flags = mount.AT_EMPTY_PATH | below
        mount.mount_setattr(tree, b"", flags, attr_set=attributes, propagation=mount.MS_PRIVATE)
    except BaseException:
        os.close(tree)
        raise
    return tree
