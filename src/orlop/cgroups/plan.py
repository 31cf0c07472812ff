# SPDX-License-Identifier: Apache-2.0
"""Translates OCI resources to the files of control groups, version 1 and 2: pure functions.

A plan is a list of writes in order. A write that the kernel refuses because of the present value of a sibling
(memory against memory plus swap, quota against period) is tried again by the executor after the others, so that
one plan serves a new group and an update in either direction.
"""

from orlop.errdefs import InvalidArgumentError
from orlop.oci.runtime import CPU, BlockIO, Memory, Resources

Write = tuple[str, str, str]
"""Controller, file, value.

A file that begins with `?` may be missing. `a|b` is the first of two that exists; a value `x|y` then goes with it.
"""

_UNLIMITED = -1
_DEFAULT_PERIOD = 100_000  # microseconds, Documentation/admin-guide/cgroup-v2.rst


def plan_v1(resources: Resources, update: bool) -> list[Write]:
    """The writes for version 1, without devices. What equals a new group's default is left out unless `update`.

    Raises InvalidArgumentError, as for `unified`, whose files version 1 does not have.
    """
    if resources.unified:
        raise InvalidArgumentError("linux.resources.unified: cannot use unified on cgroup v1")
    plan: list[Write] = []
    if resources.cpu:
        plan += _cpu_v1(resources.cpu)
    if resources.memory:
        plan += _memory_v1(resources.memory, update)
    if resources.pids and resources.pids.limit is not None:
        value = _pids_limit(resources.pids.limit)
        if update or value != "max":
            plan.append(("pids", "pids.max", value))
    if resources.block_io:
        plan += _blkio_v1(resources.block_io)
    for limit in resources.hugepage_limits:
        _check_page_size(limit.page_size)
        plan.append(("hugetlb", f"hugetlb.{limit.page_size}.limit_in_bytes", str(limit.limit)))
        plan.append(("hugetlb", f"?hugetlb.{limit.page_size}.rsvd.limit_in_bytes", str(limit.limit)))
    if network := resources.network:
        if network.class_id:
            plan.append(("net_cls", "net_cls.classid", str(network.class_id)))
        plan += [("net_prio", "net_prio.ifpriomap", f"{item.name} {item.priority}") for item in network.priorities]
    return plan + _rdma(resources)


def plan_v2(resources: Resources, update: bool) -> list[Write]:
    """The writes for version 2, without devices."""
    plan: list[Write] = []
    if resources.cpu:
        plan += _cpu_v2(resources.cpu)
    if resources.memory:
        plan += _memory_v2(resources.memory)
    if resources.pids and resources.pids.limit is not None:
        value = _pids_limit(resources.pids.limit)
        if update or value != "max":
            plan.append(("pids", "pids.max", value))
    if resources.block_io:
        plan += _io_v2(resources.block_io)
    for limit in resources.hugepage_limits:
        _check_page_size(limit.page_size)
        plan.append(("hugetlb", f"hugetlb.{limit.page_size}.max", str(limit.limit)))
        plan.append(("hugetlb", f"?hugetlb.{limit.page_size}.rsvd.max", str(limit.limit)))
    return plan + _rdma(resources) + _unified(resources.unified)


def shares_to_weight(shares: int) -> int:
    """CPU shares (2 … 262144, default 1024) as weight (1 … 10000, default 100).

    The curve is the one that today's runtimes agree on: 10 ** ((l² + 125 l) / 612 - 7 / 34), l = log2(shares).
    """
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    import math

    exponent = math.log2(shares)
    return math.ceil(10 ** ((exponent * exponent + 125 * exponent) / 612 - 7 / 34))


def blkio_to_io_weight(weight: int) -> int:
    """Block I/O weight (10 … 1000) as io.weight (1 … 10000), linearly."""
    return 1 + (weight - 10) * 9999 // 990


def swap_v2(swap: int | None, memory: int | None) -> str | None:
    """memory.swap.max for the specification's memory-plus-swap limit; None: leave it alone.

    Raises InvalidArgumentError where the two do not fit together.
    """
    if not swap:
        return "max" if memory == _UNLIMITED else None
    if swap == _UNLIMITED:
        return "max"
    if memory == _UNLIMITED:
        return str(swap)
    if not memory:
        raise InvalidArgumentError("unable to set swap limit without memory limit")
    if swap < memory:
        raise InvalidArgumentError("memory+swap limit should be >= memory limit")
    return str(swap - memory)


def _cpu_v1(cpu: CPU) -> list[Write]:
    # Real-time limits, period and idle before what depends on them.
    values = (
        ("cpu.rt_period_us", cpu.realtime_period),
        ("cpu.rt_runtime_us", cpu.realtime_runtime),
        ("cpu.shares", cpu.shares),
        ("cpu.cfs_period_us", cpu.period),
        ("cpu.cfs_quota_us", cpu.quota),
    )
    plan: list[Write] = [("cpu", file, str(value)) for file, value in values if value]
    if cpu.burst is not None:
        plan.append(("cpu", "?cpu.cfs_burst_us", str(cpu.burst)))
    if cpu.idle is not None:
        plan.append(("cpu", "cpu.idle", str(cpu.idle)))
    return plan + _cpuset(cpu)


def _cpu_v2(cpu: CPU) -> list[Write]:
    plan: list[Write] = []
    if cpu.idle is not None:
        plan.append(("cpu", "cpu.idle", str(cpu.idle)))
    if cpu.shares:
        plan.append(("cpu", "cpu.weight", str(shares_to_weight(cpu.shares))))
    if cpu.quota or cpu.period:
        quota = str(cpu.quota) if cpu.quota and cpu.quota > 0 else "max"
        plan.append(("cpu", "cpu.max", f"{quota} {cpu.period or _DEFAULT_PERIOD}"))
    if cpu.burst is not None:
        plan.append(("cpu", "?cpu.max.burst", str(cpu.burst)))
    return plan + _cpuset(cpu)


def _cpuset(cpu: CPU) -> list[Write]:
    values = (("cpus", cpu.cpus), ("mems", cpu.mems))
    for name, value in values:
        if "\0" in value:
            raise InvalidArgumentError(f"linux.resources.cpu.{name} is {value!r}, expected a list as 0-3,7")
    return [("cpuset", f"cpuset.{name}", value) for name, value in values if value]


def _memory_v1(memory: Memory, update: bool) -> list[Write]:
    plan: list[Write] = []
    if memory.limit:
        plan.append(("memory", "memory.limit_in_bytes", str(memory.limit)))
    if memory.swap:
        plan.append(("memory", "memory.memsw.limit_in_bytes", str(memory.swap)))
    elif memory.limit == _UNLIMITED:
        # No limit on memory alone means nothing: the kernel refuses it above the limit on memory plus swap.
        plan.append(("memory", "?memory.memsw.limit_in_bytes", str(_UNLIMITED)))
    if memory.reservation:
        plan.append(("memory", "memory.soft_limit_in_bytes", str(memory.reservation)))
    if memory.disable_oom_killer or (update and memory.disable_oom_killer is False):
        plan.append(("memory", "memory.oom_control", str(int(bool(memory.disable_oom_killer)))))
    if memory.swappiness is not None and memory.swappiness != _UNLIMITED:
        if not 0 <= memory.swappiness <= 100:
            raise InvalidArgumentError(
                f"invalid memory swappiness value: {memory.swappiness} (valid range is 0-100)"
            )
        plan.append(("memory", "memory.swappiness", str(memory.swappiness)))
    return plan


def _memory_v2(memory: Memory) -> list[Write]:
    plan: list[Write] = []
    if (swap := swap_v2(memory.swap, memory.limit)) is not None:
        # Without swap in the kernel there is no such file, and nothing to limit.
        optional = "?" if swap in ("max", "0") else ""
        plan.append(("memory", f"{optional}memory.swap.max", swap))
    if memory.limit:
        plan.append(("memory", "memory.max", _or_max(memory.limit)))
    if memory.reservation:
        plan.append(("memory", "memory.low", _or_max(memory.reservation)))
    return plan


def _blkio_v1(block: BlockIO) -> list[Write]:
    plan: list[Write] = []
    if block.weight:
        plan.append(("blkio", "blkio.bfq.weight|blkio.weight", str(block.weight)))
    if block.leaf_weight:
        plan.append(("blkio", "blkio.leaf_weight", str(block.leaf_weight)))
    for device in block.weight_device:
        name = f"{device.major}:{device.minor}"
        if device.weight:
            plan.append(("blkio", "blkio.bfq.weight_device|blkio.weight_device", f"{name} {device.weight}"))
        if device.leaf_weight:
            plan.append(("blkio", "blkio.leaf_weight_device", f"{name} {device.leaf_weight}"))
    throttles = (
        ("blkio.throttle.read_bps_device", block.throttle_read_bps_device),
        ("blkio.throttle.write_bps_device", block.throttle_write_bps_device),
        ("blkio.throttle.read_iops_device", block.throttle_read_iops_device),
        ("blkio.throttle.write_iops_device", block.throttle_write_iops_device),
    )
    for file, limits in throttles:
        plan += [("blkio", file, f"{limit.major}:{limit.minor} {limit.rate}") for limit in limits]
    return plan


def _io_v2(block: BlockIO) -> list[Write]:
    plan: list[Write] = []
    if block.weight:
        value = f"{block.weight}|{blkio_to_io_weight(block.weight)}"
        plan.append(("io", "io.bfq.weight|io.weight", value))
    for device in block.weight_device:
        if device.weight:
            plan.append(("io", "?io.bfq.weight", f"{device.major}:{device.minor} {device.weight}"))
    throttles = (
        ("rbps", block.throttle_read_bps_device),
        ("wbps", block.throttle_write_bps_device),
        ("riops", block.throttle_read_iops_device),
        ("wiops", block.throttle_write_iops_device),
    )
    for key, limits in throttles:
        plan += [("io", "io.max", f"{limit.major}:{limit.minor} {key}={limit.rate}") for limit in limits]
    return plan


def _rdma(resources: Resources) -> list[Write]:
    plan: list[Write] = []
    for device, limit in resources.rdma.items():
        parts = (("hca_handle", limit.hca_handles), ("hca_object", limit.hca_objects))
        value = " ".join(f"{key}={number}" for key, number in parts if number is not None)
        if value:
            plan.append(("rdma", "rdma.max", f"{device} {value}"))
    return plan


def _unified(unified: dict[str, str]) -> list[Write]:
    plan: list[Write] = []
    for file, value in unified.items():
        if "." not in file.strip(".") or set(file) & set("/?|\0"):
            raise InvalidArgumentError(f"linux.resources.unified: {file!r} must be a file name of a controller")
        if "\0" in value:
            raise InvalidArgumentError(f"linux.resources.unified: {file!r} is {value!r}, expected text")
        plan += [(file.partition(".")[0], file, line) for line in value.splitlines() if line]
    return plan


def _pids_limit(limit: int) -> str:
    # The same for 0 as with systemd, which knows no limit of 0; it allows no fork either way.
    return "max" if limit < 0 else str(limit or 1)


def _or_max(value: int) -> str:
    return "max" if value == _UNLIMITED else str(value)


def _check_page_size(size: str) -> None:
    if not (size.isascii() and size[:-2].isdigit()) or size[-2:] not in ("KB", "MB", "GB"):
        raise InvalidArgumentError(f"hugepageLimits: pageSize {size!r} must be a number with KB, MB or GB")
