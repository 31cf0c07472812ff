# SPDX-License-Identifier: Apache-2.0
"""Scheduler, I/O priority, CPU affinity and memory policy of a process: parsed in the parent, set in the child."""

import os

import msgspec

from orlop.errdefs import InvalidArgumentError
from orlop.libcontainer.errors import explain
from orlop.oci.runtime import MemoryPolicy, Process
from orlop.unix import process as proc

# sched(7), linux/sched.h
_POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
_SCHED_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
# set_mempolicy(2), linux/mempolicy.h
MEMORY_MODES = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}
MEMORY_FLAGS = {
    "MPOL_F_STATIC_NODES": 1 << 15,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_NUMA_BALANCING": 1 << 13,
}
_NUMBER_LIMIT = 8192


class Scheduling(msgspec.Struct):
    """What is to be set, as the kernel takes it."""

    attributes: proc.SchedAttr | None = None
    io_priority: int | None = None
    initial_cpus: set[int] = set()  # before the control group is joined
    final_cpus: set[int] = set()
    memory_mode: int | None = None
    memory_nodes: set[int] = set()


def plan_scheduling(process: Process, memory: MemoryPolicy | None, *, is_exec: bool) -> Scheduling:
    """Check and translate. Raises InvalidArgumentError naming the property."""
    plan = Scheduling()
    if process.scheduler is not None:
        plan.attributes = _scheduler(process)
    if process.io_priority is not None:
        level = process.io_priority.priority
        kind = _number("process.ioPriority.class", process.io_priority.class_, _IO_CLASSES)
        if not 0 <= level <= 7:
            raise InvalidArgumentError(f"process.ioPriority.priority is {level}, expected 0 to 7")
        plan.io_priority = kind << 13 | level
    if is_exec and process.exec_cpu_affinity is not None:
        affinity = process.exec_cpu_affinity
        plan.initial_cpus = parse_list("process.execCPUAffinity.initial", affinity.initial)
        plan.final_cpus = parse_list("process.execCPUAffinity.final", affinity.final)
    if memory is not None and memory.mode:
        mode = _number("linux.memoryPolicy.mode", memory.mode, MEMORY_MODES)
        for flag in memory.flags:
            mode |= _number("linux.memoryPolicy.flags", flag, MEMORY_FLAGS)
        plan.memory_mode = mode
        plan.memory_nodes = parse_list("linux.memoryPolicy.nodes", memory.nodes)
    return plan


def apply_scheduling(plan: Scheduling) -> None:
    """Set it all, in the child. Raises InvalidArgumentError."""
    try:
        if plan.attributes is not None:
            proc.sched_setattr(0, plan.attributes)
        if plan.io_priority is not None:
            proc.ioprio_set(0, plan.io_priority)
        if plan.memory_mode is not None:
            proc.set_mempolicy(plan.memory_mode, plan.memory_nodes)
        if plan.final_cpus:
            os.sched_setaffinity(0, plan.final_cpus)
    except OSError as error:
        raise InvalidArgumentError(f"unable to set the scheduling: {explain(error)}") from error


def parse_list(name: str, text: str) -> set[int]:
    """A list as `0-3,7`. Raises InvalidArgumentError naming the property."""
    numbers: set[int] = set()
    for part in text.split(",") if text else []:
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not (part.isascii() and first.isdigit() and last.isdigit() and int(first) <= int(last) < _NUMBER_LIMIT):
            raise InvalidArgumentError(f'{name} is "{text}", expected a list as 0-3,7')
        numbers.update(range(int(first), int(last) + 1))
    return numbers


def _scheduler(process: Process) -> proc.SchedAttr:
    wanted = process.scheduler
    assert wanted is not None
    policy = _number("process.scheduler.policy", wanted.policy, _POLICIES)
    if wanted.priority and wanted.policy not in ("SCHED_FIFO", "SCHED_RR"):
        raise InvalidArgumentError("process.scheduler.priority goes with SCHED_FIFO or SCHED_RR only")
    if (wanted.runtime or wanted.deadline or wanted.period) and wanted.policy != "SCHED_DEADLINE":
        raise InvalidArgumentError("process.scheduler.runtime, deadline, period go with SCHED_DEADLINE only")
    if wanted.policy in ("SCHED_OTHER", "SCHED_BATCH") and not -20 <= wanted.nice <= 19:
        raise InvalidArgumentError(f"process.scheduler.nice is {wanted.nice}, expected -20 to 19")
    flags = 0
    for flag in wanted.flags:
        flags |= _number("process.scheduler.flags", flag, _SCHED_FLAGS)
    return proc.SchedAttr(
        policy=policy,
        flags=flags,
        nice=wanted.nice,
        priority=wanted.priority,
        runtime=wanted.runtime,
        deadline=wanted.deadline,
        period=wanted.period,
    )


def _number(name: str, text: str, known: dict[str, int]) -> int:
    number = known.get(text)
    if number is None:
        raise InvalidArgumentError(f'{name} is "{text}", expected one of {" ".join(known)}')
    return number
