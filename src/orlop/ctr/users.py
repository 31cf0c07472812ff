# SPDX-License-Identifier: Apache-2.0
"""Users by number or by name, looked up in a root file system without leaving it."""

from __future__ import annotations

import os
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


def resolve_user(text: str, rootfs: Callable[[], AbstractContextManager[str]]) -> User:
    """The user for `name|uid[:group|gid]`. `rootfs` is entered only if something must be looked up.

    Raises InvalidArgumentError for a name that the files of the root file system do not have.
    """
    user, _, group = text.partition(":")
    if user.isdigit() and group.isdigit():
        return User(uid=int(user), gid=int(group))
    with rootfs() as directory:
        passwd = _read(directory, "etc/passwd")
        groups = _read(directory, "etc/group")
    found = next((row for row in passwd if user in (row[0], row[2])), None)
    if found is None and not user.isdigit():
        raise InvalidArgumentError(f"user {user!r}: no such user in the container's /etc/passwd")
    uid = int(user) if found is None else int(found[2])
    if not group:
        gid = 0 if found is None else int(found[3])
    elif group.isdigit():
        gid = int(group)
    else:
        row = next((row for row in groups if row[0] == group), None)
        if row is None:
            raise InvalidArgumentError(f"group {group!r}: no such group in the container's /etc/group")
        gid = int(row[2])
    name = found[0] if found is not None else ""
    extra = [int(row[2]) for row in groups if name and len(row) > 3 and name in row[3].split(",")]
    return User(uid=uid, gid=gid, additional_gids=sorted({gid, *extra}) if extra else [])


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
    with open(fd, encoding="utf-8", errors="replace") as file:
        rows = [line.rstrip("\n").split(":") for line in file]
    return [row for row in rows if len(row) > 2 and row[2].isdigit() and (len(row) < 7 or row[3].isdigit())]


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
