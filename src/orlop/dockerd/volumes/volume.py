# SPDX-License-Identifier: Apache-2.0
"""A volume as the daemon tells of it, and the names that one may have."""

import datetime
import re
from typing import Any

import msgspec

from orlop.dockerd.volumes.plugin_driver import PluginDriver, PluginVolume
from orlop.dockerd.volumes.store import VolumeRow
from orlop.errdefs import ConflictError, InvalidArgumentError

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_LONGEST = 240
"""Bytes; the file system's limit, less what a volume that is being removed is called."""


class Volume(msgspec.Struct, kw_only=True):
    """One volume; `inspect()` is its form in the Engine API."""

    name: str
    driver: str = "local"
    mountpoint: str
    created_at: str
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    anonymous: bool = False
    scope: str = "local"
    status: dict[str, Any] | None = None

    def inspect(self) -> dict[str, Any]:
        """The Engine API's Volume object."""
        shown = {
            "CreatedAt": self.created_at,
            "Driver": self.driver,
            "Labels": self.labels or None,
            "Mountpoint": self.mountpoint,
            "Name": self.name,
            "Options": self.options or None,
            "Scope": self.scope,
        }
        return shown if self.status is None else {**shown, "Status": self.status}


def of_plugin(row: VolumeRow, told: PluginVolume, driver: PluginDriver) -> Volume:
    """One that a plugin has told of."""
    return Volume(
        name=row.name,
        driver=row.driver,
        mountpoint=told.mountpoint,
        created_at=told.created_at or row.created_at,
        labels=row.labels,
        options=row.options,
        anonymous=row.anonymous,
        scope=driver.scope,
        status=told.status or {},
    )


def without_driver(row: VolumeRow) -> Volume:
    """What we know ourselves, while its plugin is away."""
    return Volume(
        name=row.name,
        driver=row.driver,
        mountpoint="",
        created_at=row.created_at,
        labels=row.labels,
        options=row.options,
        anonymous=row.anonymous,
    )


def check_name(name: str) -> None:
    """Raises InvalidArgumentError with Docker's text for a name that cannot be a local volume's."""
    if len(name) == 1:
        raise InvalidArgumentError(
            "volume name is too short, names should be at least two alphanumeric characters"
        )
    if not NAME.fullmatch(name):
        raise InvalidArgumentError(
            f'"{name}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" '
            "are allowed. If you intended to pass a host directory, use absolute path"
        )
    if len(name) > _LONGEST:
        raise InvalidArgumentError(f'volume name "{name}" is too long')


def name_conflict(there: VolumeRow) -> ConflictError:
    """The name is that of a volume of another driver."""
    return ConflictError(
        f"conflict: volume name must be unique: a volume named {there.name} already exists with the "
        f"{there.driver} driver. Choose a different volume name"
    )


def now() -> str:
    """The moment, as volumes tell it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
