# SPDX-License-Identifier: Apache-2.0
"""Snapshots for a user namespace: labels say whose ids are whose, and mounts carry that to who mounts them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from orlop.containerd.core.mount import Mount
from orlop.errdefs import InvalidArgumentError
from orlop.unix.idmap import Range
from orlop.unix.process import in_user_namespace

UID_LABEL = "containerd.io/snapshot/uidmapping"
GID_LABEL = "containerd.io/snapshot/gidmapping"
_KERNEL = (6, 13)  # from this version on overlayfs takes idmapped layers by their descriptors


class IdMapping(NamedTuple):
    """The mappings as labels and mounts have them, `inside:outside:count` with commas between, and who root is."""

    uids: str
    gids: str
    root: tuple[int, int]


def mapping_of(labels: Mapping[str, str]) -> IdMapping | None:
    """What a snapshot's labels ask for; None for neither. Raises InvalidArgumentError that names the label."""
    uids, gids = labels.get(UID_LABEL, ""), labels.get(GID_LABEL, "")
    if not uids and not gids:
        return None
    return IdMapping(uids, gids, (_root(UID_LABEL, uids), _root(GID_LABEL, gids)))


def _root(label: str, text: str) -> int:
    """The id outside of root, by a mapping that has to be whole."""
    found = None
    for inside, outside, count in _ranges(f"label {label}", text):
        if inside == 0 and count:
            found = outside
    if found is None:
        raise InvalidArgumentError(f"label {label}: root has no mapping in {text!r}")
    return found


def _ranges(where: str, text: str) -> list[Range]:
    found = []
    for part in text.split(","):
        words = part.split(":")
        if len(words) != 3 or not all(word.isascii() and word.isdigit() for word in words):
            raise InvalidArgumentError(f"{where}: expected inside:outside:count, got {part!r}")
        inside, outside, count = map(int, words)
        found.append((inside, outside, count))
    return found


def ranges_of(mount: Mount) -> tuple[list[Range], list[Range]] | None:
    """The ranges of users and of groups that a mount asks for; None for neither. Raises InvalidArgumentError."""
    uids, gids = mount.option("uidmap"), mount.option("gidmap")
    if uids is None and gids is None:
        return None
    if uids is None or gids is None:
        raise InvalidArgumentError("mount options: expected both uidmap and gidmap")
    return _ranges("mount option uidmap", uids), _ranges("mount option gidmap", gids)


def mapped(mounts: Sequence[Mount], labels: Mapping[str, str], *, writable: bool) -> list[Mount]:
    """The mounts of a snapshot, which show layers below with the ids inside of the namespace.

    What is the snapshot's own has the ids outside on the disk, so that one without layers below needs nothing.
    """
    wanted = mapping_of(labels)
    if wanted is None:
        return list(mounts)
    options = (f"uidmap={wanted.uids}", f"gidmap={wanted.gids}")
    return [
        mount if writable and mount.type == "bind" else mount._replace(options=(*mount.options, *options))
        for mount in mounts
    ]


def kernel_maps_layers() -> bool:
    """Whether this kernel can mount overlays with mapped layers, for us: not in a user namespace."""
    if in_user_namespace():
        return False
    major, minor = os.uname().release.split(".")[:2]
    return (int(major), int(minor.split("-")[0])) >= _KERNEL
