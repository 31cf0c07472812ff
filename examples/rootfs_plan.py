# SPDX-License-Identifier: Apache-2.0
"""Prints what a spec comes to in a root filesystem: the plan is data, made without touching the system.

Usage: rootfs_plan.py [config.json]; without one, the spec that `orlop-runc spec` writes.
"""

import stat
import sys

from orlop.libcontainer.rootfs.plan import RootfsPlan, plan_rootfs
from orlop.oci.runtime import Spec, decode_spec
from orlop.runc.spec import example


def main() -> int:
    """Plan and print."""
    spec = load(sys.argv[1]) if len(sys.argv) > 1 else example()
    # Where the container's control groups will be decides what a mount of type cgroup shows; "" is version 2.
    show(plan_rootfs(spec, "/bundle", {"": "/sys/fs/cgroup/example"}))
    return 0


def load(path: str) -> Spec:
    """The spec in a file."""
    with open(path, "rb") as file:
        return decode_spec(file.read())


def show(plan: RootfsPlan) -> None:
    """One line a step, in the order in which they are carried out."""
    print("root", plan.path, "read-only" if plan.read_only else "writable")
    for step in plan.mounts:
        kind = "bind" if step.bind else step.fstype
        options = ",".join(step.options.data) or "-"
        sealed = " (made read-only at the end)" if step.seal else ""
        print(f"mount {step.destination} {kind} {step.source} {options}{sealed}")
    for device in plan.devices:
        print("node", device.path, stat.filemode(device.mode), f"{device.device >> 8}:{device.device & 0xFF}")
    for path in plan.read_only_paths:
        print("read-only", path)
    for path in plan.masked:
        print("mask", path)


if __name__ == "__main__":
    raise SystemExit(main())
