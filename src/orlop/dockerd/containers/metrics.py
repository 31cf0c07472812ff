# SPDX-License-Identifier: Apache-2.0
"""From control group metrics to the Engine API's stats: pure."""

from typing import Any

from orlop.api import cgroup_metrics_v1_pb2 as v1
from orlop.api import cgroup_metrics_v2_pb2 as v2

Stats = dict[str, Any]


def _v1_name(field: str) -> str:
    """The Engine API's name of a field of version 1 memory statistics."""
    renamed = {"hierarchical_swap_limit": "hierarchical_memsw_limit"}
    return renamed.get(field) or field.replace("pg_pg_", "pgpg").replace("pg_fault", "pgfault").replace(
        "pg_maj_fault", "pgmajfault"
    )


_V1_MEMORY = {
    field.name: _v1_name(field.name) for field in v1.MemoryStat.DESCRIPTOR.fields if field.message_type is None
}
# Docker shows the counters up to thp_collapse_alloc, number 31; usage and limits follow it.
_V2_MEMORY = [field.name for field in v2.MemoryStat.DESCRIPTOR.fields if field.number <= 31]
_BLKIO = {
    "io_service_bytes_recursive": "io_service_bytes_recursive",
    "io_serviced_recursive": "io_serviced_recursive",
    "io_queue_recursive": "io_queued_recursive",
    "io_service_time_recursive": "io_service_time_recursive",
    "io_wait_time_recursive": "io_wait_time_recursive",
    "io_merged_recursive": "io_merged_recursive",
    "io_time_recursive": "io_time_recursive",
    "sectors_recursive": "sectors_recursive",
}
NO_BLKIO: Stats = dict.fromkeys(_BLKIO)
NO_CPU: Stats = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}


def stats_v1(metrics: v1.Metrics, memory_total: int) -> Stats:
    """Stats out of version 1 metrics; `memory_total` in bytes stands for no limit."""
    memory = metrics.memory
    limit = memory.usage.limit
    return {
        "pids_stats": _pids(metrics.pids.current, metrics.pids.limit),
        "blkio_stats": {
            name: [
                {"major": entry.major, "minor": entry.minor, "op": entry.op, "value": entry.value}
                for entry in getattr(metrics.blkio, field)
            ]
            for name, field in _BLKIO.items()
        },
        "cpu_stats": {
            "cpu_usage": {
                "total_usage": metrics.cpu.usage.total,
                "percpu_usage": list(metrics.cpu.usage.per_cpu),
                "usage_in_kernelmode": metrics.cpu.usage.kernel,
                "usage_in_usermode": metrics.cpu.usage.user,
            },
            "throttling_data": {
                "periods": metrics.cpu.throttling.periods,
                "throttled_periods": metrics.cpu.throttling.throttled_periods,
                "throttled_time": metrics.cpu.throttling.throttled_time,
            },
        },
        "memory_stats": {
            "usage": memory.usage.usage,
            "max_usage": memory.usage.max,
            "stats": {name: getattr(memory, field) for field, name in _V1_MEMORY.items()},
            "failcnt": memory.usage.failcnt,
            "limit": min(limit, memory_total) if limit else memory_total,
        },
    }


def stats_v2(metrics: v2.Metrics, memory_total: int) -> Stats:
    """Stats out of version 2 metrics; `memory_total` in bytes stands for no limit."""
    memory = metrics.memory
    limit = memory.usage_limit
    transfers = []
    for entry in metrics.io.usage:
        device = {"major": entry.major, "minor": entry.minor}
        transfers.append({**device, "op": "read", "value": entry.rbytes})
        transfers.append({**device, "op": "write", "value": entry.wbytes})
    blkio: Stats = dict.fromkeys(_BLKIO)
    blkio["io_service_bytes_recursive"] = transfers
    return {
        "pids_stats": _pids(metrics.pids.current, metrics.pids.limit),
        "blkio_stats": blkio,
        "cpu_stats": {
            "cpu_usage": {
                "total_usage": metrics.cpu.usage_usec * 1000,
                "usage_in_kernelmode": metrics.cpu.system_usec * 1000,
                "usage_in_usermode": metrics.cpu.user_usec * 1000,
            },
            "throttling_data": {
                "periods": metrics.cpu.nr_periods,
                "throttled_periods": metrics.cpu.nr_throttled,
                "throttled_time": metrics.cpu.throttled_usec * 1000,
            },
        },
        "memory_stats": {
            "usage": memory.usage,
            "stats": {name: getattr(memory, name) for name in _V2_MEMORY},
            "failcnt": metrics.memory_events.oom,
            "limit": min(limit, memory_total) if limit else memory_total,
        },
    }


def _pids(current: int, limit: int) -> Stats:
    found = {}
    if current:
        found["current"] = current
    if limit:
        found["limit"] = limit
    return found


def parse_net_dev(text: str) -> Stats | None:
    """`networks` out of /proc/<pid>/net/dev, without lo; None without any interface."""
    networks = {}
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        name = name.strip()
        if name == "lo":
            continue
        values = [int(value) for value in rest.split()]
        receive, send = values[:8], values[8:]
        networks[name] = {
            "rx_bytes": receive[0],
            "rx_packets": receive[1],
            "rx_errors": receive[2],
            "rx_dropped": receive[3],
            "tx_bytes": send[0],
            "tx_packets": send[1],
            "tx_errors": send[2],
            "tx_dropped": send[3],
        }
    return networks or None


def parse_system_cpu(text: str, ticks: int) -> tuple[int, int]:
    """CPU time of the host in nanoseconds since it started, and its CPUs, out of /proc/stat."""
    total = cpus = 0
    for line in text.splitlines():
        if line.startswith("cpu "):
            total = sum(int(value) for value in line.split()[1:8])
        elif line.startswith("cpu"):
            cpus += 1
    return total * (1_000_000_000 // ticks), cpus
