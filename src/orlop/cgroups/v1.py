# SPDX-License-Identifier: Apache-2.0
"""Control groups version 1: one directory in each hierarchy."""

import errno
import os
import time
from typing import TYPE_CHECKING

from orlop.cgroups.hierarchies import mountpoint_of
from orlop.cgroups.manager import Manager
from orlop.cgroups.write import read_file, write_file
from orlop.errdefs import FailedPreconditionError, InternalError

if TYPE_CHECKING:
    from orlop.cgroups.stats import Stats
    from orlop.oci.runtime import Resources

_FREEZE_WITHIN = 10.0  # seconds
_MAIN = ("devices", "pids", "memory", "cpu", "freezer", "name=systemd")


class ManagerV1(Manager):
    """One directory a hierarchy; controllers that are mounted together share it."""

    __slots__ = ()

    def create(self) -> None:
        existed = False
        made: list[str] = []
        try:
            for path in dict.fromkeys(self._paths.values()):
                if _make(path):
                    made.append(path)
                else:
                    existed = True
            if existed:
                self._refuse_if_in_use()
            if "cpuset" in self._paths:
                _inherit_cpuset(self._paths["cpuset"])
        except BaseException:
            self.close()
            for path in made:
                os.rmdir(path)
            raise
        self._fresh = True

    def apply(self, resources: "Resources") -> None:
        from orlop.cgroups import limits

        limits.apply_v1(resources, self._directory, self._where, fresh=self._fresh)
        self._fresh = False

    def apply_limits(self, resources: "Resources") -> None:
        from orlop.cgroups import limits

        limits.apply_v1_without_devices(resources, self._directory, self._where)
        self._fresh = False

    def add(self, pid: int) -> None:
        self._enter("cgroup.procs", pid)

    def join(self) -> None:
        self._enter("tasks", 0)

    def _enter(self, file: str, pid: int) -> None:
        entered: set[str] = set()
        for controller, path in self._paths.items():
            if path in entered:
                continue
            entered.add(path)
            try:
                write_file(self._directory(controller), file, str(pid))
            except OSError as error:
                reason = os.strerror(error.errno or 0).lower()
                raise FailedPreconditionError(f"cannot move process {pid} into {path}: {reason}") from None

    def stats(self) -> "Stats":
        from orlop.cgroups.stats_v1 import collect

        return collect(self._paths, self._directory)

    def freeze(self) -> None:
        # The kernel freezes in the background and tells nobody when it is done; asking again makes it go on with
        # processes that were not ready (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst).
        deadline = time.monotonic() + _FREEZE_WITHIN
        pause = 0.00002
        directory = self._directory("freezer")
        while True:
            write_file(directory, "freezer.state", "FROZEN")
            if read_file(directory, "freezer.state").strip() == "FROZEN":
                return
            if time.monotonic() >= deadline:
                write_file(directory, "freezer.state", "THAWED")
                raise InternalError(f"cannot freeze {self._where('freezer')} within {_FREEZE_WITHIN:.0f} s")
            time.sleep(pause)
            pause = min(pause * 2, 0.01)

    def thaw(self) -> None:
        write_file(self._directory("freezer"), "freezer.state", "THAWED")

    def frozen(self) -> bool:
        if "freezer" not in self._paths:
            return False
        try:
            state = read_file(self._directory("freezer"), "freezer.state").strip()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV):
                return False
            raise
        return state in ("FROZEN", "FREEZING")

    def oom_fd(self) -> int:
        directory = self._directory("memory")
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            control = os.open("memory.oom_control", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
            try:
                write_file(directory, "cgroup.event_control", f"{event} {control}")
            finally:
                os.close(control)
        except BaseException:
            os.close(event)
            raise
        return event

    def oom_kills(self) -> int:
        for line in read_file(self._directory("memory"), "memory.oom_control").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
        return 0

    def _can_freeze(self) -> bool:
        return "freezer" in self._paths

    def _main_paths(self) -> list[str]:
        return [self._paths[name] for name in _MAIN if name in self._paths] or list(self._paths.values())[:1]


def _make(path: str) -> bool:
    """Make a group and those above it; whether it was missing."""
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return False
    except FileNotFoundError:
        parent = os.path.dirname(path)
        if len(parent) <= len(mountpoint_of(path)):
            raise
        _make(parent)
        return _make(path)
    return True


def _inherit_cpuset(path: str) -> None:
    """Give an empty cpuset its parent's CPUs and memory nodes, without which no process can enter it."""
    for file in ("cpuset.cpus", "cpuset.mems"):
        _inherit(path, file, mountpoint_of(path))
    # Groups made below one of ours then start with its CPUs: one read less for each container to come.
    parent = os.path.dirname(path)
    if len(parent) > len(mountpoint_of(path)):
        _clone_children(parent)


def _clone_children(path: str) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if read_file(directory, "cgroup.clone_children").strip() == "0":
            write_file(directory, "cgroup.clone_children", "1")
    except PermissionError:
        return  # somebody else's; it is for speed only
    finally:
        os.close(directory)


def _inherit(path: str, file: str, mountpoint: str) -> str:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        value = read_file(directory, file).strip()
        if not value and len(path) > len(mountpoint):
            value = _inherit(os.path.dirname(path), file, mountpoint)
            write_file(directory, file, value)
    finally:
        os.close(directory)
    return value
