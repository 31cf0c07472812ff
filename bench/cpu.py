# SPDX-License-Identifier: Apache-2.0
"""Processor time of a daemon, of everything that it starts and of its clients, counted by control groups.

Shims leave their parents, so that no process knows what a container has cost; a control group does.
"""

import contextlib
import os
import pathlib
import time
from collections.abc import Iterator

_V1 = pathlib.Path("/sys/fs/cgroup/cpuacct")
_V2 = pathlib.Path("/sys/fs/cgroup")
_QUIET, _LONGEST = 0.1, 3.0  # seconds
_IDLE = 0.0005  # processor seconds in such a moment that an idle daemon takes
_UNIT = 1_000_000_000  # cpuacct counts nanoseconds


class Group:
    """A control group; what runs in those below it counts, too."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        path.mkdir()

    def command(self, words: list[str]) -> list[str]:
        """A command that runs in the group."""
        return ["/bin/sh", "-c", f'echo 0 > {self.path}/cgroup.procs && exec "$@"', "sh", *words]

    def seconds(self) -> float:
        """Processor time so far, user and system."""
        usage = self.path / "cpuacct.usage"
        if usage.exists():
            return int(usage.read_text()) / _UNIT
        words = (self.path / "cpu.stat").read_text().split()
        return int(words[words.index("usage_usec") + 1]) / 1_000_000

    def settled(self) -> float:
        """Processor time so far, when what goes on behind an answer has ended: nothing has run for a moment."""
        deadline = time.monotonic() + _LONGEST
        used = self.seconds()
        while time.monotonic() < deadline:
            time.sleep(_QUIET)
            used, before = self.seconds(), used
            if used - before < _IDLE:
                break
        return used


class Meter:
    """Groups for one daemon: itself with its shims (`daemon`), its clients, and containers (`name`/…)."""

    def __init__(self, name: str) -> None:
        self.name = name
        base = _V1 if _V1.is_dir() else _V2
        self.all = Group(base / name)
        self.daemon = Group(base / name / "daemon")
        self.client = Group(base / name / "client")

    def close(self) -> None:
        """Remove the groups, in every hierarchy: a runtime that makes one for a container makes those above it."""
        for base in (_V2, *_V2.iterdir()):
            for path, _, _ in os.walk(base / self.name, topdown=False):
                os.rmdir(path)


@contextlib.contextmanager
def meter(name: str) -> Iterator[Meter]:
    """A meter for one daemon; nothing may run in it at the end."""
    made = Meter(f"bench-{name}-{os.getpid()}")
    try:
        yield made
    finally:
        made.close()
