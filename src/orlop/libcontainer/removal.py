# SPDX-License-Identifier: Apache-2.0
"""Removing a container that has left nothing behind but its directories."""

import os

from orlop.cgroups import tree


def remove_ended(directory: str, cgroup_paths: dict[str, str]) -> bool:
    """Remove the state and control groups of a container whose init has been collected; never waits.

    For a caller that knows the container's record to have no poststop hooks and no systemd unit. False when
    something still is in its control groups: then Container.delete has to see to the rest.
    """
    for path in dict.fromkeys(cgroup_paths.values()):
        if not tree.remove(path):
            return False
    try:
        for name in os.listdir(directory):
            os.unlink(f"{directory}/{name}")
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    return True
