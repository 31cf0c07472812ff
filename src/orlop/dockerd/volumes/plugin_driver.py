# SPDX-License-Identifier: Apache-2.0
"""A volume driver that is a plugin. All calls block."""

import logging
from typing import Any

import msgspec

from orlop.dockerd.plugins.client import PluginClient, Plugins
from orlop.errdefs import InternalError, NotFoundError, OrlopError

log = logging.getLogger("orlop.dockerd.volumes")

KIND = "VolumeDriver"
_SHORT_SECONDS = 60.0


class PluginVolume(msgspec.Struct, kw_only=True):
    """What a plugin tells of a volume."""

    name: str = msgspec.field(default="", name="Name")
    mountpoint: str = msgspec.field(default="", name="Mountpoint")
    created_at: str = msgspec.field(default="", name="CreatedAt")
    status: dict[str, Any] | None = msgspec.field(default=None, name="Status")


class _Answer(msgspec.Struct, kw_only=True):
    err: str = msgspec.field(default="", name="Err")
    mountpoint: str = msgspec.field(default="", name="Mountpoint")
    volume: PluginVolume | None = msgspec.field(default=None, name="Volume")
    volumes: list[PluginVolume] | None = msgspec.field(default=None, name="Volumes")
    capabilities: dict[str, str] | None = msgspec.field(default=None, name="Capabilities")


class PluginDriver:
    """The protocol VolumeDriver. Every call raises UnavailableError, and InternalError with the plugin's words."""

    def __init__(self, client: PluginClient) -> None:
        self.name = client.name
        self._client = client
        self._scope = ""

    def create(self, name: str, options: dict[str, str]) -> None:
        """Make a volume."""
        self._call("Create", {"Name": name, "Opts": options or None})

    def remove(self, name: str) -> None:
        """Delete one."""
        self._call("Remove", {"Name": name}, _SHORT_SECONDS)

    def mount(self, name: str, container_id: str) -> str:
        """Make the content available for a container; the path on this machine."""
        path = self._call("Mount", {"Name": name, "ID": container_id}).mountpoint
        path = path or self._call("Path", {"Name": name}, _SHORT_SECONDS).mountpoint
        if not path.startswith("/"):
            raise InternalError(f"volume driver {self.name} mounts {name} at {path!r}, which is no absolute path")
        return path

    def unmount(self, name: str, container_id: str) -> None:
        """A container needs it no more."""
        self._call("Unmount", {"Name": name, "ID": container_id}, _SHORT_SECONDS)

    def get(self, name: str) -> PluginVolume | None:
        """What it knows of a volume; None if it does not know it."""
        try:
            return self._call("Get", {"Name": name}, _SHORT_SECONDS).volume
        except InternalError:
            return None  # the protocol has no words for "there is none"

    def list(self) -> list[PluginVolume]:
        """All its volumes."""
        return self._call("List", {}, _SHORT_SECONDS).volumes or []

    @property
    def scope(self) -> str:
        """`local` or `global`; asking is optional for the plugin, and done once."""
        if not self._scope:
            try:
                told = (self._call("Capabilities", {}, _SHORT_SECONDS).capabilities or {}).get("Scope", "")
            except InternalError:
                told = ""
            self._scope = "global" if told.lower() == "global" else "local"
        return self._scope

    def _call(self, method: str, body: object, seconds: float = 120.0) -> _Answer:
        answer = self._client.call(f"VolumeDriver.{method}", body, _Answer, seconds)
        if answer.err:
            raise InternalError(answer.err)
        return answer


class PluginDrivers:
    """Volume drivers by the names of their plugins."""

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins
        self._known: dict[str, PluginDriver] = {}

    def get(self, name: str) -> PluginDriver:
        """Raises NotFoundError, in Docker's words, and UnavailableError."""
        try:
            client = self._plugins.get(name, KIND)
        except NotFoundError as error:
            self._known.pop(name, None)
            raise NotFoundError(f"error looking up volume plugin {name}: {error}") from None
        return self._known.setdefault(name, PluginDriver(client))

    def all(self) -> list[PluginDriver]:
        """Every driver that is there."""
        names = [client.name for client in self._plugins.of_kind(KIND, lambda problem: None)]
        found = []
        for name in names:
            try:
                found.append(self.get(name))
            except OrlopError:
                continue  # gone this very moment
        return found

    def names(self) -> list[str]:
        """Drivers that have been used."""
        return sorted(self._known)

    def listed(self) -> dict[str, tuple[PluginVolume, PluginDriver]]:
        """Every volume that plugins know, and whose it is."""
        told = {}
        for driver in self.all():
            try:
                told.update({volume.name: (volume, driver) for volume in driver.list()})
            except OrlopError as error:
                log.warning("volumes of driver %s: %s", driver.name, error)
        return told
