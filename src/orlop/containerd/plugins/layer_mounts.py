# SPDX-License-Identifier: Apache-2.0
"""Mounts opened as directories for reading and writing layers, attached nowhere.

Of a snapshot with mapped ids layers have those inside: its layers below are so on the disk, and what is its own,
which has the ids outside, is looked at through a mount that maps them back.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from orlop.containerd.archive.apply import OVERLAY_OPAQUE, USER_OVERLAY_OPAQUE
from orlop.containerd.core.idmaps import ranges_of
from orlop.containerd.core.mount import Mount
from orlop.errdefs import InvalidArgumentError, NotFoundError
from orlop.unix import idmap
from orlop.unix import mount as unix_mount

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class LayerTarget(NamedTuple):
    """Where a layer is applied: open directories; with `opaque` an upper directory with this mark over `lower`."""

    root: int
    opaque: str
    lower: tuple[int, ...]


@contextlib.contextmanager
def open_target(mounts: Sequence[Mount]) -> Iterator[LayerTarget]:
    """The directory that a layer for `mounts` is written to.

    For an overlay that is its upper directory itself: what lies there is the layer, and nothing needs to be
    mounted. Raises InvalidArgumentError for mounts that are read-only or not exactly one, NotFoundError.
    """
    mount = _single(mounts)
    if mount.type != "overlay" and "ro" in mount.options:
        raise InvalidArgumentError("mounts[0] is read-only: a layer cannot be applied to it")
    upper = mount.option("upperdir") if mount.type == "overlay" else None
    if mount.type == "overlay" and upper is None:
        raise InvalidArgumentError("mounts[0] is an overlay without upperdir: a layer cannot be applied to it")
    with contextlib.ExitStack() as stack:
        if upper is None:
            yield LayerTarget(_open(stack, mount), "", ())
            return
        lower = tuple(_open_directory(stack, path) for path in lower_directories(mount))
        mark = USER_OVERLAY_OPAQUE if "userxattr" in mount.options else OVERLAY_OPAQUE
        yield LayerTarget(_open_upper(stack, mount, upper), mark, lower)


@contextlib.contextmanager
def open_tree(mounts: Sequence[Mount]) -> Iterator[int]:
    """The root directory of one mount, for reading. Raises InvalidArgumentError, NotFoundError."""
    mount = _single(mounts)
    upper, mapping = mount.option("upperdir"), ranges_of(mount)
    plain = _without_mapping(_read_only(mount))
    with contextlib.ExitStack() as stack:
        if upper is None or mapping is None or mount.type != "overlay":
            yield _open(stack, plain)
            return
        kept = [option for option in plain.options if not option.startswith("lowerdir=")]
        namespace = stack.enter_context(_mapping_back(mapping))
        detached = idmap.overlay_above(namespace, upper, lower_directories(mount), kept)
        stack.callback(os.close, detached)
        yield _open_directory(stack, ".", detached)


@contextlib.contextmanager
def upper_directory(mounts: Sequence[Mount]) -> Iterator[int]:
    """The upper directory of an overlay itself, for reading."""
    upper = _single(mounts).option("upperdir")
    if upper is None:
        raise InvalidArgumentError("mounts[0] is no overlay with upperdir")
    with contextlib.ExitStack() as stack:
        yield _open_directory(stack, upper)


def lower_directories(mount: Mount) -> list[str]:
    """The lower directories of an overlay, nearest first."""
    lower = mount.option("lowerdir")
    return lower.split(":") if lower else []


def _single(mounts: Sequence[Mount]) -> Mount:
    if len(mounts) != 1 or mounts[0].target:
        raise InvalidArgumentError(f"mounts must hold one mount without a target, not {len(mounts)}")
    return mounts[0]


def _without_mapping(mount: Mount) -> Mount:
    kept = [option for option in mount.options if not option.startswith(("uidmap=", "gidmap="))]
    return mount._replace(options=tuple(kept))


@contextlib.contextmanager
def _mapping_back(mapping: tuple[list[idmap.Range], list[idmap.Range]]) -> Iterator[int]:
    """A user namespace in which the ids outside are those inside."""
    uids, gids = ([(outside, inside, count) for inside, outside, count in ranges] for ranges in mapping)
    with idmap.namespace_aside(uids, gids) as pid:
        namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield namespace
    finally:
        os.close(namespace)


def _open_upper(stack: contextlib.ExitStack, mount: Mount, path: str) -> int:
    """The upper directory of an overlay; of one with mapped ids so that who writes as root writes as its root."""
    fd = _open_directory(stack, path)
    mapping = ranges_of(mount)
    if mapping is None:
        return fd
    uids, gids = mapping
    if os.fstat(fd).st_uid == 0:  # nobody has mounted it yet: as whoever does will
        os.fchown(fd, uids[0][1], gids[0][1])
    with _mapping_back(mapping) as namespace:
        tree = idmap.mapped_tree(path, namespace)
    stack.callback(os.close, tree)
    return _open_directory(stack, ".", tree)


def _read_only(mount: Mount) -> Mount:
    """The same tree without a writer: a container may be using the upper directory, and only one may write it."""
    upper = mount.option("upperdir") if mount.type == "overlay" else None
    if upper is None:
        return mount
    lower = f"lowerdir={':'.join((upper, *lower_directories(mount)))}"
    kept = [option for option in mount.options if not option.startswith(("upperdir=", "workdir=", "lowerdir="))]
    return mount._replace(options=(lower, *kept))


def _open(stack: contextlib.ExitStack, mount: Mount) -> int:
    if mount.type in ("bind", "rbind") or {"bind", "rbind"} & set(mount.options):
        return _open_directory(stack, mount.source)
    detached = unix_mount.detached_mount(mount.type, mount.source, mount.options)
    stack.callback(os.close, detached)
    return _open_directory(stack, ".", detached)


def _open_directory(stack: contextlib.ExitStack, path: str, base: int | None = None) -> int:
    try:
        fd = os.open(path, _DIRECTORY, dir_fd=base)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"mount source {path}: {error.strerror}") from None
    stack.callback(os.close, fd)
    return fd
