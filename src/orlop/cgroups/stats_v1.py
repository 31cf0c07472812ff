# SPDX-License-Identifier: Apache-2.0
"""Reads the counters of version 1 control groups."""

import errno
import os
from collections.abc import Callable

from orlop.cgroups.stats import (
    UNLIMITED,
    BlkioEntry,
    CPUStats,
    HugetlbStats,
    MemoryEntry,
    MemoryStats,
    PidsStats,
    Stats,
    number,
    page_sizes,
    rdma,
    table,
)
from orlop.cgroups.write import read_file
from orlop.errdefs import FailedPreconditionError

_TICKS_TO_NS = 10**9 // os.sysconf("SC_CLK_TCK")

# containerd's name: the files that may hold it, the best first.
_BLKIO = {
    "io_service_bytes_recursive": (
        "blkio.bfq.io_service_bytes_recursive", "blkio.throttle.io_service_bytes_recursive",
        "blkio.throttle.io_service_bytes",
    ),
    "io_serviced_recursive": (
        "blkio.bfq.io_serviced_recursive", "blkio.throttle.io_serviced_recursive", "blkio.throttle.io_serviced",
    ),
    "io_queued_recursive": ("blkio.bfq.io_queued_recursive", "blkio.io_queued_recursive"),
    "io_service_time_recursive": ("blkio.bfq.io_service_time_recursive", "blkio.io_service_time_recursive"),
    "io_wait_time_recursive": ("blkio.bfq.io_wait_time_recursive", "blkio.io_wait_time_recursive"),
    "io_merged_recursive": ("blkio.bfq.io_merged_recursive", "blkio.io_merged_recursive"),
    "io_time_recursive": ("blkio.bfq.time_recursive", "blkio.time_recursive"),
    "sectors_recursive": ("blkio.bfq.sectors_recursive", "blkio.sectors_recursive"),
}  # fmt: skip


def collect(paths: dict[str, str], directory: Callable[[str], int]) -> Stats:
    """The counters of every controller in `paths`. Raises FailedPreconditionError when the groups are gone."""
    stats = Stats(version=1)
    try:
        if "cpuacct" in paths or "cpu" in paths:
            stats.cpu = _cpu(paths, directory)
        if "memory" in paths:
            stats.memory = _memory(directory("memory"))
        if "pids" in paths:
            stats.pids = _pids(directory("pids"))
        if "blkio" in paths:
            stats.blkio = _blkio(directory("blkio"))
        if "hugetlb" in paths:
            stats.hugetlb = [_hugetlb(directory("hugetlb"), size) for size in page_sizes()]
        if "rdma" in paths:
            stats.rdma_current = rdma(read_file(directory("rdma"), "rdma.current"))
            stats.rdma_limit = rdma(read_file(directory("rdma"), "rdma.max"))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            raise FailedPreconditionError(f"control groups are gone: {error}") from None
        raise
    return stats


def _cpu(paths: dict[str, str], directory: Callable[[str], int]) -> CPUStats:
    cpu = CPUStats()
    if "cpuacct" in paths:
        group = directory("cpuacct")
        cpu.total = number(read_file(group, "cpuacct.usage"))
        ticks = table(read_file(group, "cpuacct.stat"))
        cpu.user, cpu.kernel = (ticks.get(key, 0) * _TICKS_TO_NS for key in ("user", "system"))
        cpu.per_cpu = [int(value) for value in read_file(group, "cpuacct.usage_percpu").split()]
    if "cpu" in paths:
        throttling = table(read_file(directory("cpu"), "cpu.stat"))
        cpu.periods = throttling.get("nr_periods", 0)
        cpu.throttled_periods = throttling.get("nr_throttled", 0)
        cpu.throttled_time = throttling.get("throttled_time", 0)
        cpu.bursts = throttling.get("nr_bursts", 0)
        cpu.burst_time = throttling.get("burst_time", 0)
    return cpu


def _memory(group: int) -> MemoryStats:
    memory = MemoryStats()
    memory.stat = table(read_file(group, "memory.stat"))
    memory.usage = _entry(group, "memory")
    memory.swap = _entry(group, "memory.memsw")
    memory.kernel = _entry(group, "memory.kmem")
    memory.kernel_tcp = _entry(group, "memory.kmem.tcp")
    control = table(read_file(group, "memory.oom_control"))
    memory.oom_kill_disable = control.get("oom_kill_disable", 0)
    memory.under_oom = control.get("under_oom", 0)
    memory.oom_kill = control.get("oom_kill", 0)
    return memory


def _entry(group: int, prefix: str) -> MemoryEntry:
    files = ("usage_in_bytes", "limit_in_bytes", "max_usage_in_bytes", "failcnt")
    try:
        return MemoryEntry(*(number(read_file(group, f"{prefix}.{file}")) for file in files))
    except FileNotFoundError:
        return MemoryEntry()  # no swap accounting, or a kernel without separate kernel memory


def _pids(group: int) -> PidsStats:
    limit = number(read_file(group, "pids.max"))
    return PidsStats(number(read_file(group, "pids.current")), 0 if limit == UNLIMITED else limit)


def _blkio(group: int) -> dict[str, list[BlkioEntry]]:
    found: dict[str, list[BlkioEntry]] = {}
    for name, files in _BLKIO.items():
        for file in files:
            try:
                entries = parse_blkio(read_file(group, file))
            except FileNotFoundError:
                continue
            found[name] = entries
            if entries:
                break
    return found


def parse_blkio(text: str) -> list[BlkioEntry]:
    """Lines of `8:0 Read 123` or `8:0 123`; the line that sums up the devices is left out."""
    entries = []
    for line in text.splitlines():
        fields = line.split()
        major, colon, minor = fields[0].partition(":")
        if colon:
            op = fields[1] if len(fields) == 3 else ""
            entries.append(BlkioEntry(int(major), int(minor), op, int(fields[-1])))
    return entries


def _hugetlb(group: int, size: str) -> HugetlbStats:
    # What is reserved counts as used where the kernel tells (since 5.7).
    prefix = f"hugetlb.{size}"
    try:
        usage = number(read_file(group, f"{prefix}.rsvd.usage_in_bytes"))
        prefix = f"{prefix}.rsvd"
    except FileNotFoundError:
        usage = number(read_file(group, f"{prefix}.usage_in_bytes"))
    maximum = number(read_file(group, f"{prefix}.max_usage_in_bytes"))
    return HugetlbStats(size, usage, maximum, number(read_file(group, f"{prefix}.failcnt")))
