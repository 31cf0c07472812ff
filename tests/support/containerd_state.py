# SPDX-License-Identifier: Apache-2.0
"""What a containerd has on the machine, and whether some record owns each piece of it."""

from __future__ import annotations

import glob
import hashlib
import os

from support.containerd import Daemon, mounts_below, processes_about, wait_until

from orlop.containerd.check import Report, check

TASKS = "io.containerd.runtime.v2.task"
RUNTIME_ROOTS = ("/run/orlop/runc", "/run/containerd/runc")


def control_groups(daemon: Daemon) -> set[str]:
    """The tasks that have a control group, empty or not."""
    return {
        name
        for parent in glob.glob(f"/sys/fs/cgroup/*/{daemon.namespace}")
        for name in os.listdir(parent)
        if os.path.isdir(f"{parent}/{name}")
    }


def runtime_states(daemon: Daemon) -> set[str]:
    """The containers that a runtime knows."""
    return {
        os.path.basename(path) for root in RUNTIME_ROOTS for path in glob.glob(f"{root}/{daemon.namespace}/[!.]*")
    }


def shims(daemon: Daemon) -> list[int]:
    """The processes whose directory is a bundle of the daemon: its shims."""
    found = []
    for pid, _ in processes_about(f"{daemon.state}/{TASKS}"):
        try:
            if os.readlink(f"/proc/{pid}/cwd").startswith(f"{daemon.state}/{TASKS}/"):
                found.append(pid)
        except FileNotFoundError:
            continue  # it ended meanwhile
    return found


def problems(daemon: Daemon) -> list[str]:
    """Everything that no record owns, and every record that owns nothing."""
    tasks = set(daemon.ctr("tasks", "ls", "-q").ok().split())
    found = [str(finding) for finding in check(daemon.root, daemon.state).findings]
    owned = {
        "control groups": control_groups(daemon),
        "runtime states": runtime_states(daemon),
        "bundles": set(_names(f"{daemon.state}/{TASKS}/{daemon.namespace}")),
        "root file systems": {
            point.split("/")[-2] for point in mounts_below(daemon.state) if point.endswith("/rootfs")
        },
    }
    found += [f"{what} {sorted(ids)}, tasks {sorted(tasks)}" for what, ids in owned.items() if ids != tasks]
    if len(shims(daemon)) != len(tasks):
        found.append(f"{len(shims(daemon))} shims, tasks {sorted(tasks)}")
    sockets = set(_names(f"{daemon.state}/s")) - {_debug_socket(daemon, id) for id in tasks}
    if len(sockets) not in (0, len(tasks)):  # Debian's shims have theirs elsewhere
        found.append(f"{len(sockets)} sockets, tasks {sorted(tasks)}")
    return found


def _debug_socket(daemon: Daemon, id: str) -> str:
    """The name of the one that a shim has besides when containerd logs at the level debug."""
    return hashlib.sha256(f"{daemon.address}/{daemon.namespace}/{id}/debug".encode()).hexdigest()


def assert_settled(daemon: Daemon) -> None:
    """Soon, nothing is left that no record owns."""
    last: list[str] = []

    def settled() -> bool:
        last[:] = problems(daemon)
        return not last

    try:
        wait_until(settled)
    except AssertionError:
        raise AssertionError("\n".join([*last, daemon.log()[-6000:]])) from None


def report_of(daemon: Daemon) -> Report:
    """What `orlop-containerd check` says."""
    return check(daemon.root, daemon.state)


def _names(directory: str) -> list[str]:
    return os.listdir(directory) if os.path.isdir(directory) else []
