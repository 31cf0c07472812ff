# SPDX-License-Identifier: Apache-2.0
"""What the snapshot drivers share: numbered directories, their size, and their removal."""

import os
import stat

from orlop.archive import remove
from orlop.containerd.core.snapshots import Usage
from orlop.containerd.failpoints import failpoint


class NumberedDirectories:
    """`<root>/snapshots/<number>`, nobody but root may look inside.

    A directory is made under another name and renamed when it is whole; removal renames it back first. So a number
    is there whole or not at all, whenever the power went.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.snapshots = os.path.join(root, "snapshots")
        os.makedirs(self.snapshots, mode=0o700, exist_ok=True)
        os.chmod(root, 0o700)

    def path(self, number: int) -> str:
        """The directory of a snapshot."""
        return f"{self.snapshots}/{number}"

    def staging(self, number: int) -> str:
        """Where a directory is made before it gets its number, or ends after it lost it."""
        return f"{self.snapshots}/new-{number}"

    def numbers(self) -> set[int]:
        """All numbers that have something on the disk."""
        return {int(name.removeprefix("new-")) for name in os.listdir(self.snapshots)}

    def complete(self) -> set[int]:
        """The numbers whose directory is whole."""
        return {int(name) for name in os.listdir(self.snapshots) if name.isdigit()}

    def delete(self, number: int) -> None:
        """Delete both directories of a number; it is no error when there are none."""
        staging = self.staging(number)
        remove_tree(staging)
        try:
            os.rename(self.path(number), staging)
        except FileNotFoundError:
            return
        failpoint("snapshot.remove.after_hide")
        remove_tree(staging)
        failpoint("snapshot.remove.after_delete")


def remove_tree(path: str) -> None:
    """Delete a tree without following links; it is no error when it is not there."""
    try:
        remove.remove_tree(path)
    except FileNotFoundError:
        if os.path.lexists(path):
            raise


def disk_usage(root: str) -> Usage:
    """Bytes (allocated blocks) and inodes below and with `root`; a file with several links counts once."""
    size = 0
    seen: set[tuple[int, int]] = set()
    inodes = 0
    todo = [root]
    entries = [os.lstat(root)]
    while todo:
        with os.scandir(todo.pop()) as scan:
            for entry in scan:
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    todo.append(entry.path)
                elif status.st_nlink > 1:
                    identity = (status.st_dev, status.st_ino)
                    if identity in seen:
                        continue
                    seen.add(identity)
                entries.append(status)
        for status in entries:
            size += status.st_blocks * 512
        inodes += len(entries)
        entries.clear()
    return Usage(size, inodes)
