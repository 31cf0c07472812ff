# SPDX-License-Identifier: Apache-2.0
"""Limits and device access set in a container's control groups; loaded only where some are to be set."""

import os
from collections.abc import Callable

from orlop.cgroups import devices
from orlop.cgroups.plan import plan_v1, plan_v2
from orlop.cgroups.write import execute, explain, read_file, write_file
from orlop.oci.runtime import Resources

Directory = Callable[[str], int]
"""The descriptor of a controller's directory."""
Where = Callable[[str], str]
"""Its path, for errors."""


def apply_v1(resources: Resources, directory: Directory, where: Where, *, fresh: bool) -> None:
    """Set limits, and device access in a new group or where there are rules. Raises what `write.execute` does."""
    execute(plan_v1(resources, update=not fresh), directory, where)
    if not fresh and not resources.devices:
        return
    wanted = devices.evaluate(resources.devices)
    group = directory("devices")
    present = None if fresh else devices.parse_list(read_file(group, "devices.list"))
    try:
        _write_devices(group, devices.writes_v1(wanted, present))
    except OSError as error:
        raise explain(error, ("devices", "devices.allow", "device rules"), where) from None


def apply_v1_without_devices(resources: Resources, directory: Directory, where: Where) -> None:
    """Set the limits of a new group."""
    execute(plan_v1(resources, update=False), directory, where)


def apply_v2(resources: Resources, group: int, where: Where, *, fresh: bool) -> None:
    """As `apply_v1`, in the one directory of version 2."""
    execute(plan_v2(resources, update=not fresh), lambda _: group, where)
    if fresh or resources.devices:
        _set_device_program(resources, group, fresh=fresh)


def apply_v2_without_devices(resources: Resources, group: int, where: Where) -> None:
    """Set the limits of a new group."""
    execute(plan_v2(resources, update=False), lambda _: group, where)


def _set_device_program(resources: Resources, group: int, *, fresh: bool) -> None:
    access = devices.evaluate(resources.devices)
    if fresh and access.allow_by_default and not access.exceptions:
        return
    from orlop.unix import bpf

    old = [] if fresh else bpf.attached_device_programs(group)
    program = bpf.load_device_program(devices.program_v2(access))
    try:
        if len(old) == 1:
            bpf.attach_device_program(group, program, replaced=old[0])
        else:
            # Until the old ones are gone all must agree: never more access than before.
            bpf.attach_device_program(group, program)
            for other in old:
                bpf.detach_device_program(group, other)
    finally:
        for fd in (program, *old):
            os.close(fd)


def _write_devices(directory: int, steps: list[tuple[str, str]]) -> None:
    """Write version 1 device rules, opening each file once for a run of rules (one rule a write)."""
    start = 0
    while start < len(steps):
        end = start
        while end < len(steps) and steps[end][0] == steps[start][0]:
            end += 1
        write_file(directory, steps[start][0], *(value for _, value in steps[start:end]))
        start = end
