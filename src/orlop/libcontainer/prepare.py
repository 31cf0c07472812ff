# SPDX-License-Identifier: Apache-2.0
"""From a spec to the plans that the child carries out; everything expensive happens here, before the fork."""

import os

from orlop.errdefs import InvalidArgumentError
from orlop.libcontainer import seccomp, trampoline
from orlop.libcontainer.capabilities import CapabilitySets
from orlop.libcontainer.errors import explain
from orlop.libcontainer.journal import warn
from orlop.libcontainer.options import Stdio
from orlop.libcontainer.program import Filter, Program, prepare_environment
from orlop.libcontainer.rootfs.plan import RootfsPlan
from orlop.oci.runtime import DeviceCgroup, Linux, Personality, Process, Resources, Seccomp
from orlop.unix import mount as mnt

_PERSONALITIES = {"LINUX": 0x0000, "LINUX32": 0x0008}

# What every container may do with devices, whatever else is denied: (type, major, minor, access).
_DEFAULT_RULES: tuple[tuple[str, int | None, int | None, str], ...] = (
    ("c", None, None, "m"),
    ("b", None, None, "m"),
    ("c", 1, 3, "rwm"),
    ("c", 1, 5, "rwm"),
    ("c", 1, 7, "rwm"),
    ("c", 1, 8, "rwm"),
    ("c", 1, 9, "rwm"),
    ("c", 5, 0, "rwm"),
    ("c", 5, 2, "rwm"),
    ("c", 136, None, "rwm"),
)


def prepare_program(
    process: Process,
    stdio: Stdio | None,
    preserve_fds: int,
    profile: Seccomp | None,
    *,
    in_user_namespace: bool,
) -> Program:
    """The program of an init or an exec, with a descriptor: `close_program`. Raises InvalidArgumentError."""
    capabilities = CapabilitySets(process.capabilities)
    if capabilities.unknown:
        warn(f"unknown capabilities: {' '.join(sorted(capabilities.unknown))}")
    filter_ = None
    if profile is not None:
        filter_ = Filter(seccomp.compile(profile), seccomp.filter_flags(profile))
    return Program(
        process=process,
        environment=prepare_environment(process.env),
        stdio=stdio,
        preserve_fds=preserve_fds,
        capabilities=capabilities,
        filter=filter_,
        set_rlimits=not in_user_namespace,
        trampoline=trampoline.create() if trampoline.available(profile) else -1,
    )


def close_program(program: Program) -> None:
    """Close what `prepare_program` opened, in the parent."""
    if program.trampoline >= 0:
        os.close(program.trampoline)
        program.trampoline = -1


def effective_resources(linux: Linux) -> Resources:
    """The spec's resources, with the devices that every container has access to where access is restricted."""
    resources = linux.resources or Resources()
    if not resources.devices:
        return resources
    rules = [
        DeviceCgroup(allow=True, type=t, major=major, minor=minor, access=a)
        for t, major, minor, a in _DEFAULT_RULES
    ]
    copy = Resources(**{name: getattr(resources, name) for name in resources.__struct_fields__})
    copy.devices = [*resources.devices, *rules]
    return copy


def personality_of(personality: Personality | None) -> int | None:
    """The number for personality(2). Raises InvalidArgumentError."""
    if personality is None:
        return None
    number = _PERSONALITIES.get(personality.domain)
    if number is None:
        raise InvalidArgumentError(
            f'linux.personality.domain is "{personality.domain}", expected LINUX or LINUX32'
        )
    return number


def open_sources(plan: RootfsPlan) -> None:
    """Clone the sources of bind mounts in the parent: the user namespace's root may not reach them.

    Raises InvalidArgumentError naming the source.
    """
    for step in plan.mounts:
        if step.bind:
            recursive = mnt.AT_RECURSIVE if step.options.recursive else 0
            try:
                step.tree = mnt.open_tree(mnt.AT_FDCWD, step.source, mnt.OPEN_TREE_CLONE | recursive)
            except OSError as error:
                raise InvalidArgumentError(
                    f'error mounting "{step.source}" to rootfs at "{step.destination}": {explain(error)}'
                ) from error


def close_sources(plan: RootfsPlan) -> None:
    """Close what `open_sources` opened."""
    for step in plan.mounts:
        if step.tree >= 0:
            os.close(step.tree)
            step.tree = -1
