# SPDX-License-Identifier: Apache-2.0
"""What the mount manager makes of a request: pure functions from mounts to mounts.

A type `format/TYPE` has templates in source and options, filled in with what was mounted before:
`{{ source 0 }}`, `{{ target 0 }}`, `{{ mount 0 }}` (a mount point) and `{{ overlay 2 0 }}` (mount points as an
overlay's lowerdir, in that order). `mkdir/TYPE` has options `X-containerd.mkdir.path=PATH[:MODE[:UID:GID]]`.
`mkfs/TYPE` makes its source, unless it is there: a file of `X-containerd.mkfs.size=SIZE` bytes (`64MiB`) with the
file system `X-containerd.mkfs.fs=ext4` (or ext2, ext3, xfs) and `X-containerd.mkfs.uuid=UUID`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from orlop.errdefs import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.containerd.core.mount import Mount

_TEMPLATE = re.compile(r"\{\{\s*([a-z]+)\s+(\d+)(?:\s+(\d+))?\s*\}\}")
_MKDIR = "X-containerd.mkdir."
_MKFS = "X-containerd.mkfs."
_FILE_SYSTEMS = ("ext2", "ext3", "ext4", "xfs")
_SIZE = re.compile(r"(\d+)\s*([kKmMgGtT]?)(?:i?[bB])?")
TRANSFORMS = ("format", "mkdir", "mkfs")


class Active(NamedTuple):
    """A mount that has been made, and where."""

    mount: Mount
    point: str


class Directory(NamedTuple):
    """A directory to make before a mount; the owner is ours where `uid` is None."""

    path: str
    mode: int = 0o700
    uid: int | None = None
    gid: int | None = None


class Image(NamedTuple):
    """A file with a file system in it to make before a mount, unless it is there. `size` in bytes."""

    path: str
    size: int
    type: str = "ext4"
    uuid: str = ""


def split_type(type: str) -> tuple[list[str], str]:
    """The transformations that a type asks for, and the type below them."""
    asked = []
    head, slash, rest = type.partition("/")
    while slash and head in TRANSFORMS:
        asked.append(head)
        type = rest
        head, slash, rest = type.partition("/")
    return asked, type


def count_ours(mounts: Sequence[Mount], *, temporary: bool) -> int | None:
    """How many of the first mounts are the manager's to make; None if the request needs no manager at all."""
    if temporary:
        return len(mounts)
    last = None
    for number, mount in enumerate(mounts):
        if split_type(mount.type)[0]:
            last = number
    return last


def transformed(mount: Mount, active: Sequence[Active]) -> tuple[Mount, list[Directory | Image]]:
    """A mount without its transformations, and what it needs to be made before.

    Raises InvalidArgumentError that names the template or option.
    """
    asked, type = split_type(mount.type)
    made = mount._replace(type=type)
    needed: list[Directory | Image] = []
    for transformation in asked:
        if transformation == "format":
            made = made._replace(
                source=_filled(made.source, active),
                target=_filled(made.target, active),
                options=tuple(_filled(option, active) for option in made.options),
            )
        elif transformation == "mkfs":
            needed.append(_image(made))
            made = made._replace(options=tuple(one for one in made.options if not one.startswith(_MKFS)))
        else:
            needed += [_directory(option) for option in made.options if option.startswith(_MKDIR)]
            made = made._replace(options=tuple(one for one in made.options if not one.startswith(_MKDIR)))
    return made, needed


def _filled(text: str, active: Sequence[Active]) -> str:
    filled = _TEMPLATE.sub(lambda found: _value(found, active), text)
    if "{{" in filled:
        raise InvalidArgumentError(f"mount template {text!r}: expected source, target, mount or overlay")
    return filled


def _value(found: re.Match[str], active: Sequence[Active]) -> str:
    what, first, second = found[1], int(found[2]), found[3]
    numbers = [first]
    if what == "overlay" and second is not None:
        last = int(second)
        numbers = list(range(first, last + 1)) if first <= last else list(range(first, last - 1, -1))
    elif second is not None or what not in ("source", "target", "mount"):
        raise InvalidArgumentError(f"mount template {found[0]!r}: expected source, target, mount or overlay")
    if max(numbers) >= len(active):
        raise InvalidArgumentError(f"mount template {found[0]!r}: only {len(active)} mounts come before it")
    if what == "source":
        return active[first].mount.source
    if what == "target":
        return active[first].mount.target
    return ":".join(active[number].point for number in numbers)


def _directory(option: str) -> Directory:
    name, _, value = option.removeprefix(_MKDIR).partition("=")
    path, *rest = value.split(":")
    try:
        if name != "path" or not path.startswith("/") or len(rest) not in (0, 1, 3):
            raise ValueError
        mode = int(rest[0], 8) if rest else 0o700
        if mode & ~0o777:
            raise ValueError
        uid, gid = map(int, rest[1:]) if len(rest) == 3 else (None, None)
    except ValueError:
        raise InvalidArgumentError(
            f"mount option {option!r}: expected {_MKDIR}path=PATH[:MODE[:UID:GID]]"
        ) from None
    return Directory(path, mode, uid, gid)


def _image(mount: Mount) -> Image:
    fields = dict(
        option.removeprefix(_MKFS).partition("=")[::2] for option in mount.options if option.startswith(_MKFS)
    )
    for name in fields:
        if name not in ("size", "fs", "uuid"):
            raise InvalidArgumentError(f"mount option {_MKFS}{name}: expected size, fs or uuid")
    size = _SIZE.fullmatch(fields.get("size", ""))
    type = fields.get("fs", "ext4")
    if size is None or not int(size[1]):
        raise InvalidArgumentError(
            f"mount option {_MKFS}size: expected bytes such as 64MiB, got {fields.get('size')!r}"
        )
    if type not in _FILE_SYSTEMS:
        raise InvalidArgumentError(
            f"mount option {_MKFS}fs: expected one of {', '.join(_FILE_SYSTEMS)}, got {type!r}"
        )
    uuid = fields.get("uuid", "")
    if uuid and not re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", uuid):
        raise InvalidArgumentError(f"mount option {_MKFS}uuid: expected a UUID, got {uuid!r}")
    return Image(mount.source, int(size[1]) << (10 * " kmgt".index(size[2].lower() or " ")), type, uuid)
