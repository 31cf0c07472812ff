# SPDX-License-Identifier: Apache-2.0
"""Which field of a control group's statistics is which metric: containerd's names, as data.

A metric's name is `container_<name>_<unit>`; the field is a path of attributes in the message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Single(NamedTuple):
    """One value a container."""

    name: str
    field: str


class Repeated(NamedTuple):
    """One value for each entry of a repeated field; `labels` are label names with the entry's attributes."""

    name: str
    field: str
    value: str
    labels: Sequence[tuple[str, str]]


_MEMORY_V1 = """cache rss rss_huge mapped_file dirty writeback inactive_anon active_anon inactive_file active_file
unevictable total_cache total_rss total_rss_huge total_mapped_file total_dirty total_writeback
total_inactive_anon total_active_anon total_inactive_file total_active_file total_unevictable
hierarchical_memory_limit""".split()  # noqa: SIM905
_MEMORY_V1_RENAMED = {
    "pgpgin": "pg_pg_in",
    "pgpgout": "pg_pg_out",
    "pgfault": "pg_fault",
    "pgmajfault": "pg_maj_fault",
    "total_pgpgin": "total_pg_pg_in",
    "total_pgpgout": "total_pg_pg_out",
    "total_pgfault": "total_pg_fault",
    "total_pgmajfault": "total_pg_maj_fault",
    "hierarchical_memsw_limit": "hierarchical_swap_limit",
}
_ENTRIES_V1 = {"usage": "usage", "swap": "swap", "kernel": "kernel", "kerneltcp": "kernel_tcp"}
_BLKIO = [("op", "op"), ("device", "device"), ("major", "major"), ("minor", "minor")]
_BLKIO_V1 = {
    "blkio_io_merged_recursive_total": "io_merged_recursive",
    "blkio_io_queued_recursive_total": "io_queued_recursive",
    "blkio_io_service_bytes_recursive_bytes": "io_service_bytes_recursive",
    "blkio_io_service_time_recursive_total": "io_service_time_recursive",
    "blkio_io_serviced_recursive_total": "io_serviced_recursive",
    "blkio_io_time_recursive_total": "io_time_recursive",
    "blkio_sectors_recursive_total": "sectors_recursive",
}

V1: Sequence[Single | Repeated] = (
    Single("cpu_total_nanoseconds", "cpu.usage.total"),
    Single("cpu_kernel_nanoseconds", "cpu.usage.kernel"),
    Single("cpu_user_nanoseconds", "cpu.usage.user"),
    Single("cpu_throttle_periods_total", "cpu.throttling.periods"),
    Single("cpu_throttled_periods_total", "cpu.throttling.throttled_periods"),
    Single("cpu_throttled_time_nanoseconds", "cpu.throttling.throttled_time"),
    Repeated("per_cpu_nanoseconds", "cpu.usage.per_cpu", "", [("cpu", "#")]),
    Single("pids_limit", "pids.limit"),
    Single("pids_current", "pids.current"),
    *(Single(f"memory_{name}_bytes", f"memory.{name}") for name in _MEMORY_V1),
    *(Single(f"memory_{name}_bytes", f"memory.{field}") for name, field in _MEMORY_V1_RENAMED.items()),
    *(
        Single(f"memory_{name}_{what}_{'total' if what == 'failcnt' else 'bytes'}", f"memory.{field}.{what}")
        for name, field in _ENTRIES_V1.items()
        for what in ("failcnt", "limit", "max", "usage")
    ),
    *(
        Repeated(
            f"hugetlb_{what}_{'total' if what == 'failcnt' else 'bytes'}", "hugetlb", what, [("page", "pagesize")]
        )
        for what in ("usage", "failcnt", "max")
    ),
    *(Repeated(name, f"blkio.{field}", "value", _BLKIO) for name, field in _BLKIO_V1.items()),
)

_MEMORY_V2 = """usage usage_limit swap_usage swap_limit file_mapped file_dirty file_writeback pgactivate
pgdeactivate pgfault pgmajfault pglazyfree pgrefill pglazyfreed pgscan pgsteal inactive_anon active_anon
inactive_file active_file unevictable anon file kernel_stack slab sock shmem anon_thp slab_reclaimable
slab_unreclaimable workingset_refault workingset_activate workingset_nodereclaim thp_fault_alloc
thp_collapse_alloc""".split()  # noqa: SIM905
_DEVICE = [("major", "major"), ("minor", "minor")]

V2: Sequence[Single | Repeated] = (
    Single("cpu_usage_usec_microseconds", "cpu.usage_usec"),
    Single("cpu_user_usec_microseconds", "cpu.user_usec"),
    Single("cpu_system_usec_microseconds", "cpu.system_usec"),
    Single("cpu_nr_periods_total", "cpu.nr_periods"),
    Single("cpu_nr_throttled_total", "cpu.nr_throttled"),
    Single("cpu_throttled_usec_microseconds", "cpu.throttled_usec"),
    Single("pids_limit", "pids.limit"),
    Single("pids_current", "pids.current"),
    *(Single(f"memory_{name}_bytes", f"memory.{name}") for name in _MEMORY_V2),
    Single("memory_oom_total", "memory_events.oom"),
    Repeated("io_rbytes_bytes", "io.usage", "rbytes", _DEVICE),
    Repeated("io_wbytes_bytes", "io.usage", "wbytes", _DEVICE),
    Repeated("io_rios_total", "io.usage", "rios", _DEVICE),
    Repeated("io_wios_total", "io.usage", "wios", _DEVICE),
)
