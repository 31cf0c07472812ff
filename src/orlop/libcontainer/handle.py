# SPDX-License-Identifier: Apache-2.0
"""What can be done with a container that exists: ask for its state, signal it, change its limits, delete it."""

import builtins
import os
import select
import signal
from typing import TYPE_CHECKING

from orlop.errdefs import FailedPreconditionError, InternalError, NotFoundError, OrlopError
from orlop.libcontainer import starting
from orlop.libcontainer.facts import (
    NOTIFY_DIRECTORY,
    START_SOCKET,
    Facts,
    facts_of,
    process_start,
    read_facts,
    validate_id,
)
from orlop.libcontainer.journal import debug

if TYPE_CHECKING:
    from typing import Self

    from orlop import cgroups
    from orlop.libcontainer.state import Record, State
    from orlop.oci.runtime import Resources


class Handle:
    """A container by what its state.json says; `Container` adds what makes containers and processes.

    Imports little: what a method needs beyond the facts it imports by itself, and a zygote imports beforehand.
    """

    def __init__(self, root: str, facts: Facts, record: "Record | None" = None) -> None:
        self.id = facts.id
        self.root = root
        self.directory = f"{root}/{facts.id}"
        self.facts = facts
        self.console: int | None = None
        self.init_pidfd = -1
        self._record = record
        self._cgroup: cgroups.Manager | None = None

    # -- finding ----------------------------------------------------------------------------------

    @classmethod
    def load(cls, root: str, container_id: str) -> "Self":
        """The container of that id. Raises NotFoundError, InvalidArgumentError."""
        validate_id(container_id)
        return cls(root, read_facts(f"{root}/{container_id}"))

    @classmethod
    def list(cls, root: str) -> "builtins.list[Self]":
        """All containers below `root`, by id."""
        try:
            names = sorted(os.listdir(root))
        except FileNotFoundError:
            return []
        found: builtins.list[Self] = []
        for name in names:
            try:
                found.append(cls.load(root, name))
            except OrlopError:
                # Something else in the directory, or a container that is gone meanwhile.
                continue
        return found

    @property
    def record(self) -> "Record":
        """All of state.json, with types. Raises NotFoundError, InvalidArgumentError."""
        if self._record is None:
            from orlop.libcontainer.state import read_record

            self._record = read_record(self.directory)
        return self._record

    def keep(self) -> None:
        """Write the record down after a change."""
        from orlop.libcontainer.state import write_record

        write_record(self.directory, self.record)
        self.facts = facts_of(self.record)

    # -- state ------------------------------------------------------------------------------------

    @property
    def init_pid(self) -> int:
        """The init process as seen from here; 0 before there is one."""
        return self.facts.init_pid

    def status(self) -> str:
        """creating, created, running, paused or stopped, from the kernel."""
        if not self.facts.init_pid:
            return "creating" if self.manager().exists() and self.manager().pids() else "stopped"
        start, letter = process_start(self.facts.init_pid)
        if start != self.facts.init_start or letter in ("Z", "X", ""):
            return "stopped"
        if os.path.exists(f"{self.directory}/{START_SOCKET}"):
            return "created"
        return "paused" if self.manager().frozen() else "running"

    def state(self) -> "State":
        """The OCI state and what `runc list` shows besides."""
        status = self.status()
        return self.oci_state(status, 0 if status == "stopped" else self.init_pid)

    def oci_state(self, status: str, pid: int) -> "State":
        """The OCI state with a status and process that the caller knows."""
        from orlop.libcontainer.state import State

        facts = self.facts
        return State(
            oci_version=facts.oci_version,
            id=self.id,
            pid=pid,
            status=status,
            bundle=facts.bundle,
            rootfs=facts.rootfs,
            created=facts.created,
            annotations=facts.annotations,
            owner=str(facts.owner),
        )

    def pids(self) -> builtins.list[int]:
        """Every process of the container, as seen from here."""
        return self.manager().pids()

    def stats(self) -> "cgroups.Stats":
        """What the control groups have counted."""
        return self.manager().stats()

    # -- control ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Let init execute the user's program; returns when it runs.

        Raises FailedPreconditionError unless the container is created, and what keeps the program from running.
        """
        status = self.status()
        if status == "stopped":
            raise FailedPreconditionError("cannot start a container that has stopped")
        if status != "created":
            raise FailedPreconditionError(
                "cannot start an already running container"
                if status in ("running", "paused")
                else f"cannot start a container in the {status} state"
            )
        starting.await_program(self.directory, self.facts.executable)
        debug(f"{self.id}: the program runs")
        if self.facts.poststart:
            self._run_poststart()

    def _run_poststart(self) -> None:
        """Since version 1.3 of the specification a hook that fails ends the container; before, it is a warning."""
        from orlop.libcontainer.hooks import run_all_hooks, run_hooks
        from orlop.libcontainer.state import hook_state
        from orlop.libcontainer.validate import version_of

        assert self.record.spec.hooks is not None
        hooks = self.record.spec.hooks.poststart
        state = hook_state(self.oci_state("running", self.init_pid))
        if version_of(self.facts.oci_version) < (1, 3):
            run_all_hooks("poststart", hooks, state)
            return
        try:
            run_hooks("poststart", hooks, state)
        except OrlopError:
            self._kill_init(signal.SIGKILL)
            raise

    def signal(self, number: int, all: bool = False) -> None:
        """Send init a signal, or every process with `all`. Raises NotFoundError when it is not running."""
        if all and self.manager().paths():
            self.manager().kill(number)
            return
        if self.status() == "stopped":
            raise NotFoundError("container not running")
        debug(f"{self.id}: signal {number} for process {self.facts.init_pid}")
        self._kill_init(number)

    def _kill_init(self, number: int) -> None:
        if number == signal.SIGKILL and not self.facts.own_pids and self.manager().paths():
            # Without a PID namespace of its own nothing ends the others with init.
            self.manager().kill(number)
            return
        try:
            signal.pidfd_send_signal(self.pidfd(), number)
        except ProcessLookupError:
            raise NotFoundError("container not running") from None
        if number == signal.SIGKILL and self.manager().frozen():
            self.manager().thaw()

    def pause(self) -> None:
        """Freeze every process. Raises FailedPreconditionError unless created or running."""
        status = self.status()
        if status not in ("created", "running"):
            raise FailedPreconditionError(f"container not running or created: {status}")
        self.manager().freeze()

    def resume(self) -> None:
        """Thaw a paused container. Raises FailedPreconditionError."""
        if not self.manager().frozen():
            raise FailedPreconditionError("container not paused")
        self.manager().thaw()

    def update(self, resources: "Resources", l3_cache_schema: str = "", mem_bw_schema: str = "") -> None:
        """Change limits; what is left out stays. Raises FailedPreconditionError when stopped.

        The two schemata are for a container with linux.intelRdt.
        """
        if self.status() == "stopped":
            raise FailedPreconditionError("container not running")
        from orlop.libcontainer import changing

        changing.update(self, resources, l3_cache_schema, mem_bw_schema)

    def delete(self, force: bool = False) -> None:
        """Remove a stopped or created container, a running one too with `force`, and run its poststop hooks.

        Raises FailedPreconditionError while it runs.
        """
        status = self.status()
        if status not in ("stopped", "created") and not force:
            raise FailedPreconditionError(f"cannot delete container {self.id} that is not stopped: {status}")
        if status != "stopped":
            self._end()
        manager = self.manager()
        if not manager.remove_if_empty() and manager.exists():
            if manager.pids():
                manager.kill(signal.SIGKILL)
            manager.destroy()
        poststop = self.record if self.facts.poststop else None  # read before the file goes
        if self.facts.holds:
            from orlop.libcontainer import holdings

            holdings.release(self.record)
        self._remove_directory()
        debug(f"{self.id}: removed")
        self.close()
        if poststop is not None:
            self._run_poststop(poststop)

    def _run_poststop(self, record: "Record") -> None:
        from orlop.libcontainer.hooks import run_all_hooks
        from orlop.libcontainer.state import hook_state

        assert record.spec.hooks is not None
        run_all_hooks("poststop", record.spec.hooks.poststop, hook_state(self.oci_state("stopped", 0)))

    def close(self) -> None:
        """Let go of the descriptors that the object keeps; the container is not touched."""
        if self._cgroup is not None:
            self._cgroup.close()
        if self.init_pidfd >= 0:
            os.close(self.init_pidfd)
            self.init_pidfd = -1

    def _end(self) -> None:
        """Kill init and wait until it is gone."""
        if self.manager().frozen():
            self.manager().thaw()
        if not self.facts.init_pid:
            self.manager().kill(signal.SIGKILL)
            return
        try:
            self._kill_init(signal.SIGKILL)
        except NotFoundError:
            return
        poller = select.poll()
        poller.register(self.pidfd(), select.POLLIN)
        if not poller.poll(10_000):
            raise InternalError("container init still running")

    # -- small things -----------------------------------------------------------------------------

    def manager(self) -> "cgroups.Manager":
        """The control groups."""
        if self._cgroup is None:
            from orlop.cgroups import load_manager

            self._cgroup = load_manager(self.facts.cgroup_paths, self.facts.systemd_cgroup)
        return self._cgroup

    def pidfd(self) -> int:
        """A descriptor of init, kept until `close`. Raises NotFoundError when it is gone."""
        if self.init_pidfd < 0:
            try:
                fd = os.pidfd_open(self.facts.init_pid)
            except ProcessLookupError:
                raise NotFoundError("container not running") from None
            start, _ = process_start(self.facts.init_pid)
            if start != self.facts.init_start:
                os.close(fd)
                raise NotFoundError("container not running")
            self.init_pidfd = fd
        return self.init_pidfd

    def _remove_directory(self) -> None:
        try:
            for name in os.listdir(self.directory):
                if name == "criu-root":  # of a restore that a crash has ended
                    from orlop.libcontainer.criu.restore import unmount_root

                    unmount_root(f"{self.directory}/{name}")
                    continue
                if name == NOTIFY_DIRECTORY:
                    _remove_flat(f"{self.directory}/{name}")
                    continue
                os.unlink(f"{self.directory}/{name}")
            os.rmdir(self.directory)
        except FileNotFoundError:
            return


def _remove_flat(path: str) -> None:
    """Remove a directory that holds no other."""
    for name in os.listdir(path):
        os.unlink(f"{path}/{name}")
    os.rmdir(path)
