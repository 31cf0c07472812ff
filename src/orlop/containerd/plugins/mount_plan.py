# SPDX-License-Identifier: Apache-2.0
"""What the mount manager makes of a request: pure functions from mounts to mounts.

A type `format/TYPE` has templates in source and options, filled in with what was mounted before:
`{{ source 0 }}`, `{{ target 0 }}`, `{{ mount 0 }}` (a mount point) and `{{ overlay 2 0 }}` (mount points as an
overlay's lowerdir, in that order). `mkdir/TYPE` has options `X-containerd.mkdir.path=PATH[:MODE[:UID:GID]]`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from orlop.errdefs import InvalidArgumentError, NotImplementedByUsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.containerd.core.mount import Mount

_TEMPLATE = re.compile(r"\{\{\s*([a-z]+)\s+(\d+)(?:\s+(\d+))?\s*\}\}")
_MKDIR = "X-containerd.mkdir."
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


def split_type(type: str) -> tuple[list[str], str]:
    """The transformations that a type asks for, and the type below them. Raises NotImplementedByUsError."""
    asked = []
    head, slash, rest = type.partition("/")
    while slash and head in TRANSFORMS:
        if head == "mkfs":
            raise NotImplementedByUsError(f"mount type {type}: making file systems")
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


def transformed(mount: Mount, active: Sequence[Active]) -> tuple[Mount, list[Directory]]:
    """A mount without its transformations, and what directories it needs.

    Raises InvalidArgumentError that names the template or option.
    """
    asked, type = split_type(mount.type)
    made = mount._replace(type=type)
    directories: list[Directory] = []
    for transformation in asked:
        if transformation == "format":
            made = made._replace(
                source=_filled(made.source, active),
                target=_filled(made.target, active),
                options=tuple(_filled(option, active) for option in made.options),
            )
        else:
            directories += [_directory(option) for option in made.options if option.startswith(_MKDIR)]
            made = made._replace(options=tuple(one for one in made.options if not one.startswith(_MKDIR)))
    return made, directories


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
