# SPDX-License-Identifier: Apache-2.0
"""Prints the writes that OCI resources come to, for version 1 and version 2 of control groups.

Usage: cgroup_writes.py [resources.json]; without one, half a processor, 64 MiB and 100 processes.
"""

import sys

from orlop.cgroups.plan import plan_v1, plan_v2
from orlop.codec import decode
from orlop.oci.runtime import CPU, Memory, Pids, Resources


def main() -> int:
    """Plan and print."""
    if len(sys.argv) > 1:
        with open(sys.argv[1], "rb") as file:
            resources = decode(file.read(), Resources)
    else:
        resources = Resources(
            cpu=CPU(quota=50_000, period=100_000, shares=512),
            memory=Memory(limit=64 << 20, swap=128 << 20),
            pids=Pids(limit=100),
        )
    for version, plan in (("v1", plan_v1), ("v2", plan_v2)):
        for controller, file_name, value in plan(resources, update=False):
            print(version, controller, file_name, value)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
