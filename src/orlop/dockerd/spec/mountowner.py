# SPDX-License-Identifier: Apache-2.0
"""Mounts with an owner: what the container's user makes there belongs to somebody else on the host. Pure.

Idmapped mounts do it: mount_setattr(2), MOUNT_ATTR_IDMAP.
"""

from orlop.engine.types import MountOwner
from orlop.errdefs import InvalidArgumentError
from orlop.oci.runtime import IDMapping, Mount, User

HIGHEST_ID = 2**32 - 2
"""2³² - 1 means "no id" to the kernel."""


def owner_in_mode(mode: str) -> MountOwner | None:
    """From the words `uid=N` and `gid=N` in the mode of -v; one alone stands for both.

    Raises InvalidArgumentError.
    """
    ids: dict[str, int] = {}
    for word in mode.split(","):
        name, equals, number = word.partition("=")
        if not equals:
            continue
        if name in ids or not (number.isascii() and number.isdigit()):
            raise InvalidArgumentError(f"invalid mode: {mode}: {word}: expected one uid=NUMBER and one gid=NUMBER")
        ids[name] = int(number)
    if not ids:
        return None
    return MountOwner(uid=ids.get("uid", ids.get("gid", 0)), gid=ids.get("gid", ids.get("uid", 0)))


def give_owner(mount: Mount, owner: MountOwner, user: User) -> None:
    """Let what is the owner's on disk be the user's in the container, and the other way round.

    Every other id stays as it is. What is the user's id on disk, and the owner's in the container, has no
    counterpart (it shows as nobody, and cannot be made): so a user of the container who happens to have the
    owner's number gains nothing.
    """
    uids = swapped(owner.uid, user.uid)
    gids = swapped(owner.gid, user.gid)
    if not uids and not gids:
        return
    mount.options = [*mount.options, "ridmap" if "rbind" in mount.options else "idmap"]
    mount.uid_mappings = uids or [_same(0, HIGHEST_ID)]
    mount.gid_mappings = gids or [_same(0, HIGHEST_ID)]


def swapped(on_disk: int, in_container: int) -> list[IDMapping]:
    """Mappings that show one id as another, all but these two as themselves; [] when they are the same."""
    if on_disk == in_container:
        return []
    low, high = sorted((on_disk, in_container))
    ranges = ((0, low - 1), (low + 1, high - 1), (high + 1, HIGHEST_ID))
    mappings = [_same(first, last) for first, last in ranges if first <= last]
    return [IDMapping(container_id=on_disk, host_id=in_container, size=1), *mappings]


def _same(first: int, last: int) -> IDMapping:
    return IDMapping(container_id=first, host_id=first, size=last - first + 1)
