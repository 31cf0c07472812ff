# SPDX-License-Identifier: Apache-2.0
"""Control groups for a runtime that may not own any: as many hierarchies as let it, down to none at all."""

import errno
import os

from orlop.cgroups.hierarchies import mode, mounts, own_groups
from orlop.cgroups.manager import Manager
from orlop.cgroups.plan import plan_v1
from orlop.errdefs import FailedPreconditionError
from orlop.oci.runtime import Resources

# The user is not the owner of the directory, or a container has mounted the hierarchy read-only.
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT)


def rootless_paths(container_id: str) -> dict[str, str]:
    """The groups to try for a container whose spec names none: in this process's own group, where one delegated
    to the user would be. On version 2 beside it, since a group with processes cannot hand controllers on.
    """
    unified = mode() == "v2"
    own = own_groups()
    paths: dict[str, str] = {}
    for controllers, mountpoint, root in mounts():
        if unified == bool(controllers):
            continue
        for controller in controllers or ("",):
            inside = os.path.relpath(own.get(controller, "/"), root)
            above = os.path.dirname(inside) if unified else inside
            outside = above.startswith("..")
            paths[controller] = os.path.normpath(f"{mountpoint}/{'' if outside else above}/{container_id}")
    return paths


def permitted(paths: dict[str, str]) -> dict[str, str]:
    """Those of `paths` that this process can make a group at and enter it; nothing is left behind."""
    verdicts: dict[str, bool] = {}
    for path in paths.values():
        if path not in verdicts:
            verdicts[path] = _may_make(path)
    return {controller: path for controller, path in paths.items() if verdicts[path]}


def apply_rootless(manager: Manager, resources: Resources) -> None:
    """Set the limits; device access, which a user cannot restrict, is left to what the user may open anyway.

    Raises FailedPreconditionError when a limit is asked for and there is no group to set it in.
    """
    asked = Resources(**{name: getattr(resources, name) for name in resources.__struct_fields__})
    asked.devices = []
    if not manager.paths():
        if asked.unified or plan_v1(asked, update=False):
            raise FailedPreconditionError(
                "linux.resources: limits need a control group, and this user may make none (see delegation in "
                "cgroups(7)); leave out resources and cgroupsPath to go without"
            )
        return
    manager.apply_limits(asked)


def _may_make(path: str) -> bool:
    parent = os.path.dirname(path)
    while not os.path.isdir(parent) and len(parent) > 1:
        parent = os.path.dirname(parent)
    try:
        probe = os.path.join(parent, f".orlop-{os.getpid()}")
        os.mkdir(probe, 0o755)
        os.rmdir(probe)
    except OSError as error:
        if error.errno not in _FORBIDDEN:
            raise
        return False
    return may_enter(parent)


def may_enter(path: str) -> bool:
    """Whether this process may move itself into the group at `path` as far as those above it have a say: version 2
    asks for the right to move processes at the nearest group above both old and new (cgroups(7)).
    """
    common = _common_group(path)
    return not common or os.access(f"{common}/cgroup.procs", os.W_OK, effective_ids=True)


def _common_group(path: str) -> str:
    unified = next((entry for entry in mounts() if not entry[0] and (path + "/").startswith(entry[1] + "/")), None)
    if unified is None:
        return ""
    _, mountpoint, root = unified
    inside = os.path.relpath(own_groups().get("", "/"), root)
    own = os.path.normpath(f"{mountpoint}/{'' if inside.startswith('..') else inside}")
    return os.path.commonpath([own, path])


__all__ = ["apply_rootless", "may_enter", "permitted", "rootless_paths"]
