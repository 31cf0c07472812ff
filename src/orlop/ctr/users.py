# SPDX-License-Identifier: Apache-2.0
"""Users by number or by name, looked up in a root file system without leaving it."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orlop.errdefs import InvalidArgumentError
from orlop.oci.runtime import User
from orlop.unix.fs import RESOLVE_IN_ROOT, openat2
from orlop.unix.mount import MNT_DETACH, MS_BIND, MS_RDONLY, MS_REC, mount, umount2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from orlop.api.types_pb2 import Mount

_MAX_ID = (1 << 31) - 1  # as containerd and Docker have it: beyond, some programs see a negative number
_MAX_SIZE = 1 << 20  # bytes of a user database that are read


def resolve_user(text: str, rootfs: Callable[[], AbstractContextManager[str]]) -> User:
    """The user for `name|uid[:group|gid]`. `rootfs` is entered only if something must be looked up.

    Raises InvalidArgumentError for a name that the files of the root file system do not have.
    """
    user, _, group = text.partition(":")
    uid, gid = _number("user", user), _number("group", group)
    if uid is not None and gid is not None:
        return User(uid=uid, gid=gid)
    with rootfs() as directory:
        passwd = _read(directory, "etc/passwd")
        groups = _read(directory, "etc/group")
    # What is a number is never a name: an image may have given the name "1000" to root.
    found = next((row for row in passwd if (row[0] == user if uid is None else int(row[2]) == uid)), None)
    if uid is None:
        if found is None:
            raise InvalidArgumentError(f"user {user!r}: no such user in the container's /etc/passwd")
        uid = _number("uid of the user", found[2])
    if gid is None and not group:
        gid = _number("gid of the user", found[3]) if found is not None else 0
    elif gid is None:
        row = next((row for row in groups if row[0] == group), None)
        if row is None:
            raise InvalidArgumentError(f"group {group!r}: no such group in the container's /etc/group")
        gid = _number("gid of the group", row[2])
    assert uid is not None
    assert gid is not None
    name = found[0] if found is not None else ""
    rows = [row for row in groups if name and len(row) > 3 and name in row[3].split(",")]
    numbers = [_number("gid of a group of the user's", row[2]) for row in rows]
    extra = [number for number in numbers if number is not None]
    return User(uid=uid, gid=gid, additional_gids=sorted({gid, *extra}) if extra else [])


def _number(what: str, text: str) -> int | None:
    """The id that a text is; None for a name. ASCII only: "²" is a digit to Python, and "１" would be 1."""
    if not text.isascii() or not text.isdigit():
        return None
    if len(text) > len(str(_MAX_ID)) or int(text) > _MAX_ID:
        raise InvalidArgumentError(f"{what} {text[:40]}: expected 0 to {_MAX_ID}")
    return int(text)


def _read(directory: str, path: str) -> list[list[str]]:
    root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = openat2(root, path, os.O_RDONLY | os.O_NONBLOCK, RESOLVE_IN_ROOT)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InvalidArgumentError(f"the container's /{path}: {error.strerror}") from None
    finally:
        os.close(root)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidArgumentError(f"the container's /{path} is no regular file")
        data = b""
        while len(data) <= _MAX_SIZE and (piece := os.read(fd, _MAX_SIZE + 1)):
            data += piece
    finally:
        os.close(fd)
    if len(data) > _MAX_SIZE:
        raise InvalidArgumentError(f"the container's /{path} is larger than {_MAX_SIZE} bytes")
    rows = [line.split(":") for line in data.decode(errors="replace").split("\n")]
    ids = (2, 3) if path.endswith("passwd") else (2,)
    return [row for row in rows if len(row) > ids[-1] and all(_is_id(row[place]) for place in ids)]


def _is_id(text: str) -> bool:
    """A row with anything else for a number is nobody's; one beyond the range is refused when it is used."""
    return text.isascii() and text.isdigit() and len(text) <= 20


@contextmanager
def mounted(mounts: Iterable[Mount]) -> Iterator[str]:
    """A snapshot's mounts, read-only in a temporary directory for the time of the block."""
    with tempfile.TemporaryDirectory(prefix="orlop-ctr-") as directory:
        done = 0
        try:
            for each in mounts:
                if each.type == "bind":
                    mount(each.source, directory, "", MS_BIND | MS_REC)
                else:
                    data = ",".join(option for option in each.options if option not in ("ro", "rw"))
                    mount(each.source, directory, each.type, MS_RDONLY, data)
                done += 1
            yield directory
        finally:
            for _ in range(done):
                umount2(directory, MNT_DETACH)
