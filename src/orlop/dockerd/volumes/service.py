# SPDX-License-Identifier: Apache-2.0
"""Creates, lists, mounts and removes volumes."""

import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from orlop.dockerd.spec.mountpoint import MountPoint


class Volume(msgspec.Struct, kw_only=True):
    """One volume; `inspect()` is its form in the Engine API."""

    name: str
    driver: str = "local"
    mountpoint: str
    created_at: str
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    anonymous: bool = False

    def inspect(self) -> dict[str, Any]:
        """The Engine API's Volume object."""
        raise NotImplementedError


class VolumeService:
    """All calls block: dockerd runs them in threads. One lock a volume; safe to call from several threads.

    `connect` returns a connection to dockerd's database that this thread may use (a fresh one or a shared one made
    with `check_same_thread=False`); `init_schema` has been called on it. `users_of(name)` answers the ids of the
    containers that refer to a volume.
    """

    def __init__(
        self,
        root: Path,
        connect: Callable[[], sqlite3.Connection],
        users_of: Callable[[str], list[str]],
    ) -> None:
        raise NotImplementedError

    def create(
        self,
        name: str = "",
        driver: str = "local",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Volume:
        """Create a volume, or return the one of that name. An empty name makes an anonymous one.

        Raises InvalidArgumentError for the name or an option, NotFoundError for a driver other than local,
        ConflictError where a volume of that name has another driver or other options.
        """
        raise NotImplementedError

    def get(self, name: str) -> Volume:
        """Raises NotFoundError `get <name>: no such volume`."""
        raise NotImplementedError

    def list(self) -> list[Volume]:
        """Every volume, by name (filters are the API's business)."""
        raise NotImplementedError

    def remove(self, name: str, force: bool = False) -> None:
        """Delete a volume and its content.

        Raises NotFoundError (not with `force`) and ConflictError `remove <name>: volume is in use - [<id>, …]`.
        """
        raise NotImplementedError

    def resolve(self, point: MountPoint, container_id: str) -> MountPoint:
        """Give a volume mount point its volume (created when missing): name, driver and source filled in.

        Other types of mount points are returned as they are.
        """
        raise NotImplementedError

    def mount(self, name: str, container_id: str) -> str:
        """Make the content available for a start; returns the host path. Counted by container."""
        raise NotImplementedError

    def unmount(self, name: str, container_id: str) -> None:
        """The container has stopped; unmounts a volume with `type`/`o`/`device` options when nobody is left."""
        raise NotImplementedError

    def copy_up(self, name: str, root: int, destination: str) -> bool:
        """Fill an empty volume with what the image has at `destination` below the directory descriptor `root`.

        Keeps owners, modes, times, extended attributes, links and devices. Returns whether anything was copied;
        does nothing when the volume has content.
        """
        raise NotImplementedError

    def disk_usage(self, name: str) -> int:
        """Bytes that the content takes, each inode once."""
        raise NotImplementedError

    def reconcile(self) -> None:
        """At the daemon's start: finish or undo what a crash left half-done."""
        raise NotImplementedError
