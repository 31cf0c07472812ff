# SPDX-License-Identifier: Apache-2.0
"""Mounts a part of a volume where nobody can exchange it: for --mount volume-subpath.

A path inside a volume is under the hands of every container that has the volume. It is therefore resolved once, to
a descriptor that cannot lead out of the volume, and what that descriptor refers to is bound at a place of ours.
"""

import errno
import hashlib
import os
import stat
from pathlib import Path

from orlop.dockerd.volumes import local_mount
from orlop.errdefs import InvalidArgumentError
from orlop.unix import fs, mount

_INSIDE = fs.RESOLVE_BENEATH | fs.RESOLVE_NO_MAGICLINKS
_BIND = mount.OPEN_TREE_CLONE | mount.AT_RECURSIVE | mount.AT_EMPTY_PATH


def place_of(root: Path, container_id: str, destination: str) -> Path:
    """Where the part of a volume that a container has at `destination` is bound."""
    return root / ".subpaths" / container_id / hashlib.sha256(destination.encode()).hexdigest()[:32]


def bind(volume: str, subpath: str, place: Path) -> None:
    """Bind `subpath` of the volume whose content is at `volume`. Does nothing when that is done already.

    Raises InvalidArgumentError for a path that does not exist or leads out of the volume, OSError.
    """
    if local_mount.is_mounted(str(place)):
        return
    data = os.open(volume, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        part = fs.openat2(data, subpath, os.O_PATH, _INSIDE)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise InvalidArgumentError(f"subpath {subpath} leads out of the volume") from None
        reason = os.strerror(error.errno or 0).lower()
        raise InvalidArgumentError(f"cannot access path {volume}/{subpath}: {reason}") from None
    finally:
        os.close(data)
    try:
        _bind(part, place)
    finally:
        os.close(part)


def release(place: Path) -> None:
    """Undo `bind`; fine when nothing is there. Raises OSError."""
    local_mount.unmount_volume(str(place))
    try:
        if place.is_dir():
            place.rmdir()
        else:
            place.unlink()
        place.parent.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:  # other parts of volumes of the same container
            raise


def _bind(part: int, place: Path) -> None:
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if stat.S_ISDIR(os.fstat(part).st_mode):
        place.mkdir(mode=0o700, exist_ok=True)
    else:
        place.touch(mode=0o600)
    tree = mount.open_tree(part, b"", _BIND)
    try:
        target = os.open(place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            mount.attach(tree, target)
        finally:
            os.close(target)
    finally:
        os.close(tree)
