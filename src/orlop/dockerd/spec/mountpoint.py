# SPDX-License-Identifier: Apache-2.0
"""The type of one resolved mount of a container, as dockerd stores it and as `docker inspect` shows it."""

from typing import Any

from orlop.engine.types import Mount, _Struct


class MountPoint(_Struct, omit_defaults=True):
    """One of the user's mounts (-v, --mount, --volumes-from, an image's VOLUME).

    `type` is bind, volume, tmpfs or image. For a volume, `source` (a host path) and `driver` are empty until
    `VolumeService.resolve` has filled them in; an anonymous volume has no `name` until then either.
    `spec` is the request as the API's Mount (a bind string is translated to one), with all its options.
    """

    type: str
    destination: str
    name: str = ""
    source: str = ""
    driver: str = ""
    mode: str = ""
    rw: bool = True
    propagation: str = ""
    copy_data: bool = False
    anonymous: bool = False
    create_source: bool = False
    """A bind given by -v: its source directory is created when it does not exist."""
    spec: Mount | None = None

    def inspect(self) -> dict[str, Any]:
        """The object in `Mounts` of GET /containers/{id}/json."""
        shown: dict[str, Any] = {"Type": self.type}
        if self.name:
            shown["Name"] = self.name
        shown |= {"Source": self.source, "Destination": self.destination}
        if self.driver:
            shown["Driver"] = self.driver
        return shown | {"Mode": self.mode, "RW": self.rw, "Propagation": self.propagation}
