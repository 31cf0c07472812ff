# SPDX-License-Identifier: Apache-2.0
"""Mounts opened as directories for reading and writing layers, attached nowhere."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from orlop.containerd.core.mount import Mount
from orlop.errdefs import InvalidArgumentError, NotFoundError, NotImplementedByUsError
from orlop.unix import mount as unix_mount

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class LayerTarget(NamedTuple):
    """Where a layer is applied: open directories. `overlay`: `root` is an upper directory over `lower`."""

    root: int
    overlay: bool
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
            yield LayerTarget(_open(stack, mount), False, ())
            return
        lower = tuple(_open_directory(stack, path) for path in lower_directories(mount))
        yield LayerTarget(_open_directory(stack, upper), True, lower)


@contextlib.contextmanager
def open_tree(mounts: Sequence[Mount]) -> Iterator[int]:
    """The root directory of one mount, for reading. Raises InvalidArgumentError, NotFoundError."""
    with contextlib.ExitStack() as stack:
        yield _open(stack, _read_only(_single(mounts)))


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
    if mounts[0].option("uidmap") is not None:
        raise NotImplementedByUsError("layers of a snapshot with mapped ids")
    return mounts[0]


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
