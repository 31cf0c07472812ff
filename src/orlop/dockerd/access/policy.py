# SPDX-License-Identifier: Apache-2.0
"""The policy of `socket-policy` in daemon.json, and what it says of a user: pure but for the user database."""

import enum
import grp
import pwd
from collections.abc import Callable, Collection, Sequence

import msgspec

from orlop.errdefs import InvalidArgumentError


class Level(enum.IntEnum):
    """What somebody may do, the more the higher."""

    NOTHING = 0
    READ = 1
    """Look at what there is, but not into it: no files, no attaching."""
    OWN = 2
    """That, and have containers of one's own, which can do nothing to the host or to others."""
    ALL = 3
    """Everything, which is to be root on this machine."""


OWNER_LABEL = "io.orlop.owner"
"""On a container, volume or network: the number of the user whose it is."""
_LEVELS = {"read": Level.READ, "own": Level.OWN, "all": Level.ALL}


class Entry(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One line of the policy: a user or a group, by name or number, and the word for a level."""

    user: str = ""
    group: str = ""
    allow: str


class Viewer(msgspec.Struct, frozen=True):
    """Who asks: a user on this machine, and what the policy lets them do."""

    uid: int
    level: Level

    @property
    def owner(self) -> str:
        """The value of the label by which their containers and volumes are known."""
        return str(self.uid)


ROOT = Viewer(0, Level.ALL)


def check(entries: Sequence[Entry]) -> None:
    """Raise InvalidArgumentError that names the entry which is wrong."""
    for number, entry in enumerate(entries):
        where = f"socket-policy: entry {number}"
        if bool(entry.user) == bool(entry.group):
            raise InvalidArgumentError(f"{where}: expected either user or group")
        if entry.allow not in _LEVELS:
            raise InvalidArgumentError(f"{where}: allow is {entry.allow!r}, expected one of {', '.join(_LEVELS)}")


def level_of(
    uid: int,
    gids: Collection[int],
    entries: Sequence[Entry],
    *,
    uid_of: Callable[[str], int | None] | None = None,
    gid_of: Callable[[str], int | None] | None = None,
) -> Level:
    """The highest level that any entry gives to a process with these ids; root has all.

    Names are looked up now: users and groups come and go while the daemon runs.
    """
    if uid == 0:
        return Level.ALL
    uid_of, gid_of = uid_of or _uid_of, gid_of or _gid_of
    given = Level.NOTHING
    for entry in entries:
        mine = uid_of(entry.user) == uid if entry.user else gid_of(entry.group) in gids
        if mine:
            given = max(given, _LEVELS[entry.allow])
    return given


def _uid_of(name: str) -> int | None:
    if name.isascii() and name.isdigit():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def _gid_of(name: str) -> int | None:
    if name.isascii() and name.isdigit():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None
