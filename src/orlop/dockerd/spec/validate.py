# SPDX-License-Identifier: Apache-2.0
"""Refuses a container's configuration that cannot work, with Docker's error texts."""

import ipaddress
import posixpath
import re
import signal

from orlop.dockerd.spec.capabilities import normalize
from orlop.dockerd.spec.devices import device_rules
from orlop.dockerd.spec.host import Host
from orlop.dockerd.spec.limits import check_limits
from orlop.dockerd.spec.modes import container_of, valid_ipc, valid_pid
from orlop.dockerd.spec.mounts import check_mount
from orlop.dockerd.spec.security import security_options
from orlop.dockerd.spec.tmpfs import merge_tmpfs_options
from orlop.engine.types import ContainerConfig, HealthConfig, HostConfig
from orlop.errdefs import InvalidArgumentError

_MAX_HOSTNAME = 64  # bytes, HOST_NAME_MAX
_SHORTEST = 1_000_000  # nanoseconds
_SIGNALS = {name.removeprefix("SIG") for name in signal.Signals.__members__}
_RESTART_POLICIES = ("no", "always", "on-failure", "unless-stopped")


def validate(
    config: ContainerConfig | None, host_config: HostConfig, host: Host, *, update: bool = False
) -> list[str]:
    """Check a container's configuration, at create and (`update=True`, `config` None) at update.

    Returns the warnings for the API's answer. What the kernel does not support is taken out of `host_config`
    in place, as Docker does, with a warning. Raises InvalidArgumentError.
    """
    if config is not None:
        _check_config(config)
        _check_network_mode(config, host_config)
    _check_host_config(host_config, host)
    warnings = check_limits(host_config, host, update=update)
    _check_modes(host_config)
    if host_config.network_mode == "host" and host_config.port_bindings:
        warnings.append("Published ports are discarded when using host network mode")
    if not host.ipv4_forwarding and host_config.network_mode not in ("host", "none") and not update:
        warnings.append("IPv4 forwarding is disabled. Networking will not work.")
    return warnings


def _check_config(config: ContainerConfig) -> None:
    if len(config.hostname.encode()) > _MAX_HOSTNAME:
        raise InvalidArgumentError(f'hostname "{config.hostname}" is too long (maximum {_MAX_HOSTNAME} bytes)')
    if config.working_dir:
        if not config.working_dir.startswith("/"):
            raise InvalidArgumentError(
                f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
            )
        config.working_dir = posixpath.normpath(config.working_dir)
    if config.stop_signal:
        parse_signal(config.stop_signal)
    for entry in config.env:
        if not entry.partition("=")[0]:
            raise InvalidArgumentError(f"invalid environment variable: {entry}")
        if "\0" in entry:
            raise InvalidArgumentError("invalid environment variable: it contains a null byte")
    if config.healthcheck:
        _check_health(config.healthcheck)


def parse_signal(text: str) -> int:
    """A signal by number or name, with or without SIG. Raises InvalidArgumentError `invalid signal: x`."""
    if text.isdigit():
        number = int(text)
        if 1 <= number <= signal.SIGRTMAX:
            return number
        raise InvalidArgumentError(f"invalid signal: {text}")
    name = text.upper().removeprefix("SIG")
    if name in _SIGNALS:
        return int(signal.Signals[f"SIG{name}"])
    if match := re.fullmatch(r"RT(MIN|MAX)([+-]\d+)", name):
        number = {"MIN": signal.SIGRTMIN, "MAX": signal.SIGRTMAX}[match[1]] + int(match[2])
        if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
            return number
    raise InvalidArgumentError(f"invalid signal: {text}")


def _check_health(health: HealthConfig) -> None:
    durations = (
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    )
    for name, value in durations:
        if value and value < _SHORTEST:
            raise InvalidArgumentError(f"{name} in Healthcheck cannot be less than 1ms")
    if health.retries < 0:
        raise InvalidArgumentError("Retries in Healthcheck cannot be negative")


def _check_network_mode(config: ContainerConfig, host_config: HostConfig) -> None:
    mode = host_config.network_mode
    joined = container_of(mode)
    if mode == "container" or joined == "":
        raise InvalidArgumentError("invalid network mode: invalid container format container:<name|id>")
    if joined is not None:
        conflicts = (
            (config.hostname, "hostname and the network mode"),
            (
                host_config.links,
                "container type network can't be used with links. This would result in undefined behavior",
            ),
            (host_config.dns, "dns and the network mode"),
            (host_config.extra_hosts, "custom host-to-IP mapping and the network mode"),
            (
                host_config.port_bindings or host_config.publish_all_ports,
                "port publishing and the container type network mode",
            ),
            (config.exposed_ports, "port exposing and the container type network mode"),
        )
        for present, text in conflicts:
            if present:
                raise InvalidArgumentError(f"conflicting options: {text}")
    if host_config.uts_mode == "host" and config.hostname:
        raise InvalidArgumentError("conflicting options: hostname and the UTS mode")
    if mode == "host" and host_config.links:
        raise InvalidArgumentError(
            "conflicting options: host type networking can't be used with links. "
            "This would result in undefined behavior"
        )


def _check_host_config(config: HostConfig, host: Host) -> None:
    if config.auto_remove and config.restart_policy.name not in ("", "no"):
        raise InvalidArgumentError("can't create 'AutoRemove' container with restart policy")
    for mount in config.mounts:
        check_mount(mount)
    for address in config.dns or []:
        _check_dns(address)
    for entry in config.extra_hosts or []:
        _check_extra_host(entry)
    _check_ports(config)
    _check_restart_policy(config)
    for field, names in (("CapAdd", config.cap_add), ("CapDrop", config.cap_drop)):
        try:
            normalize(names, host.capabilities)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"invalid {field}: {error}") from None
    if config.isolation.lower() not in ("", "default"):
        raise InvalidArgumentError(f"invalid isolation ({config.isolation}): linux only supports 'default'")
    if "" in config.annotations:
        raise InvalidArgumentError("invalid Annotations: the empty string is not permitted as an annotation key")
    security_options(config)
    device_rules(config)
    for destination, data in config.tmpfs.items():
        if posixpath.normpath(destination) in ("/", "//"):
            raise InvalidArgumentError("invalid specification: destination can't be '/'")
        if not destination.startswith("/"):
            raise InvalidArgumentError(f"invalid mount path: '{destination}' mount path must be absolute")
        merge_tmpfs_options(data.split(",") if data else [])


def _check_extra_host(entry: str) -> None:
    name, colon, address = entry.partition(":")
    if not colon or not name:
        raise InvalidArgumentError(f'bad format for add-host: "{entry}"')
    if address != "host-gateway":
        try:
            ipaddress.ip_address(address.strip("[]").strip())
        except ValueError:
            raise InvalidArgumentError(f'invalid IP address in add-host: "{address}"') from None


def _check_dns(address: str) -> None:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise InvalidArgumentError(f'invalid DNS server: "{address}" is not an IP address') from None


def _check_ports(config: HostConfig) -> None:
    for port, bindings in config.port_bindings.items():
        number, _, protocol = port.partition("/")
        if not (number.isdigit() and 0 < int(number) < 65536 and protocol.lower() in ("", "tcp", "udp", "sctp")):
            raise InvalidArgumentError(f'invalid port specification: "{port}"')
        for binding in bindings or []:
            if binding.host_port and not _valid_range(binding.host_port):
                raise InvalidArgumentError(f'invalid port specification: "{binding.host_port}"')


def _valid_range(text: str) -> bool:
    first, dash, last = text.partition("-")
    ends = [first, last] if dash else [first]
    if not all(end.isascii() and end.isdigit() and int(end) < 65536 for end in ends):
        return False
    return int(ends[0]) <= int(ends[-1])


def _check_restart_policy(config: HostConfig) -> None:
    policy = config.restart_policy
    count = policy.maximum_retry_count
    name = policy.name.removesuffix("+unhealthy")
    if name == "on-failure":
        if count < 0:
            raise InvalidArgumentError("invalid restart policy: maximum retry count cannot be negative")
    elif name in _RESTART_POLICIES and policy.name != "no+unhealthy":
        if count:
            suffix = " and cannot be negative" if count < 0 else ""
            raise InvalidArgumentError(
                f"invalid restart policy: maximum retry count can only be used with 'on-failure'{suffix}"
            )
    elif policy.name:
        raise InvalidArgumentError(
            f"invalid restart policy: unknown policy '{policy.name}'; "
            "use one of 'no', 'always', 'on-failure', or 'unless-stopped', the last three also with '+unhealthy'"
        )


def _check_modes(config: HostConfig) -> None:
    if not valid_ipc(config.ipc_mode):
        raise InvalidArgumentError(f"invalid IPC mode: {config.ipc_mode}")
    if not valid_pid(config.pid_mode):
        raise InvalidArgumentError(f"invalid PID mode: {config.pid_mode}")
    if config.shm_size < 0:
        raise InvalidArgumentError("SHM size can not be less than 0")
    if config.uts_mode not in ("", "host"):
        raise InvalidArgumentError(f"invalid UTS mode: {config.uts_mode}")
    if config.userns_mode not in ("", "host"):
        raise InvalidArgumentError(f"invalid USER mode: {config.userns_mode}")
    if not -1000 <= config.oom_score_adj <= 1000:
        raise InvalidArgumentError(
            f"Invalid value {config.oom_score_adj}, range for oom score adj is [-1000, 1000]"
        )
    if config.cgroupns_mode not in ("", "host", "private"):
        raise InvalidArgumentError(f"invalid cgroup namespace mode: {config.cgroupns_mode}")


def check_cgroup_parent(parent: str, *, systemd: bool) -> None:
    """Raises InvalidArgumentError for a parent that systemd, if it makes the groups, has no place for."""
    if parent and systemd and not (parent.endswith(".slice") and len(parent) > len(".slice")):
        raise InvalidArgumentError('cgroup-parent for systemd cgroup should be a valid slice named as "xxx.slice"')
