# SPDX-License-Identifier: Apache-2.0
"""From a spec to the plans that the child carries out; everything expensive happens here, before the fork."""

import os

from orlop.errdefs import InvalidArgumentError
from orlop.libcontainer import trampoline
from orlop.libcontainer.capabilities import CapabilitySets
from orlop.libcontainer.errors import explain
from orlop.libcontainer.journal import warn
from orlop.libcontainer.options import Stdio
from orlop.libcontainer.program import Filter, Program, prepare_environment
from orlop.libcontainer.rootfs.plan import MountStep
from orlop.libcontainer.scheduling import plan_scheduling
from orlop.oci.runtime import DeviceCgroup, IDMapping, Linux, Personality, Process, Resources
from orlop.unix import mount as mnt

SELINUX_FS = "/sys/fs/selinux"

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
    linux: Linux,
    *,
    is_exec: bool,
) -> Program:
    """The program of an init or an exec. Raises InvalidArgumentError."""
    capabilities = CapabilitySets(process.capabilities)
    if capabilities.unknown:
        warn(f"unknown capabilities: {' '.join(sorted(capabilities.unknown))}")
    if process.terminal:
        __import__("orlop.libcontainer.terminal")  # the child, which needs it, cannot import any more
    profile = linux.seccomp
    filter_ = None
    if profile is not None:
        from orlop.libcontainer import seccomp

        filter_ = Filter(seccomp.compile(profile), seccomp.filter_flags(profile))
    return Program(
        process=process,
        environment=prepare_environment(process.env),
        stdio=stdio,
        preserve_fds=preserve_fds,
        capabilities=capabilities,
        filter=filter_,
        scheduling=plan_scheduling(process, linux.memory_policy, is_exec=is_exec),
        set_rlimits=all(namespace.type != "user" for namespace in linux.namespaces),
    )


def open_program(program: Program, linux: Linux) -> None:
    """Make the trampoline, for the child to inherit; `close_program` afterwards."""
    if trampoline.available(linux.seccomp):
        program.trampoline = trampoline.create()


def close_program(program: Program) -> None:
    """Close what `open_program` opened, in the parent."""
    if program.trampoline >= 0:
        os.close(program.trampoline)
        program.trampoline = -1


def effective_resources(linux: Linux) -> Resources:
    """The spec's resources, with the devices that every container has access to where access is restricted."""
    resources = linux.resources or Resources()
    if (memory := resources.memory) is not None and (memory.kernel or memory.kernel_tcp):
        warn("linux.resources.memory.kernel, kernelTCP: kernel memory has no limit of its own any more: ignored")
    if not resources.devices:
        return resources
    rules = [
        DeviceCgroup(allow=True, type=t, major=major, minor=minor, access=a)
        for t, major, minor, a in _DEFAULT_RULES
    ]
    copy = Resources(**{name: getattr(resources, name) for name in resources.__struct_fields__})
    copy.devices = [*resources.devices, *rules]
    return copy


def mount_label_of(linux: Linux) -> str:
    """The label of new filesystems: the spec's where the kernel has SELinux, or none and a warning."""
    if linux.mount_label and not os.path.exists(SELINUX_FS):
        warn("linux.mountLabel: ignored: this system has no SELinux")
        return ""
    return linux.mount_label


def personality_of(personality: Personality | None) -> int | None:
    """The number for personality(2). Raises InvalidArgumentError."""
    if personality is None:
        return None
    if personality.flags:
        warn(f"linux.personality.flags: ignored: {' '.join(personality.flags)}")
    number = _PERSONALITIES.get(personality.domain)
    if number is None:
        raise InvalidArgumentError(
            f'linux.personality.domain is "{personality.domain}", expected LINUX or LINUX32'
        )
    return number


def open_sources(mounts: list[MountStep], linux: Linux, *, all_binds: bool) -> None:
    """Clone the sources of bind mounts in the parent, where the child cannot.

    That is `all_binds` in a user namespace, whose root may not reach them, and those with ids of their own.
    Raises InvalidArgumentError naming the source.
    """
    for step in mounts:
        if not step.bind or not (all_binds or step.idmap):
            continue
        recursive = mnt.AT_RECURSIVE if step.options.recursive else 0
        try:
            try:
                step.tree = mnt.open_tree(mnt.AT_FDCWD, step.source, mnt.OPEN_TREE_CLONE | recursive)
            except PermissionError:
                if step.idmap:
                    raise
                continue  # no rights over this mount namespace: the child has them over its own
            if step.idmap:
                _map_ids(step, linux)
        except OSError as error:
            raise InvalidArgumentError(
                f'error mounting "{step.source}" to rootfs at "{step.destination}": {explain(error)}'
            ) from error


def _map_ids(step: MountStep, linux: Linux) -> None:
    """Give the cloned tree its mapping of ids, those of the container's user namespace unless it has its own."""
    uids = step.uid_mappings or linux.uid_mappings
    gids = step.gid_mappings or linux.gid_mappings
    if not uids or not gids:
        raise InvalidArgumentError(f"mounts: {step.destination}: idmap needs uidMappings and gidMappings")
    namespace = user_namespace(uids, gids)
    try:
        mnt.mount_setattr(
            step.tree,
            b"",
            mnt.AT_EMPTY_PATH | (mnt.AT_RECURSIVE if step.idmap == "ridmap" else 0),
            attr_set=mnt.MOUNT_ATTR_IDMAP,
            userns_fd=namespace,
        )
    finally:
        os.close(namespace)


def user_namespace(uids: list[IDMapping], gids: list[IDMapping]) -> int:
    """A descriptor of a new user namespace with these mappings. Raises InvalidArgumentError."""
    from orlop.unix import idmap  # few containers need one

    ranges = ([(one.container_id, one.host_id, one.size) for one in mappings] for mappings in (uids, gids))
    try:
        return idmap.user_namespace(*ranges)
    except OSError as error:
        raise InvalidArgumentError(f"linux.uidMappings, linux.gidMappings: {explain(error)}") from error


def close_sources(mounts: list[MountStep]) -> None:
    """Close what `open_sources` opened."""
    for step in mounts:
        if step.tree >= 0:
            os.close(step.tree)
            step.tree = -1
