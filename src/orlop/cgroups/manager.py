# SPDX-License-Identifier: Apache-2.0
"""The contract of a container's control groups, and what both versions share."""

import os
import signal
import time
from typing import TYPE_CHECKING

from orlop.cgroups import tree
from orlop.errdefs import FailedPreconditionError

if TYPE_CHECKING:
    from orlop.cgroups.stats import Stats
    from orlop.oci.runtime import Resources

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_REMOVE_WITHIN = 10.0  # seconds


class Manager:
    """The control groups of one container.

    create() → apply(resources) → a process enters (join() in the child itself, clone3 into fd(), or add()) →
    … stats, freeze, kill … → destroy(). A manager of a container that exists comes from `load_manager(paths())`.
    Not for several threads at once. `close()` lets go of the directory descriptors; nothing else depends on it.
    """

    __slots__ = ("_directories", "_fresh", "_paths")

    def __init__(self, paths: dict[str, str]) -> None:
        self._paths = paths
        self._directories: dict[str, int] = {}
        self._fresh = False

    def paths(self) -> dict[str, str]:
        """Controller to directory on the host; `{"": directory}` on version 2."""
        return dict(self._paths)

    def create(self) -> None:
        """Make the directories.

        Raises FailedPreconditionError when the container's group exists and has processes.
        """
        raise NotImplementedError

    def apply(self, resources: "Resources") -> None:
        """Set limits. The first time after create() device access is set too, later only where rules are given."""
        raise NotImplementedError

    def apply_limits(self, resources: "Resources") -> None:
        """The first apply() after create() of a user who has no say over devices: limits alone."""
        raise NotImplementedError

    def add(self, pid: int) -> None:
        """Move a process. It costs a grace period of RCU, 5 … 17 ms: prefer join() or fd()."""
        raise NotImplementedError

    def join(self) -> None:
        """Move the calling process, which must have one thread only.

        On version 1 this takes 0.2 ms where add() takes 5 … 17 ms: a thread that moves itself (0 in `tasks`) need
        not wait until no other process forks or exits. On version 2 it is add() for oneself.
        """
        raise NotImplementedError

    def fd(self) -> int | None:
        """A descriptor of the version 2 directory for CLONE_INTO_CGROUP, which the manager closes; or None."""
        return None

    def settle(self) -> None:
        """The container's first process is in its group: finish what had to wait for that."""

    def exists(self) -> bool:
        """Whether the container's group is there."""
        return any(os.path.exists(path) for path in self._main_paths())

    def pids(self, all: bool = True) -> list[int]:
        """The processes in the group, with `all` also those of groups below it."""
        for path in self._main_paths():
            if found := tree.processes(path, all):
                return sorted(set(found))
        return []

    def stats(self) -> "Stats":
        """What the kernel has counted. Raises FailedPreconditionError when the group is gone."""
        raise NotImplementedError

    def freeze(self) -> None:
        """Stop every process; returns when all are stopped."""
        raise NotImplementedError

    def thaw(self) -> None:
        """Let them run again."""
        raise NotImplementedError

    def frozen(self) -> bool:
        """Whether the group has been asked to be frozen."""
        raise NotImplementedError

    def kill(self, signal_number: int = signal.SIGKILL) -> None:
        """Send every process in the group a signal; a frozen group is thawed so that it can take effect."""
        was_frozen = self.frozen()
        freezes = not was_frozen and self._can_freeze()
        try:
            if freezes:
                self.freeze()  # a process cannot fork away while the list is read
            for pid in self.pids():
                try:
                    os.kill(pid, signal_number)
                except ProcessLookupError:
                    continue
        finally:
            if freezes or (was_frozen and signal_number == signal.SIGKILL):
                self.thaw()

    def oom_fd(self) -> int:
        """A non-blocking descriptor that is readable after the group ran out of memory; the caller closes it.

        After each readiness call `drain_oom(fd)`, then compare `oom_kills()` with the count before. Raises
        FailedPreconditionError without a memory controller.
        """
        raise NotImplementedError

    def oom_kills(self) -> int:
        """How many processes the kernel has killed for memory here."""
        raise NotImplementedError

    def remove_if_empty(self) -> bool:
        """Remove the group and those below it. False while processes keep the kernel from it, or where it takes
        more than that: `destroy` then has to see to it.
        """
        self.close()
        return all(tree.remove(path) for path in dict.fromkeys(self._paths.values()))

    def destroy(self) -> None:
        """Remove the group and those below it, once the processes that are on their way out are gone.

        Raises FailedPreconditionError that names the processes which remain.
        """
        self.close()
        deadline = time.monotonic() + _REMOVE_WITHIN
        pause = 0.0005
        left = list(dict.fromkeys(self._paths.values()))
        while left := [path for path in left if not tree.remove(path)]:
            now = time.monotonic()
            if now >= deadline:
                pids = sorted({pid for path in left for pid in tree.processes(path, True)})
                raise FailedPreconditionError(
                    f"cannot remove control group {left[0]}: processes {pids} remain in it"
                )
            self._wait_until_empty(left, min(pause, deadline - now))
            pause = min(pause * 2, 0.05)

    def close(self) -> None:
        """Close the directory descriptors; they are opened again when needed."""
        for fd in self._directories.values():
            os.close(fd)
        self._directories.clear()

    def _wait_until_empty(self, paths: list[str], pause: float) -> None:
        # Version 1 has no event for it: rmdir is refused until the last thread has passed through exit(2), which
        # is a matter of scheduling once its parent has reaped it: a short pause that doubles is all there is.
        time.sleep(pause)

    def _can_freeze(self) -> bool:
        return True

    def _main_paths(self) -> list[str]:
        raise NotImplementedError

    def _directory(self, controller: str) -> int:
        """The descriptor of a controller's directory, opened at the first use."""
        path = self._where(controller)
        fd = self._directories.get(path)
        if fd is None:
            fd = self._directories[path] = os.open(path, _DIRECTORY)
        return fd

    def _where(self, controller: str) -> str:
        path = self._paths.get(controller)
        if path is None:
            raise FailedPreconditionError(
                f"cannot set {controller} limits: the {controller} controller is not mounted"
                " or gives this user no group"
            )
        return path

    def _refuse_if_in_use(self) -> None:
        if pids := self.pids():
            self.close()
            raise FailedPreconditionError(
                f"control group {self._main_paths()[0]} is not empty: {len(pids)} process(es) found"
            )
