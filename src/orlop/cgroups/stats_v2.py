# SPDX-License-Identifier: Apache-2.0
"""Reads the counters of a version 2 control group."""

import errno

from orlop.cgroups.stats import (
    UNLIMITED,
    CPUStats,
    HugetlbStats,
    IOEntry,
    MemoryEntry,
    MemoryStats,
    PidsStats,
    Stats,
    number,
    page_sizes,
    pressure,
    rdma,
    table,
)
from orlop.cgroups.write import read_file
from orlop.errdefs import FailedPreconditionError


def collect(group: int) -> Stats:
    """The counters of the group of a directory descriptor. Raises FailedPreconditionError when it is gone."""
    stats = Stats(version=2)
    try:
        controllers = read_file(group, "cgroup.controllers").split()
        stats.cpu = _cpu(group)
        if "memory" in controllers:
            stats.memory = _memory(group)
        if "pids" in controllers:
            limit = number(read_file(group, "pids.max"))
            stats.pids = PidsStats(number(read_file(group, "pids.current")), 0 if limit == UNLIMITED else limit)
        else:
            stats.pids = PidsStats(len(read_file(group, "cgroup.threads").split()))
        if "io" in controllers:
            stats.io = parse_io(read_file(group, "io.stat"))
        if "hugetlb" in controllers:
            stats.hugetlb = [_hugetlb(group, size) for size in page_sizes()]
        if "rdma" in controllers:
            stats.rdma_current = rdma(read_file(group, "rdma.current"))
            stats.rdma_limit = rdma(read_file(group, "rdma.max"))
        _pressure(group, stats)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            raise FailedPreconditionError(f"control group is gone: {error}") from None
        raise
    return stats


def parse_io(text: str) -> list[IOEntry]:
    """io.stat: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …`."""
    entries = []
    for line in text.splitlines():
        device, *pairs = line.split()
        major, _, minor = device.partition(":")
        values = {key: int(value) for key, _, value in (pair.partition("=") for pair in pairs) if value.isdigit()}
        if values:
            entries.append(IOEntry(int(major), int(minor), values))
    return entries


def _cpu(group: int) -> CPUStats:
    cpu = CPUStats()
    values = table(read_file(group, "cpu.stat"))
    cpu.total = values.get("usage_usec", 0) * 1000
    cpu.user = values.get("user_usec", 0) * 1000
    cpu.kernel = values.get("system_usec", 0) * 1000
    cpu.periods = values.get("nr_periods", 0)
    cpu.throttled_periods = values.get("nr_throttled", 0)
    cpu.throttled_time = values.get("throttled_usec", 0) * 1000
    cpu.bursts = values.get("nr_bursts", 0)
    cpu.burst_time = values.get("burst_usec", 0) * 1000
    return cpu


def _memory(group: int) -> MemoryStats:
    memory = MemoryStats()
    memory.stat = table(read_file(group, "memory.stat"))
    memory.usage = _entry(group, "memory")
    memory.swap = _entry(group, "memory.swap")
    memory.events = table(read_file(group, "memory.events"))
    memory.oom_kill = memory.events.get("oom_kill", 0)
    memory.usage.failcnt = memory.events.get("max", 0)
    return memory


def _entry(group: int, prefix: str) -> MemoryEntry:
    try:
        entry = MemoryEntry(
            number(read_file(group, f"{prefix}.current")), number(read_file(group, f"{prefix}.max"))
        )
    except FileNotFoundError:
        return MemoryEntry()
    try:
        entry.max = number(read_file(group, f"{prefix}.peak"))
    except FileNotFoundError:
        entry.max = 0  # before Linux 5.19 (memory) and 6.5 (swap)
    return entry


def _hugetlb(group: int, size: str) -> HugetlbStats:
    prefix = f"hugetlb.{size}"
    try:
        usage = number(read_file(group, f"{prefix}.rsvd.current"))
        limit = number(read_file(group, f"{prefix}.rsvd.max"))
    except FileNotFoundError:
        usage = number(read_file(group, f"{prefix}.current"))
        limit = number(read_file(group, f"{prefix}.max"))
    return HugetlbStats(size, usage, limit, table(read_file(group, f"{prefix}.events")).get("max", 0))


def _pressure(group: int, stats: Stats) -> None:
    for name in ("cpu", "memory", "io"):
        try:
            stats.pressure[name] = pressure(read_file(group, f"{name}.pressure"))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EOPNOTSUPP):
                raise
