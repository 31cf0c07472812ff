# SPDX-License-Identifier: Apache-2.0
"""The mounts of a container that CRIU cannot make by itself: binds of the host's files, and their mount points."""

import os
import stat

from orlop.libcontainer.rootfs.plan import MountStep, RootfsPlan
from orlop.libcontainer.rootfs.resolve import make_directories, make_file
from orlop.oci.runtime import Linux, Spec
from orlop.unix import tables


def external_mounts(spec: Spec, plan: RootfsPlan, pid: int = 0) -> dict[str, str]:
    """Mount points in the container to what is bound there from outside.

    With `pid`, only those that process sees as mounts. Nodes in /dev are among them where they could not be made
    (a user namespace).
    """
    found = {step.destination: step.source for step in plan.mounts if step.bind}
    assert spec.linux is not None
    if any(namespace.type == "user" for namespace in spec.linux.namespaces):
        found |= {device.path: device.path for device in plan.devices}
    if pid:
        points = _mount_points(pid)
        found = {destination: source for destination, source in found.items() if destination in points}
    return found


def masked_files(plan: RootfsPlan, pid: int) -> list[str]:
    """The files of a container that the null device covers."""
    points = _mount_points(pid)
    return [path for path in plan.masked if path in points and not os.path.isdir(f"/proc/{pid}/root{path}")]


def make_mount_points(root: int, plan: RootfsPlan, externals: dict[str, str]) -> None:
    """What CRIU mounts on has to exist, but where it restores the filesystem that holds it."""
    restored = [step.destination for step in plan.mounts if not step.bind and step.fstype != "cgroup"]
    for step in plan.mounts:
        if not _below(step.destination, restored):
            _make(root, step, externals)


def _make(root: int, step: MountStep, externals: dict[str, str]) -> None:
    is_file = step.bind and not stat.S_ISDIR(os.stat(step.source).st_mode)
    holder = next((point for point in externals if _below(step.destination, [point])), None)
    inside, base = step.destination, root
    if holder is not None:
        # Below another bind: in what is bound there.
        inside = os.path.relpath(step.destination, holder)
        base = os.open(externals[holder], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close((make_file if is_file else make_directories)(base, inside))
    finally:
        if base != root:
            os.close(base)


def external_namespaces(linux: Linux) -> list[tuple[str, str, str]]:
    """Network and PID namespaces that the container has joined: name, path, CRIU's key for it."""
    names = {"network": "net", "pid": "pid"}
    return [
        (names[entry.type], entry.path, f"extRoot{names[entry.type].capitalize()}NS")
        for entry in linux.namespaces
        if entry.path and entry.type in names
    ]


def _below(path: str, others: list[str]) -> bool:
    return any(path.startswith(other + "/") for other in others)


def _mount_points(pid: int) -> set[str]:
    return {tables.unescape(line.split(" ")[4]) for line in tables.rows(f"/proc/{pid}/mountinfo")}
