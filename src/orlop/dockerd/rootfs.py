# SPDX-License-Identifier: Apache-2.0
"""Reads a container's root filesystem without mounting it anywhere, and resolves users in it."""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from orlop.errdefs import InvalidArgumentError
from orlop.oci.runtime import User
from orlop.unix import fs, mount

_MAX_ID = 2**31 - 1
_OUT_OF_RANGE = f"uids and gids must be in range 0-{_MAX_ID}"
_MAX_DATABASE = 8 << 20  # bytes of /etc/passwd or /etc/group that are read
_ATTRIBUTES = mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NODEV
_INTEGER = re.compile(r"[+-]?[0-9]+")


class SnapshotMount(Protocol):
    """A mount of a snapshot, as containerd.client returns it."""

    @property
    def type(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def options(self) -> Sequence[str]: ...


@contextmanager
def opened(mounts: Sequence[SnapshotMount]) -> Iterator[int]:
    """A directory descriptor of the root filesystem that these mounts make up, read-only, detached.

    Nothing appears in any mount table; closing the descriptor ends it. Device nodes in it cannot be opened.
    Raises InvalidArgumentError for mounts of another kind than overlay and bind, OSError where the kernel refuses.
    """
    root = _open(mounts)
    try:
        yield root
    finally:
        os.close(root)


def needs_rootfs(user: str, group_add: Sequence[str] | None) -> bool:
    """Whether resolving the user has to read the image: not for `uid:gid` without groups by name.

    Where it is False, `resolve_user(None, user, group_add)` works. An empty user is root, whose supplementary
    groups stand in the image's /etc/group.
    """
    name, _, group = user.partition(":")
    words = (name, group, *(group_add or ()))
    return not all(_INTEGER.fullmatch(word) for word in words)


def resolve_user(root: int | None, user: str, group_add: Sequence[str] | None = None) -> User:
    """Turn `user[:group]` (names or ids) into ids by /etc/passwd and /etc/group in the container.

    What is a number is never looked up as a name (CVE-2016-3697). `root` is a directory descriptor of the
    container's root. `additional_gids` holds the primary gid first. Raises InvalidArgumentError
    `unable to find user foo: no matching entries in passwd file`, and for ids out of range.
    """
    name, _, group = user.partition(":")
    uid_wanted, gid_wanted = _number(name), _number(group)
    entries = _passwd(root)
    account: _Account | None = None
    if uid_wanted is not None or not name:
        account = next((entry for entry in entries if entry.uid == (uid_wanted or 0)), None)
    else:
        account = next((entry for entry in entries if entry.name == name), None)
        if account is None:
            raise InvalidArgumentError(f"unable to find user {name}: no matching entries in passwd file")
    uid = account.uid if account else uid_wanted or 0
    gid = account.gid if account else 0
    groups = _groups(root) if account or group or group_add else []
    member_of: list[int] = []
    if gid_wanted is not None:
        gid = gid_wanted
    elif group:
        gid = _group_id(group, groups)
    elif account:
        member_of = [entry.gid for entry in groups if account.name in entry.members]
    added = [_added_group(text, groups) for text in group_add or ()]
    for number in (uid, gid, *member_of, *added):
        _check_range(number)
    return User(uid=uid, gid=gid, additional_gids=list(dict.fromkeys([gid, *member_of, *added])))


# -- the detached mount


def _open(mounts: Sequence[SnapshotMount]) -> int:
    if len(mounts) != 1:
        raise InvalidArgumentError(f"root filesystem: one mount expected, not {len(mounts)}")
    (snapshot,) = mounts
    if snapshot.type in ("bind", "rbind"):
        return _open_bind(snapshot.source)
    if snapshot.type == "overlay":
        layers = overlay_layers(snapshot.options)
        return _open_overlay(layers, "userxattr" in snapshot.options) if len(layers) > 1 else _open_bind(layers[0])
    raise InvalidArgumentError(f"root filesystem: mounts of type {snapshot.type!r} are not supported")


def overlay_layers(options: Sequence[str]) -> list[str]:
    """The directories of an overlay, the topmost first."""
    given = dict(option.partition("=")[::2] for option in options)
    layers = [given["upperdir"]] if "upperdir" in given else []
    for part in re.findall(r"(?:[^:\\]|\\.)+", given.get("lowerdir", "")):
        layers.append(re.sub(r"\\(.)", r"\1", part))
    if not layers:
        raise InvalidArgumentError("root filesystem: the overlay has no directories")
    return layers


def _open_bind(source: str) -> int:
    root = mount.open_tree(mount.AT_FDCWD, source, mount.OPEN_TREE_CLONE)
    try:
        mount.mount_setattr(root, b"", mount.AT_EMPTY_PATH, attr_set=_ATTRIBUTES)
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    finally:
        os.close(root)


def _open_overlay(layers: list[str], userxattr: bool) -> int:
    """All layers as lower ones: nothing is ever written, and the container's own mount is not disturbed."""
    lower = ":".join(layer.replace("\\", "\\\\").replace(":", "\\:") for layer in layers)
    data = [f"lowerdir={lower}", "index=off"]  # the upper layer may be in use
    if userxattr:
        data.append("userxattr")
    root = mount.new_filesystem("overlay", "", data, _ATTRIBUTES)
    try:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    finally:
        os.close(root)


# -- the user databases


class _Account(NamedTuple):
    name: str
    uid: int
    gid: int


class _Group(NamedTuple):
    name: str
    gid: int
    members: list[str]


def _read(root: int | None, path: str) -> list[list[str]]:
    """The fields of each line of a file in the container; none where there is no such regular file."""
    if root is None:
        return []
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
    try:
        fd = fs.openat2(root, path, flags, fs.RESOLVE_IN_ROOT | fs.RESOLVE_NO_MAGICLINKS)
    except OSError:
        return []  # absent, a loop of links, a device: an image without users
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return []
        content = file.read(_MAX_DATABASE + 1)
    if len(content) > _MAX_DATABASE:
        raise InvalidArgumentError(f"/{path} of the image is larger than {_MAX_DATABASE >> 20} MiB")
    lines = content.decode(errors="surrogateescape").splitlines()
    return [line.strip().split(":") for line in lines if line.strip() and not line.startswith("#")]


def _is_id(text: str) -> bool:
    """A row with anything else for a number is nobody's; one beyond the range is refused when it is used."""
    return text.isascii() and text.isdigit() and len(text) <= 20


def _passwd(root: int | None) -> list[_Account]:
    entries = []
    for fields in _read(root, "etc/passwd"):
        if len(fields) >= 4 and fields[0] and _is_id(fields[2]) and _is_id(fields[3]):
            entries.append(_Account(fields[0], int(fields[2]), int(fields[3])))
    return entries


def _groups(root: int | None) -> list[_Group]:
    entries = []
    for fields in _read(root, "etc/group"):
        if len(fields) >= 3 and fields[0] and _is_id(fields[2]):
            members = fields[3].split(",") if len(fields) > 3 else []
            entries.append(_Group(fields[0], int(fields[2]), members))
    return entries


def _group_id(name: str, groups: list[_Group]) -> int:
    for entry in groups:
        if entry.name == name:
            return entry.gid
    raise InvalidArgumentError(f"unable to find group {name}: no matching entries in group file")


def _added_group(text: str, groups: list[_Group]) -> int:
    number = _number(text)
    if number is not None:
        return number
    for entry in groups:
        if entry.name == text:
            return entry.gid
    raise InvalidArgumentError(f"unable to find group {text}: no matching entries in group file")


def _number(text: str) -> int | None:
    """An id; None for a name. Raises InvalidArgumentError for a number that is no id."""
    if not _INTEGER.fullmatch(text):
        return None
    if len(text) > 20:
        raise InvalidArgumentError(_OUT_OF_RANGE)
    return _check_range(int(text))


def _check_range(number: int) -> int:
    if not 0 <= number <= _MAX_ID:
        raise InvalidArgumentError(_OUT_OF_RANGE)
    return number
