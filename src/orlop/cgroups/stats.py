# SPDX-License-Identifier: Apache-2.0
"""What control groups measure, as types that both versions fill."""


class MemoryEntry:
    """One counter of version 1 (memory, memsw, kmem, kmem.tcp) or 2 (memory, swap). Bytes; no limit is 2⁶⁴-1."""

    __slots__ = ("failcnt", "limit", "max", "usage")

    def __init__(self, usage: int = 0, limit: int = 0, maximum: int = 0, failcnt: int = 0) -> None:
        self.usage = usage
        self.limit = limit
        self.max = maximum
        self.failcnt = failcnt


class MemoryStats:
    """`stat` is memory.stat by the kernel's keys; `events` memory.events (version 2)."""

    __slots__ = (
        "events",
        "kernel",
        "kernel_tcp",
        "oom_kill",
        "oom_kill_disable",
        "stat",
        "swap",
        "under_oom",
        "usage",
    )

    def __init__(self) -> None:
        self.usage = MemoryEntry()
        self.swap = MemoryEntry()
        """Version 1: memory plus swap; version 2: swap alone."""
        self.kernel = MemoryEntry()
        self.kernel_tcp = MemoryEntry()
        self.stat: dict[str, int] = {}
        self.events: dict[str, int] = {}
        self.oom_kill_disable = 0
        self.under_oom = 0
        self.oom_kill = 0


class CPUStats:
    """Nanoseconds."""

    __slots__ = (
        "burst_time", "bursts", "kernel", "per_cpu", "periods", "throttled_periods", "throttled_time", "total",
        "user",
    )  # fmt: skip

    def __init__(self) -> None:
        self.total = 0
        self.kernel = 0
        self.user = 0
        self.per_cpu: list[int] = []
        self.periods = 0
        self.throttled_periods = 0
        self.throttled_time = 0
        self.bursts = 0
        self.burst_time = 0


class PidsStats:
    """`limit` is 0 where there is none."""

    __slots__ = ("current", "limit")

    def __init__(self, current: int = 0, limit: int = 0) -> None:
        self.current = current
        self.limit = limit


class BlkioEntry:
    """One line of a version 1 blkio file; `op` is Read, Write, Sync, Async, Discard, Total or empty."""

    __slots__ = ("major", "minor", "op", "value")

    def __init__(self, major: int, minor: int, op: str, value: int) -> None:
        self.major = major
        self.minor = minor
        self.op = op
        self.value = value


class IOEntry:
    """One device of version 2's io.stat; bytes and operations."""

    __slots__ = ("major", "minor", "rbytes", "rios", "wbytes", "wios")

    def __init__(self, major: int, minor: int, values: dict[str, int]) -> None:
        self.major = major
        self.minor = minor
        self.rbytes = values.get("rbytes", 0)
        self.wbytes = values.get("wbytes", 0)
        self.rios = values.get("rios", 0)
        self.wios = values.get("wios", 0)


class HugetlbStats:
    """One page size (as `2MB`); bytes."""

    __slots__ = ("failcnt", "max", "pagesize", "usage")

    def __init__(self, pagesize: str, usage: int, maximum: int, failcnt: int) -> None:
        self.pagesize = pagesize
        self.usage = usage
        self.max = maximum
        self.failcnt = failcnt


class RdmaEntry:
    __slots__ = ("device", "hca_handles", "hca_objects")

    def __init__(self, device: str, hca_handles: int, hca_objects: int) -> None:
        self.device = device
        self.hca_handles = hca_handles
        self.hca_objects = hca_objects


class Pressure:
    """Pressure stall information (version 2): `some` and `full` as (avg10, avg60, avg300, total microseconds)."""

    __slots__ = ("full", "some")

    def __init__(self, some: tuple[float, float, float, int], full: tuple[float, float, float, int]) -> None:
        self.some = some
        self.full = full


class Stats:
    """A controller that is not there is None (or empty)."""

    __slots__ = (
        "blkio", "cpu", "hugetlb", "io", "memory", "pids", "pressure", "rdma_current", "rdma_limit", "version",
    )  # fmt: skip

    def __init__(self, version: int) -> None:
        self.version = version
        self.cpu: CPUStats | None = None
        self.memory: MemoryStats | None = None
        self.pids: PidsStats | None = None
        self.blkio: dict[str, list[BlkioEntry]] = {}
        """Version 1, by containerd's names: io_service_bytes_recursive, io_serviced_recursive …"""
        self.io: list[IOEntry] = []
        """Version 2."""
        self.hugetlb: list[HugetlbStats] = []
        self.rdma_current: list[RdmaEntry] = []
        self.rdma_limit: list[RdmaEntry] = []
        self.pressure: dict[str, Pressure] = {}
        """Version 2, by resource: cpu, memory, io."""


UNLIMITED = 2**64 - 1


def number(text: str) -> int:
    """A single value of a control group file; `max` is 2⁶⁴-1."""
    text = text.strip()
    return UNLIMITED if text == "max" else int(text)


def table(text: str) -> dict[str, int]:
    """Lines of key and value."""
    result = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if value.strip().isdigit():
            result[key] = int(value)
    return result


def pressure(text: str) -> Pressure:
    """A *.pressure file (Documentation/accounting/psi.rst)."""
    rows: dict[str, tuple[float, float, float, int]] = {}
    for line in text.splitlines():
        kind, *pairs = line.split()
        values = dict(pair.split("=", 1) for pair in pairs)
        rows[kind] = (
            float(values["avg10"]), float(values["avg60"]), float(values["avg300"]), int(values["total"]),
        )  # fmt: skip
    empty = (0.0, 0.0, 0.0, 0)
    return Pressure(rows.get("some", empty), rows.get("full", empty))


def rdma(text: str) -> list[RdmaEntry]:
    """rdma.current or rdma.max; `max` is 2³²-1, as the messages hold 32 bits."""
    entries = []
    for line in text.splitlines():
        device, *pairs = line.split()
        values = {key: min(number(value), 2**32 - 1) for key, _, value in (pair.partition("=") for pair in pairs)}
        entries.append(RdmaEntry(device, values.get("hca_handle", 0), values.get("hca_object", 0)))
    return entries


def page_sizes() -> list[str]:
    """The huge page sizes of this kernel, as control group files name them."""
    import os

    try:
        names = os.listdir("/sys/kernel/mm/hugepages")
    except FileNotFoundError:
        return []
    sizes = []
    for name in sorted(names):
        kilobytes = int(name.removeprefix("hugepages-").removesuffix("kB"))
        for unit, factor in (("GB", 1 << 20), ("MB", 1 << 10), ("KB", 1)):
            if kilobytes >= factor:
                sizes.append(f"{kilobytes // factor}{unit}")
                break
    return sizes
