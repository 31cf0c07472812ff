# SPDX-License-Identifier: Apache-2.0
"""A container's control groups as containerd's metrics messages, and its out-of-memory events."""

import os
import select
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from orlop import cgroups
from orlop.cgroups.hierarchies import mounts
from orlop.errdefs import InvalidArgumentError, OrlopError
from orlop.shim.loop import Loop
from orlop.unix.tables import rows

if TYPE_CHECKING:
    from google.protobuf.message import Message


def groups_of(pid: int) -> cgroups.Manager:
    """The control groups that a process is in, on the version that containers use here. Raises OSError."""
    lines = [line.split(":", 2) for line in rows(f"/proc/{pid}/cgroup")]
    inside = {controller: path for _, controllers, path in lines for controller in controllers.split(",")}
    unified = cgroups.mode() == "v2"
    paths: dict[str, str] = {}
    for controllers, mountpoint, root in mounts():
        if unified == bool(controllers):
            continue
        for controller in controllers or ("",):
            path = inside.get(controller)
            if path is not None:
                paths[controller] = mountpoint + path.removeprefix(root.rstrip("/")).rstrip("/")
    return cgroups.load_manager(paths)


def join_group(path: str) -> None:
    """Move this process to the control groups at `path`. Raises InvalidArgumentError where there are none."""
    wanted = cgroups.new_manager(path)
    present = {controller: group for controller, group in wanted.paths().items() if os.path.isdir(group)}
    wanted.close()
    if not present:
        raise InvalidArgumentError(f"shim_cgroup {path}: no such control group")
    groups = cgroups.load_manager(present)
    try:
        groups.add(os.getpid())
    except OSError as error:
        raise InvalidArgumentError(f"shim_cgroup {path}: {(error.strerror or str(error)).lower()}") from None
    finally:
        groups.close()


_REMOVAL_PATIENCE = 500
"""Milliseconds in which the kernel tells of a group's removal; it waits for its readers before."""


class OOMWatch:
    """Calls back when the kernel has killed a process of the container for memory."""

    def __init__(self, loop: Loop, groups: cgroups.Manager, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._groups = groups
        self._callback = callback
        self._kills = groups.oom_kills()
        self._events = 0  # of version 1, since a kill has been told
        self._fd = groups.oom_fd()
        loop.add(self._fd, select.EPOLLIN, self._ready)

    def _ready(self, _events: int) -> None:
        self._look()

    def check(self) -> None:
        """A process has ended: the count of kills may have grown before the event, or be gone with the group."""
        if not self._look() and self._killed_before_removal():
            self._callback()

    def _look(self) -> bool:
        """Call back if the count has grown; whether there still is one."""
        self._events += cgroups.drain_oom(self._fd)
        try:
            kills = self._groups.oom_kills()
        except (OSError, OrlopError):
            return False
        if kills > self._kills:
            self._kills, self._events = kills, 0
            self._callback()
        return True

    def _killed_before_removal(self) -> bool:
        """systemd removes an empty scope's group at once, which on version 1 is an event as well, a little later.

        One event before the end of a process is thus either; a second one makes sure.
        """
        if self._events == 1:
            waiting = select.poll()
            waiting.register(self._fd, select.POLLIN)
            if waiting.poll(_REMOVAL_PATIENCE):
                self._events += cgroups.drain_oom(self._fd)
        events, self._events = self._events, 0
        return events > 1

    def close(self) -> None:
        """Stop watching."""
        if self._fd >= 0:
            self._loop.remove(self._fd)
            os.close(self._fd)
            self._fd = -1
            self._groups.close()


def message(stats: cgroups.Stats) -> "Message":
    """The Metrics message of the version that `stats` are of."""
    return _v1(stats) if stats.version == 1 else _v2(stats)


def _v1(stats: cgroups.Stats) -> "Message":
    from orlop.api import cgroup_metrics_v1_pb2 as pb

    metrics = pb.Metrics()
    if stats.pids is not None:
        metrics.pids.current, metrics.pids.limit = stats.pids.current, stats.pids.limit
    if (cpu := stats.cpu) is not None:
        usage, throttling = metrics.cpu.usage, metrics.cpu.throttling
        usage.total, usage.kernel, usage.user = cpu.total, cpu.kernel, cpu.user
        usage.per_cpu.extend(cpu.per_cpu)
        throttling.periods, throttling.throttled_periods = cpu.periods, cpu.throttled_periods
        throttling.throttled_time = cpu.throttled_time
    if (memory := stats.memory) is not None:
        target = metrics.memory
        _copy_memory_v1(memory.stat, target)
        for name in ("usage", "swap", "kernel", "kernel_tcp"):
            entry, into = getattr(memory, name), getattr(target, name)
            into.usage, into.limit, into.max, into.failcnt = entry.usage, entry.limit, entry.max, entry.failcnt
        control = metrics.memory_oom_control
        control.oom_kill_disable, control.under_oom = memory.oom_kill_disable, memory.under_oom
        control.oom_kill = memory.oom_kill
    for name, entries in stats.blkio.items():
        for one in entries:
            getattr(metrics.blkio, name).add(op=one.op, major=one.major, minor=one.minor, value=one.value)
    for size in stats.hugetlb:
        metrics.hugetlb.add(usage=size.usage, max=size.max, failcnt=size.failcnt, pagesize=size.pagesize)
    _copy_rdma(stats, metrics)
    return metrics


def _copy_memory_v1(stat: dict[str, int], target: Any) -> None:
    special = {
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
    known = target.DESCRIPTOR.fields_by_name
    for key, value in stat.items():
        name = special.get(key, key)
        if name in known and known[name].message_type is None:  # newer kernels count "swap", a message here
            setattr(target, name, value)


def _v2(stats: cgroups.Stats) -> "Message":
    from orlop.api import cgroup_metrics_v2_pb2 as pb

    metrics = pb.Metrics()
    if stats.pids is not None:
        metrics.pids.current, metrics.pids.limit = stats.pids.current, stats.pids.limit
    if (cpu := stats.cpu) is not None:
        target = metrics.cpu
        target.usage_usec, target.user_usec = cpu.total // 1000, cpu.user // 1000
        target.system_usec = cpu.kernel // 1000
        target.nr_periods, target.nr_throttled = cpu.periods, cpu.throttled_periods
        target.throttled_usec = cpu.throttled_time // 1000
        target.nr_bursts, target.burst_usec = cpu.bursts, cpu.burst_time // 1000
    if (memory := stats.memory) is not None:
        _copy_memory_v2(memory, metrics)
    for device in stats.io:
        metrics.io.usage.add(
            major=device.major,
            minor=device.minor,
            rbytes=device.rbytes,
            wbytes=device.wbytes,
            rios=device.rios,
            wios=device.wios,
        )
    for size in stats.hugetlb:
        metrics.hugetlb.add(current=size.usage, max=size.max, failcnt=size.failcnt, pagesize=size.pagesize)
    for resource, pressure in stats.pressure.items():
        psi = getattr(metrics, resource).psi
        for kind in ("some", "full"):
            into = getattr(psi, kind)
            into.avg10, into.avg60, into.avg300, into.total = getattr(pressure, kind)
    _copy_rdma(stats, metrics)
    return metrics


def _copy_memory_v2(memory: Any, metrics: Any) -> None:
    target = metrics.memory
    known = target.DESCRIPTOR.fields_by_name
    for key, value in memory.stat.items():
        if key in known:
            setattr(target, key, value)
    target.usage, target.usage_limit, target.max_usage = memory.usage.usage, memory.usage.limit, memory.usage.max
    target.swap_usage, target.swap_limit = memory.swap.usage, memory.swap.limit
    target.swap_max_usage = memory.swap.max
    for key, value in memory.events.items():
        if key in metrics.memory_events.DESCRIPTOR.fields_by_name:
            setattr(metrics.memory_events, key, value)


def _copy_rdma(stats: cgroups.Stats, metrics: Any) -> None:
    for entries, into in ((stats.rdma_current, metrics.rdma.current), (stats.rdma_limit, metrics.rdma.limit)):
        for entry in entries:
            into.add(device=entry.device, hca_handles=entry.hca_handles, hca_objects=entry.hca_objects)
