# SPDX-License-Identifier: Apache-2.0
"""Refuses resource limits that cannot work, and takes out what this kernel cannot do, with Docker's texts."""

from orlop.dockerd.spec.host import Host
from orlop.engine.types import HostConfig
from orlop.errdefs import InvalidArgumentError

_SMALLEST = 6 << 20  # bytes; below this the runtime itself does not start
_MAX_NUMBER = 8192  # of a processor or a memory node: more than Linux can be built for


def check_limits(config: HostConfig, host: Host, *, update: bool) -> list[str]:
    """Warnings; `config` is changed in place. Raises InvalidArgumentError."""
    return [*_memory(config, host, update), *_pids(config, host), *_cpu(config, host), *_cpuset(config, host),
            *_blkio(config, host)]  # fmt: skip


def _memory(config: HostConfig, host: Host, update: bool) -> list[str]:
    warnings: list[str] = []
    if config.memory_swappiness == -1:
        config.memory_swappiness = None
    if config.memory and config.memory < _SMALLEST:
        raise InvalidArgumentError("Minimum memory limit allowed is 6MB")
    if config.memory > 0 and not host.memory_limit:
        warnings.append(
            "Your kernel does not support memory limit capabilities or the cgroup is not mounted. "
            "Limitation discarded."
        )
        config.memory, config.memory_swap = 0, -1
    if config.memory > 0 and config.memory_swap != -1 and not host.swap_limit:
        warnings.append(
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. "
            "Memory limited without swap."
        )
        config.memory_swap = -1
    if 0 < config.memory_swap < config.memory:
        raise InvalidArgumentError("Minimum memoryswap limit should be larger than memory limit, see usage")
    if config.memory == 0 and config.memory_swap > 0 and not update:
        raise InvalidArgumentError("You should always set the Memory limit when using Memoryswap limit, see usage")
    return warnings + _memory_details(config, host)


def _memory_details(config: HostConfig, host: Host) -> list[str]:
    warnings: list[str] = []
    if config.memory_swappiness is not None:
        if not host.memory_swappiness:
            warnings.append(
                "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. "
                "Memory swappiness discarded."
            )
            config.memory_swappiness = None
        elif not 0 <= config.memory_swappiness <= 100:
            raise InvalidArgumentError(
                f"Invalid value: {config.memory_swappiness}, valid memory swappiness range is 0-100"
            )
    if config.memory_reservation > 0 and not host.memory_reservation:
        warnings.append(
            "Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. "
            "Limitation discarded."
        )
        config.memory_reservation = 0
    if 0 < config.memory_reservation < _SMALLEST:
        raise InvalidArgumentError("Minimum memory reservation allowed is 6MB")
    if 0 < config.memory < config.memory_reservation:
        raise InvalidArgumentError("Minimum memory limit can not be less than memory reservation limit, see usage")
    if config.oom_kill_disable is not None and not host.oom_kill_disable:
        if config.oom_kill_disable:
            warnings.append("Your kernel does not support OomKillDisable. OomKillDisable discarded.")
        config.oom_kill_disable = None
    if config.oom_kill_disable and config.memory == 0:
        warnings.append(
            "OOM killer is disabled for the container, but no memory limit is set, "
            "this can result in the system running out of resources."
        )
    return warnings


def _pids(config: HostConfig, host: Host) -> list[str]:
    if config.pids_limit is None or host.pids_limit:
        return []
    asked, config.pids_limit = config.pids_limit, None
    if asked <= 0:
        return []
    return [
        "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded."
    ]


def _cpu(config: HostConfig, host: Host) -> list[str]:
    warnings: list[str] = []
    if config.nano_cpus > 0 and config.cpu_period > 0:
        raise InvalidArgumentError("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if config.nano_cpus > 0 and config.cpu_quota > 0:
        raise InvalidArgumentError("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    if config.nano_cpus > 0 and not host.cpu_cfs:
        raise InvalidArgumentError(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler "
            "or the cgroup is not mounted"
        )
    if not 0 <= config.nano_cpus <= host.cpus * 10**9:
        raise InvalidArgumentError(
            f"range of CPUs is from 0.01 to {host.cpus}.00, as there are only {host.cpus} CPUs available"
        )
    if config.cpu_shares < 0:
        raise InvalidArgumentError(f"invalid CPU shares ({config.cpu_shares}): value must be a positive integer")
    if config.cpu_shares > 0 and not host.cpu_shares:
        warnings.append("Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded.")
        config.cpu_shares = 0
    if (config.cpu_period or config.cpu_quota) and not host.cpu_cfs:
        warnings.append("Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.")
        config.cpu_period = config.cpu_quota = 0
    if config.cpu_period and not 1000 <= config.cpu_period <= 1000000:
        raise InvalidArgumentError(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
        )
    if 0 < config.cpu_quota < 1000:
        raise InvalidArgumentError("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if (config.cpu_realtime_period or config.cpu_realtime_runtime) and not host.cpu_realtime:
        raise InvalidArgumentError("kernel does not support CPU real-time scheduler")
    if config.cpu_realtime_period and config.cpu_realtime_runtime > config.cpu_realtime_period:
        raise InvalidArgumentError("cpu real-time runtime cannot be higher than cpu real-time period")
    return warnings


def _cpuset(config: HostConfig, host: Host) -> list[str]:
    if not config.cpuset_cpus and not config.cpuset_mems:
        return []
    if not host.cpuset:
        config.cpuset_cpus = config.cpuset_mems = ""
        return ["Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded."]
    checks = (
        ("cpus", "CPUs", config.cpuset_cpus, host.cpuset_cpus),
        ("mems", "memory nodes", config.cpuset_mems, host.cpuset_mems),
    )
    for field, name, asked, available in checks:
        try:
            missing = parse_list(asked) & ~parse_list(available)
        except ValueError as error:
            raise InvalidArgumentError(f"Invalid value {asked} for cpuset {field}: {error}") from None
        if missing:
            raise InvalidArgumentError(
                f"Requested {name} are not available - requested {asked}, available: {available}"
            )
    return []


def parse_list(text: str) -> int:
    """The numbers of a list as `0-3,7`, each a bit of the result.

    Raises ValueError `invalid format: …`, and for numbers that no machine has (CVE-2018-20699).
    """
    numbers = 0
    for part in filter(None, [text] if not text else text.split(",")):
        first, dash, last = part.partition("-")
        ends = (first, last) if dash else (first, first)
        if not all(end.isascii() and end.isdigit() for end in ends):
            raise ValueError(f"invalid format: {text}")
        if any(len(end) > 20 or int(end) > _MAX_NUMBER for end in ends):
            raise ValueError(f"value of out range, maximum is {_MAX_NUMBER}")
        low, high = map(int, ends)
        if low > high:
            raise ValueError(f"invalid format: {text}")
        numbers |= (2 << high) - (1 << low)
    return numbers


def _blkio(config: HostConfig, host: Host) -> list[str]:
    warnings: list[str] = []
    if config.blkio_weight and not host.blkio_weight:
        warnings.append(
            "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded."
        )
        config.blkio_weight = 0
    if config.blkio_weight and not 10 <= config.blkio_weight <= 1000:
        raise InvalidArgumentError("Range of blkio weight is from 10 to 1000")
    if config.blkio_weight_device and not host.blkio_weight_device:
        warnings.append(
            "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. "
            "Weight-device discarded."
        )
        config.blkio_weight_device = []
    throttles = (
        ("blkio_device_read_bps", "BPS Block I/O read", "BPS read"),
        ("blkio_device_write_bps", "BPS Block I/O write", "BPS write"),
        ("blkio_device_read_iops", "IOPS Block read", "IOPS read"),
        ("blkio_device_write_iops", "IOPS Block write", "IOPS write"),
    )
    for field, name, short in throttles:
        if getattr(config, field) and not host.blkio_throttle:
            warnings.append(
                f"Your kernel does not support {name} limit or the cgroup is not mounted. "
                f"Block I/O {short} limit discarded."
            )
            setattr(config, field, [])
    return warnings
