# SPDX-License-Identifier: Apache-2.0
"""A container's cgroup limits."""

from collections.abc import Sequence

from orlop.dockerd.spec import devices
from orlop.engine import types as engine
from orlop.engine.types import HostConfig
from orlop.errdefs import InvalidArgumentError
from orlop.oci.runtime import CPU, BlockIO, Memory, Pids, Resources, ThrottleDevice, WeightDevice

_CFS_PERIOD = 100_000  # microseconds; what --cpus is a share of


def resources_of(host_config: HostConfig) -> Resources:
    """The cgroup limits alone, without device rules, for POST /containers/{id}/update."""
    return Resources(
        memory=_memory(host_config),
        cpu=_cpu(host_config),
        pids=None if host_config.pids_limit is None else Pids(limit=_pids(host_config.pids_limit)),
        block_io=_block_io(host_config),
    )


def _memory(config: HostConfig) -> Memory | None:
    memory = Memory(
        limit=config.memory if config.memory > 0 else None,
        reservation=config.memory_reservation if config.memory_reservation > 0 else None,
        swap=config.memory_swap if config.memory_swap else None,
        swappiness=config.memory_swappiness,
        disable_oom_killer=config.oom_kill_disable,
    )
    return None if memory == Memory() else memory


def _cpu(config: HostConfig) -> CPU | None:
    if config.cpu_shares < 0:
        raise InvalidArgumentError(f"invalid CPU shares ({config.cpu_shares}): value must be a positive integer")
    cpu = CPU(
        shares=config.cpu_shares or None,
        period=config.cpu_period or None,
        quota=config.cpu_quota or None,
        realtime_period=config.cpu_realtime_period or None,
        realtime_runtime=config.cpu_realtime_runtime or None,
        cpus=config.cpuset_cpus,
        mems=config.cpuset_mems,
    )
    if config.nano_cpus > 0:
        cpu.period = cpu.period or _CFS_PERIOD
        cpu.quota = cpu.quota or config.nano_cpus * _CFS_PERIOD // 10**9
    return None if cpu == CPU() else cpu


def _pids(limit: int) -> int:
    return limit if limit > 0 else -1


def _block_io(config: HostConfig) -> BlockIO | None:
    block = BlockIO(
        weight=config.blkio_weight or None,
        weight_device=_weights(config.blkio_weight_device),
        throttle_read_bps_device=_throttles(config.blkio_device_read_bps),
        throttle_write_bps_device=_throttles(config.blkio_device_write_bps),
        throttle_read_iops_device=_throttles(config.blkio_device_read_iops),
        throttle_write_iops_device=_throttles(config.blkio_device_write_iops),
    )
    return None if block == BlockIO() else block


def _weights(limits: Sequence[engine.WeightDevice] | None) -> list[WeightDevice]:
    result = []
    for limit in limits or ():
        major, minor = devices.device_number(limit.path)
        result.append(WeightDevice(major=major, minor=minor, weight=limit.weight))
    return result


def _throttles(limits: Sequence[engine.ThrottleDevice] | None) -> list[ThrottleDevice]:
    result = []
    for limit in limits or ():
        major, minor = devices.device_number(limit.path)
        result.append(ThrottleDevice(major=major, minor=minor, rate=limit.rate))
    return result
