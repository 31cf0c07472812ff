# SPDX-License-Identifier: Apache-2.0
"""Control groups of containers, version 1 and 2: `new_manager(path)`, then the methods of `Manager`."""

import os
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from orlop.cgroups.hierarchies import container_paths, mode, mounts
from orlop.cgroups.manager import Manager

if TYPE_CHECKING:
    from orlop.cgroups.rootless import apply_rootless, permitted, rootless_paths
    from orlop.cgroups.stats import Stats

__all__ = [
    "Manager",
    "Stats",
    "apply_rootless",
    "drain_oom",
    "load_manager",
    "mode",
    "new_manager",
    "permitted",
    "preload",
    "rootless_paths",
]

# Imported when first asked for: removing a container takes none of them.
_LATE = {
    "Stats": "orlop.cgroups.stats",
    "apply_rootless": "orlop.cgroups.rootless",
    "permitted": "orlop.cgroups.rootless",
    "rootless_paths": "orlop.cgroups.rootless",
}


def __getattr__(name: str) -> object:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    __import__(_LATE[name])
    found = globals()[name] = getattr(sys.modules[_LATE[name]], name)
    return found


def new_manager(
    cgroups_path: str, systemd: bool = False, annotations: Mapping[str, str] = MappingProxyType({})
) -> Manager:
    """The control groups of a new container, by linux.cgroupsPath; nothing is made yet.

    On a hybrid system the version 1 controllers are used, as the originals do. Raises InvalidArgumentError for the
    path. With `systemd` the path is `slice:prefix:name`, and `annotations` named `org.systemd.property.*` are
    properties of the unit; raises FailedPreconditionError where it does not run.
    """
    if systemd:
        from orlop.cgroups.systemd import new_systemd_manager

        return new_systemd_manager(cgroups_path, annotations)
    return load_manager(container_paths(cgroups_path, unified=mode() == "v2"))


def load_manager(paths: dict[str, str], systemd: bool = False) -> Manager:
    """The control groups of a container that exists, by what `Manager.paths()` said.

    With `systemd` changes and the removal go by its unit too.
    """
    if systemd:
        from orlop.cgroups.systemd import load_systemd_manager

        return load_systemd_manager(paths)
    if "" in paths:
        from orlop.cgroups.v2 import ManagerV2

        return ManagerV2({"": paths[""]})
    from orlop.cgroups.v1 import ManagerV1

    return ManagerV1(paths)


def drain_oom(fd: int) -> int:
    """Read away the events of `Manager.oom_fd()`; how many, on version 1, where the group's removal is one too."""
    try:
        read = os.read(fd, 65536)
    except BlockingIOError:
        return 0
    return int.from_bytes(read, sys.byteorder) if len(read) == 8 else 0


def preload() -> None:
    """For a zygote: import what containers will need here, and read the mount table once."""
    from importlib import import_module

    mounts()
    versions = ("v2", "stats_v2") if mode() == "v2" else ("v1", "stats_v1")
    for name in (*versions, "limits", "rootless"):
        import_module(f"orlop.cgroups.{name}")
