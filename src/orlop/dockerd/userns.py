# SPDX-License-Identifier: Apache-2.0
"""`userns-remap`: whose ids the containers' are, from the databases of users and subordinate ids (subuid(5))."""

import grp
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from orlop.errdefs import InternalError, InvalidArgumentError
from orlop.oci.runtime import IDMapping
from orlop.unix import idmap

DEFAULT_USER = "dockremap"
_CANNOT_MAKE = f"userns-remap: cannot make user {DEFAULT_USER}"
_SUBUID, _SUBGID = Path("/etc/subuid"), Path("/etc/subgid")


class Remap(NamedTuple):
    """How ids inside of containers are those of the host."""

    uids: list[IDMapping]
    gids: list[IDMapping]

    @property
    def root(self) -> tuple[int, int]:
        """Who the containers' root is on the host: user and group."""
        return self.uids[0].host_id, self.gids[0].host_id

    def outside(self, uid: int, gid: int) -> tuple[int, int]:
        """The host's ids for a container's; one without a counterpart stays."""
        return _shift(self.uids, uid), _shift(self.gids, gid)

    def inside(self, uid: int, gid: int) -> tuple[int, int]:
        """The container's ids for the host's; one without a counterpart stays."""
        return _unshift(self.uids, uid), _unshift(self.gids, gid)

    def directory(self, root: str) -> str:
        """The data root of containers of this mapping: each mapping has its own."""
        return f"{root}/{self.root[0]}.{self.root[1]}"


@contextmanager
def namespace(remap: Remap, *more: str) -> Iterator[int]:
    """As `idmap.namespace_aside`, whose process has these mappings. Raises InternalError."""
    uids, gids = (
        [(one.container_id, one.host_id, one.size) for one in mappings] for mappings in (remap.uids, remap.gids)
    )
    with ExitStack() as stack:
        try:
            pid = stack.enter_context(idmap.namespace_aside(uids, gids, *more))
        except OSError as error:
            raise InternalError(f"userns-remap: {error.strerror}") from None
        yield pid


@contextmanager
def within(path: str, *more: str) -> Iterator[int]:
    """As `idmap.process_within` the user namespace at a path. Raises InternalError."""
    with ExitStack() as stack:
        try:
            pid = stack.enter_context(idmap.process_within(path, *more))
        except OSError as error:
            raise InternalError(f"userns-remap: {error.strerror}") from None
        yield pid


def resolve(setting: str) -> Remap | None:
    """What `userns-remap` means: `default`, a user, or `user:group`, by name or number; None: nothing.

    Raises InvalidArgumentError that names what is missing.
    """
    if not setting:
        return None
    user, _, group = setting.partition(":")
    if setting == "default":
        user = group = DEFAULT_USER
        _make_default_user()
    user_name, user_id = _user(user)
    group_name, group_id = _group(group or user_name)
    uids = _ranges(_SUBUID, "subuid", user_name, user_id)
    gids = _ranges(_SUBGID, "subgid", group_name, group_id)
    if user_id == 0:
        raise InvalidArgumentError("userns-remap: the user must not be root")
    return Remap(uids, gids)


def _user(text: str) -> tuple[str, int]:
    try:
        found = pwd.getpwuid(int(text)) if text.isdecimal() else pwd.getpwnam(text)
    except (KeyError, OverflowError):
        raise InvalidArgumentError(f'userns-remap: error during "{text}" user lookup: no such user') from None
    return found.pw_name, found.pw_uid


def _group(text: str) -> tuple[str, int]:
    try:
        found = grp.getgrgid(int(text)) if text.isdecimal() else grp.getgrnam(text)
    except (KeyError, OverflowError):
        raise InvalidArgumentError(f'userns-remap: error during "{text}" group lookup: no such group') from None
    return found.gr_name, found.gr_gid


def _ranges(path: Path, kind: str, name: str, number: int) -> list[IDMapping]:
    mappings: list[IDMapping] = []
    inside = 0
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        lines = []
    for line in lines:
        words = line.split(":")
        if len(words) != 3 or words[0] not in (name, str(number)) or not (words[1] + words[2]).isdecimal():
            continue
        first, count = int(words[1]), int(words[2])
        if first > 0 and count > 0:
            mappings.append(IDMapping(container_id=inside, host_id=first, size=count))
            inside += count
    if not mappings:
        raise InvalidArgumentError(f'userns-remap: no {kind} ranges found for user "{name}" in {path}')
    return mappings


def _make_default_user() -> None:
    """Docker's own user, made at the first start with `default`; useradd(8) gives it its ranges."""
    try:
        pwd.getpwnam(DEFAULT_USER)
        return
    except KeyError:
        pass
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/bin/false"]
    command += ["-K", "SUB_UID_COUNT=65536", "-K", "SUB_GID_COUNT=65536", "--add-subids-for-system", DEFAULT_USER]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise InvalidArgumentError(
            f"userns-remap: cannot make user {DEFAULT_USER}: useradd: {error.strerror}"
        ) from None
    if done.returncode:
        raise InvalidArgumentError(f"userns-remap: cannot make user {DEFAULT_USER}: {done.stderr.strip()}")


def _shift(mappings: list[IDMapping], number: int) -> int:
    for one in mappings:
        if one.container_id <= number < one.container_id + one.size:
            return one.host_id + number - one.container_id
    return number


def _unshift(mappings: list[IDMapping], number: int) -> int:
    for one in mappings:
        if one.host_id <= number < one.host_id + one.size:
            return one.container_id + number - one.host_id
    return number
