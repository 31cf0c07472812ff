# SPDX-License-Identifier: Apache-2.0
"""The limits of a process's control groups as the kernel has them, in one form for both versions."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, CPUs as a number of them; None where there is no limit or no such file."""

    memory: int | None
    memory_and_swap: int | None
    cpus: float | None
    pids: int | None
    cpuset: str
    weight: int | None
    read_bps: str


def is_unified() -> bool:
    """Whether containers here get version 2."""
    return os.path.exists(_ROOT / "cgroup.controllers")


def limits_of(pid: int) -> Limits:
    """What holds for a process."""
    groups = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    if is_unified():
        return _unified(_ROOT / groups[-1][2].lstrip("/"))
    where = {name: _ROOT / name / path.lstrip("/") for _, names, path in groups for name in names.split(",")}
    return _version_1(where)


def _unified(group: Path) -> Limits:
    memory, swap = _number(group / "memory.max"), _number(group / "memory.swap.max")
    quota, _, period = _text(group / "cpu.max").partition(" ")
    return Limits(
        memory=memory,
        memory_and_swap=None if memory is None or swap is None else memory + swap,
        cpus=int(quota) / int(period) if quota.isdigit() else None,
        pids=_number(group / "pids.max"),
        cpuset=_text(group / "cpuset.cpus"),
        weight=_number(group / "cpu.weight"),
        read_bps=_text(group / "io.max"),
    )


def _version_1(where: dict[str, Path]) -> Limits:
    quota, period = (_number(where["cpu"] / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return Limits(
        memory=_number(where["memory"] / "memory.limit_in_bytes"),
        memory_and_swap=_number(where["memory"] / "memory.memsw.limit_in_bytes"),
        cpus=quota / period if quota and period else None,
        pids=_number(where["pids"] / "pids.max"),
        cpuset=_text(where["cpuset"] / "cpuset.cpus"),
        weight=_number(where["cpu"] / "cpu.shares"),
        read_bps=_text(where["blkio"] / "blkio.throttle.read_bps_device"),
    )


def _text(file: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return file.read_text().strip()
    return ""


def _number(file: Path) -> int | None:
    text = _text(file)
    return int(text) if text.isdigit() and int(text) < 1 << 62 else None
