# SPDX-License-Identifier: Apache-2.0
"""Control groups version 2: one directory in the one hierarchy."""

import errno
import os
import select
import signal
import time
from typing import TYPE_CHECKING

from orlop.cgroups.hierarchies import mountpoint_of
from orlop.cgroups.manager import Manager
from orlop.cgroups.stats import Stats, table
from orlop.cgroups.write import read_file, write_file
from orlop.errdefs import FailedPreconditionError, InternalError, InvalidArgumentError

if TYPE_CHECKING:
    from orlop.oci.runtime import Memory, Resources

_FREEZE_WITHIN = 10.0  # seconds


class ManagerV2(Manager):
    """The group's directory; the controllers that the kernel offers are switched on in every group above it."""

    __slots__ = ()

    def create(self) -> None:
        path = self._paths[""]
        mountpoint = mountpoint_of(path)
        made = _make(path, mountpoint)
        try:
            if not made:
                self._refuse_if_in_use()
            _enable_controllers(path, mountpoint)
        except BaseException:
            if made:
                self.close()
                os.rmdir(path)
            raise
        self._fresh = True

    def apply(self, resources: "Resources") -> None:
        if resources.memory is not None and resources.memory.check_before_update and not self._fresh:
            self._refuse_less_than_used(resources.memory)
        from orlop.cgroups import limits

        limits.apply_v2(resources, self._directory(""), self._where, fresh=self._fresh)
        self._fresh = False

    def _refuse_less_than_used(self, memory: "Memory") -> None:
        """A limit below what is in use would have the kernel kill processes until it is met."""
        try:
            used = int(read_file(self._directory(""), "memory.current"))
        except OSError:
            return  # no memory controller: the write will say so
        for name, limit in (("memory+swap", memory.swap), ("memory", memory.limit)):
            if limit and 0 < limit <= used:
                raise InvalidArgumentError(f"rejecting {name} limit {limit} <= usage {used}")

    def apply_limits(self, resources: "Resources") -> None:
        from orlop.cgroups import limits

        limits.apply_v2_without_devices(resources, self._directory(""), self._where)
        self._fresh = False

    def _where(self, controller: str) -> str:
        return self._paths[""]

    def add(self, pid: int) -> None:
        try:
            write_file(self._directory(""), "cgroup.procs", str(pid))
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            raise FailedPreconditionError(f"cannot move process {pid} into {self._paths['']}: {reason}") from None

    def join(self) -> None:
        self.add(0)

    def fd(self) -> int | None:
        return self._directory("")

    def stats(self) -> Stats:
        from orlop.cgroups.stats_v2 import collect

        return collect(self._directory(""))

    def freeze(self) -> None:
        directory = self._directory("")
        write_file(directory, "cgroup.freeze", "1")
        if not self._wait_for("frozen", 1, _FREEZE_WITHIN):
            write_file(directory, "cgroup.freeze", "0")
            raise InternalError(f"cannot freeze {self._paths['']} within {_FREEZE_WITHIN:.0f} s")

    def thaw(self) -> None:
        write_file(self._directory(""), "cgroup.freeze", "0")

    def frozen(self) -> bool:
        try:
            return read_file(self._directory(""), "cgroup.freeze").strip() == "1"
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV):
                return False
            raise

    def kill(self, signal_number: int = signal.SIGKILL) -> None:
        if signal_number == signal.SIGKILL:
            try:
                write_file(self._directory(""), "cgroup.kill", "1")
                return
            except FileNotFoundError:
                if not self.exists():
                    return
                # Before Linux 5.14 there is no such file.
        super().kill(signal_number)

    def oom_fd(self) -> int:
        from orlop.unix import inotify

        try:
            return inotify.watch(f"{self._paths['']}/memory.events", inotify.IN_MODIFY)
        except FileNotFoundError:
            raise FailedPreconditionError(f"control group {self._paths['']} has no memory controller") from None

    def oom_kills(self) -> int:
        try:
            return table(read_file(self._directory(""), "memory.events")).get("oom_kill", 0)
        except FileNotFoundError:
            return 0

    def _main_paths(self) -> list[str]:
        return [self._paths[""]]

    def _wait_until_empty(self, paths: list[str], pause: float) -> None:
        try:
            self._wait_for("populated", 0, max(pause, 1.0))
            time.sleep(0 if pause < 0.001 else pause)  # a group below may still be on its way
        except FileNotFoundError:
            return
        finally:
            self.close()

    def _wait_for(self, key: str, value: int, seconds: float) -> bool:
        """Wait for an event of cgroup.events (the file signals each change with POLLPRI)."""
        deadline = time.monotonic() + seconds
        fd = os.open("cgroup.events", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory(""))
        try:
            poll = select.poll()
            poll.register(fd, select.POLLPRI)
            while table(os.pread(fd, 4096, 0).decode()).get(key) != value:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                poll.poll(remaining * 1000)
            return True
        finally:
            os.close(fd)


def _make(path: str, mountpoint: str) -> bool:
    """Make a group and those above it; whether it was missing."""
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return False
    except FileNotFoundError:
        parent = os.path.dirname(path)
        if len(parent) <= len(mountpoint):
            raise
        _make(parent, mountpoint)
        return _make(path, mountpoint)
    return True


def _enable_controllers(path: str, mountpoint: str) -> None:
    """Switch on, in the groups above one, what the root offers and the group still lacks."""
    with open(f"{mountpoint}/cgroup.controllers", encoding="utf-8") as file:
        offered = file.read().split()
    with open(f"{path}/cgroup.controllers", encoding="utf-8") as file:
        missing = set(offered) - set(file.read().split())
    if not missing:
        return
    names = os.path.relpath(os.path.dirname(path), mountpoint).split("/")
    above = mountpoint
    for name in ["", *(name for name in names if name != ".")]:
        above = f"{above}/{name}".rstrip("/")
        directory = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _enable(directory, [controller for controller in offered if controller in missing])
        finally:
            os.close(directory)


def _enable(directory: int, controllers: list[str]) -> None:
    try:
        write_file(directory, "cgroup.subtree_control", " ".join(f"+{controller}" for controller in controllers))
    except OSError:
        # One that cannot be had (real-time processes forbid cpu, a threaded domain most) must not keep out the
        # rest; a limit that needs it then fails by name.
        for controller in controllers:
            try:
                write_file(directory, "cgroup.subtree_control", f"+{controller}")
            except OSError:
                continue
