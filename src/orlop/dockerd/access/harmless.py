# SPDX-License-Identifier: Apache-2.0
"""What a container must not have whose user may only have their own: all that reaches the host or others. Pure."""

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from orlop.engine.types import HostConfig, PortBinding

Bindings = dict[str, list[PortBinding] | None]

_SAFE_OPTIONS = ("no-new-privileges", "no-new-privileges:true", "no-new-privileges=true")
_COMMON_NETWORKS = ("", "default", "bridge", "none")
_FIRST_PORT = 1024
_DEFAULT_LOGS = ("", "json-file", "local", "none")


class Owns(NamedTuple):
    """What is the asking user's own: containers, volumes and networks by reference."""

    container: Callable[[str], bool]
    volume: Callable[[str], bool]
    network: Callable[[str], bool]


def reaches_out(host: HostConfig, networks: Collection[str], owns: Owns) -> str:
    """The first field by which a container would reach the host or what is another's; "" if there is none.

    `networks` are those of the request's NetworkingConfig.
    """
    for field, wanted in _FORBIDDEN.items():
        if wanted(host):
            return f"HostConfig.{field}"
    return (
        _foreign_namespace(host, owns)
        or _foreign_network((host.network_mode, *networks), owns)
        or _foreign_containers(host, owns)
        or _foreign_mounts(host, owns)
        or low_port(host.port_bindings)
    )


def low_port(bindings: Bindings) -> str:
    """A host port that only root may have on its own."""
    for wanted in bindings.values():
        for binding in wanted or []:
            if binding.host_port and int(binding.host_port.partition("-")[0]) < _FIRST_PORT:
                return "HostConfig.PortBindings"
    return ""


def _foreign_namespace(host: HostConfig, owns: Owns) -> str:
    for field, mode in (
        ("PidMode", host.pid_mode),
        ("IpcMode", host.ipc_mode),
        ("UTSMode", host.uts_mode),
        ("UsernsMode", host.userns_mode),
        ("CgroupnsMode", host.cgroupns_mode),
    ):
        if mode == "host" or (mode.startswith("container:") and not owns.container(mode.partition(":")[2])):
            return f"HostConfig.{field}"
    return ""


def _foreign_network(modes: Iterable[str], owns: Owns) -> str:
    for mode in modes:
        if mode.startswith("container:"):
            mine = owns.container(mode.partition(":")[2])
        else:
            mine = mode in _COMMON_NETWORKS or owns.network(mode)
        if not mine:
            return "HostConfig.NetworkMode"
    return ""


def _foreign_containers(host: HostConfig, owns: Owns) -> str:
    for field, entries in (("VolumesFrom", host.volumes_from), ("Links", host.links)):
        for entry in entries or []:
            if not owns.container(entry.partition(":")[0].lstrip("/")):
                return f"HostConfig.{field}"
    return ""


def _foreign_mounts(host: HostConfig, owns: Owns) -> str:
    for raw in host.binds or []:
        source, colon, _ = raw.partition(":")
        if colon and not owns.volume(source):  # a path of the host is nobody's volume
            return "HostConfig.Binds"
    for mount in host.mounts:
        if mount.type == "volume":
            options = mount.volume_options
            mine = not mount.source or owns.volume(mount.source)
            harmless = mine and not (options and options.driver_config)
        else:
            harmless = mount.type in ("tmpfs", "image")
        if mount.owner or not harmless:
            return "HostConfig.Mounts"
    return ""


_FORBIDDEN: dict[str, Callable[[HostConfig], object]] = {
    "Privileged": lambda host: host.privileged,
    "CapAdd": lambda host: host.cap_add,
    "Devices": lambda host: host.devices,
    "DeviceRequests": lambda host: host.device_requests,
    "DeviceCgroupRules": lambda host: host.device_cgroup_rules,
    "SecurityOpt": lambda host: [each for each in host.security_opt or [] if each not in _SAFE_OPTIONS],
    "MaskedPaths": lambda host: host.masked_paths == [],
    "ReadonlyPaths": lambda host: host.readonly_paths == [],
    "CgroupParent": lambda host: host.cgroup_parent,
    "Cgroup": lambda host: host.cgroup,
    "Sysctls": lambda host: host.sysctls,
    "OomScoreAdj": lambda host: host.oom_score_adj < 0,
    "OomKillDisable": lambda host: host.oom_kill_disable,
    "CpuRealtimeRuntime": lambda host: host.cpu_realtime_runtime,
    "Runtime": lambda host: host.runtime,
    "VolumeDriver": lambda host: host.volume_driver not in ("", "local"),
    "LogConfig": lambda host: host.log_config.type not in _DEFAULT_LOGS,
    "StorageOpt": lambda host: host.storage_opt,
    "Annotations": lambda host: host.annotations,
}
