# SPDX-License-Identifier: Apache-2.0
"""A container's device nodes and the rules of its device cgroup."""

import os
import re
import stat
from collections.abc import Iterator

from orlop.engine.types import DeviceMapping, HostConfig
from orlop.errdefs import InvalidArgumentError
from orlop.oci.defaults import docker_device_rules
from orlop.oci.runtime import Device, DeviceCgroup

_RULE = re.compile(r"([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})")
# In /dev, but made anew in each container.
_SKIPPED_DIRECTORIES = frozenset(("pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"))


def device_rules(host_config: HostConfig) -> list[DeviceCgroup]:
    """The rules of --device-cgroup-rule. Raises InvalidArgumentError for a malformed one."""
    rules = []
    for text in host_config.device_cgroup_rules or []:
        match = _RULE.fullmatch(text)
        if match is None:
            raise InvalidArgumentError(f"invalid device cgroup rule format: '{text}'")
        kind, major, minor, access = match.groups()
        rules.append(
            DeviceCgroup(
                allow=True,
                type=kind,
                major=None if major == "*" else int(major),
                minor=None if minor == "*" else int(minor),
                access=access,
            )
        )
    return rules


def container_devices(host_config: HostConfig) -> tuple[list[Device], list[DeviceCgroup]]:
    """Nodes to make and rules, Docker's defaults first.

    A privileged container gets all nodes of the host's /dev and access to everything. Raises InvalidArgumentError
    for a path that is no device.
    """
    nodes: list[Device] = []
    if host_config.privileged:
        nodes += host_devices("/dev")
        for mapping in host_config.devices or ():
            if mapping.path_on_host != mapping.path_in_container:
                nodes += mapped_devices(mapping)
        return nodes, [DeviceCgroup(allow=True, access="rwm")]
    rules = docker_device_rules()
    for mapping in host_config.devices or ():
        mapped = mapped_devices(mapping)
        nodes += mapped
        rules += [
            DeviceCgroup(
                allow=True,
                type=node.type,
                major=node.major,
                minor=node.minor,
                access=mapping.cgroup_permissions or "rwm",
            )
            for node in mapped
        ]
    return nodes, rules + device_rules(host_config)


def mapped_devices(mapping: DeviceMapping) -> list[Device]:
    """The node of one --device, or all nodes in a directory, below its path in the container."""
    access = mapping.cgroup_permissions or "rwm"
    if access.strip("rwm"):
        raise InvalidArgumentError(f'invalid device mode: "{access}"')
    inside = mapping.path_in_container or mapping.path_on_host
    resolved = os.path.realpath(mapping.path_on_host)
    try:
        found = os.stat(resolved)
    except OSError as error:
        raise _no_device(mapping, (error.strerror or "").lower()) from None
    if node := _node(inside, found):
        return [node]
    nodes = list(_below(resolved, inside)) if stat.S_ISDIR(found.st_mode) else []
    if not nodes:
        raise _no_device(mapping, "not a device node")
    return nodes


def host_devices(directory: str) -> list[Device]:
    """All device nodes of the host's /dev but those that each container has for itself."""
    nodes = []
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in _SKIPPED_DIRECTORIES:
                nodes += host_devices(entry.path)
        elif entry.name != "console" and (node := _lookup(entry.path, entry.path)):
            nodes.append(node)
    return nodes


def device_number(path: str) -> tuple[int, int]:
    """Major and minor number of a device node. Raises InvalidArgumentError."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise InvalidArgumentError(f"stat {path}: {(error.strerror or '').lower()}") from None
    return os.major(found.st_rdev), os.minor(found.st_rdev)


def _below(directory: str, inside: str) -> Iterator[Device]:
    for parent, _, names in os.walk(directory):
        for name in sorted(names):
            path = os.path.join(parent, name)
            if node := _lookup(path, inside + path.removeprefix(directory)):
                yield node


def _lookup(path: str, inside: str) -> Device | None:
    try:
        return _node(inside, os.lstat(path))
    except FileNotFoundError:
        return None  # gone since the directory was read


def _node(path: str, found: os.stat_result) -> Device | None:
    kind = "c" if stat.S_ISCHR(found.st_mode) else "b" if stat.S_ISBLK(found.st_mode) else None
    if kind is None:
        return None
    return Device(
        path=path,
        type=kind,
        major=os.major(found.st_rdev),
        minor=os.minor(found.st_rdev),
        file_mode=stat.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
    )


def _no_device(mapping: DeviceMapping, reason: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f'error gathering device information while adding custom device "{mapping.path_on_host}": {reason}'
    )
