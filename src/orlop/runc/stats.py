# SPDX-License-Identifier: Apache-2.0
"""Statistics as the JSON of `runc events`."""

from orlop.cgroups import Stats
from orlop.cgroups.stats import MemoryEntry
from orlop.libcontainer import Container

# containerd's name of a version 1 blkio file -> runc's.
_BLKIO = {
    "io_service_bytes_recursive": "ioServiceBytesRecursive",
    "io_serviced_recursive": "ioServicedRecursive",
    "io_queued_recursive": "ioQueueRecursive",
    "io_service_time_recursive": "ioServiceTimeRecursive",
    "io_wait_time_recursive": "ioWaitTimeRecursive",
    "io_merged_recursive": "ioMergedRecursive",
    "io_time_recursive": "ioTimeRecursive",
    "sectors_recursive": "sectorsRecursive",
}


def event(container: Container, kind: str) -> dict[str, object]:
    """One line of `events`."""
    return {"type": kind, "id": container.id, "data": data(container.stats())}


def data(stats: Stats) -> dict[str, object]:
    """The statistics of one moment."""
    return {
        "cpu": _cpu(stats),
        "memory": _memory(stats),
        "pids": {"current": stats.pids.current, "limit": stats.pids.limit} if stats.pids else {},
        "blkio": _blkio(stats),
        "hugetlb": {h.pagesize: {"usage": h.usage, "max": h.max, "failcnt": h.failcnt} for h in stats.hugetlb},
        "intel_rdt": {},
        "network_interfaces": None,
    }


def _cpu(stats: Stats) -> dict[str, object]:
    cpu = stats.cpu
    if cpu is None:
        return {}
    return {
        "usage": {"total": cpu.total, "percpu": cpu.per_cpu, "kernel": cpu.kernel, "user": cpu.user},
        "throttling": {
            "periods": cpu.periods,
            "throttledPeriods": cpu.throttled_periods,
            "throttledTime": cpu.throttled_time,
        },
    }


def _memory(stats: Stats) -> dict[str, object]:
    memory = stats.memory
    if memory is None:
        return {}
    return {
        "cache": memory.stat.get("cache", memory.stat.get("file", 0)),
        "usage": _entry(memory.usage),
        "swap": _entry(memory.swap),
        "kernel": _entry(memory.kernel),
        "kernelTCP": _entry(memory.kernel_tcp),
        "raw": memory.stat,
    }


def _entry(entry: MemoryEntry) -> dict[str, int]:
    return {"limit": entry.limit, "usage": entry.usage, "max": entry.max, "failcnt": entry.failcnt}


def _blkio(stats: Stats) -> dict[str, object]:
    result: dict[str, object] = {
        _BLKIO[name]: [{"major": e.major, "minor": e.minor, "op": e.op, "value": e.value} for e in entries]
        for name, entries in stats.blkio.items()
        if name in _BLKIO and entries
    }
    if stats.io:
        rows = [("Read", "rbytes"), ("Write", "wbytes")], [("Read", "rios"), ("Write", "wios")]
        for name, columns in zip(("ioServiceBytesRecursive", "ioServicedRecursive"), rows, strict=True):
            result[name] = [
                {"major": entry.major, "minor": entry.minor, "op": op, "value": getattr(entry, column)}
                for entry in stats.io
                for op, column in columns
            ]
    return result
