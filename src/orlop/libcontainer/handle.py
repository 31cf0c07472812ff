# SPDX-License-Identifier: Apache-2.0
"""What can be done with a container that exists: ask for its state, signal it, change its limits, delete it."""

import os
import select
import signal

import msgspec

from orlop import cgroups
from orlop.errdefs import FailedPreconditionError, InternalError, NotFoundError
from orlop.libcontainer import holdings, parent
from orlop.libcontainer.hooks import run_all_hooks
from orlop.libcontainer.state import (
    NOTIFY_DIRECTORY,
    START_SOCKET,
    Record,
    State,
    hook_state,
    process_start,
    seccomp_state,
    write_record,
)
from orlop.oci.runtime import Resources
from orlop.unix import process as proc


class Handle:
    """A container by its record; `Container` adds what makes containers and processes."""

    def __init__(self, root: str, record: Record) -> None:
        self.id = record.id
        self.root = root
        self.directory = f"{root}/{record.id}"
        self.record = record
        self.console: int | None = None
        self.init_pidfd = -1
        self._cgroup: cgroups.Manager | None = None

    # -- state ------------------------------------------------------------------------------------

    @property
    def init_pid(self) -> int:
        """The init process as seen from here; 0 before there is one."""
        return self.record.init_pid

    def status(self) -> str:
        """creating, created, running, paused or stopped, from the kernel."""
        if not self.record.init_pid:
            return "creating" if self.manager().exists() and self.manager().pids() else "stopped"
        start, letter = process_start(self.record.init_pid)
        if start != self.record.init_start or letter in ("Z", "X", ""):
            return "stopped"
        if os.path.exists(f"{self.directory}/{START_SOCKET}"):
            return "created"
        return "paused" if self.manager().frozen() else "running"

    def state(self) -> State:
        """The OCI state and what `runc list` shows besides."""
        status = self.status()
        return self.oci_state(status, 0 if status == "stopped" else self.init_pid)

    def oci_state(self, status: str, pid: int) -> State:
        """The OCI state with a status and process that the caller knows."""
        spec = self.record.spec
        assert spec.root is not None
        return State(
            oci_version=spec.oci_version,
            id=self.id,
            pid=pid,
            status=status,
            bundle=self.record.bundle,
            rootfs=os.path.join(self.record.bundle, spec.root.path),
            created=self.record.created,
            annotations=spec.annotations,
            owner=str(self.record.owner),
        )

    def pids(self) -> list[int]:
        """Every process of the container, as seen from here."""
        return self.manager().pids()

    def stats(self) -> cgroups.Stats:
        """What the control groups have counted."""
        return self.manager().stats()

    # -- control ----------------------------------------------------------------------------------

    def signal(self, number: int, all: bool = False) -> None:
        """Send init a signal, or every process with `all`. Raises NotFoundError when it is not running."""
        if all and self.manager().paths():
            self.manager().kill(number)
            return
        if self.status() == "stopped":
            raise NotFoundError("container not running")
        self._kill_init(number)

    def _kill_init(self, number: int) -> None:
        if number == signal.SIGKILL and not self._owns_pid_namespace() and self.manager().paths():
            # Without a PID namespace of its own nothing ends the others with init.
            self.manager().kill(number)
            return
        try:
            proc.pidfd_send_signal(self.pidfd(), number)
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

    def update(self, resources: Resources, l3_cache_schema: str = "", mem_bw_schema: str = "") -> None:
        """Change limits; what is left out stays. Raises FailedPreconditionError when stopped.

        The two schemata are for a container with linux.intelRdt.
        """
        if self.status() == "stopped":
            raise FailedPreconditionError("container not running")
        if l3_cache_schema or mem_bw_schema:
            resource_class = holdings.resource_class(self.record)
            if resource_class is None:
                raise FailedPreconditionError("the container has no linux.intelRdt to be changed")
            resource_class.update(l3_cache_schema, mem_bw_schema)
        self.manager().apply(resources)
        linux = self.record.spec.linux
        assert linux is not None
        linux.resources = _merged(linux.resources or Resources(), resources)
        write_record(self.directory, self.record)

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
        if manager.exists():
            if manager.pids():
                manager.kill(signal.SIGKILL)
            manager.destroy()
        holdings.release(self.record)
        self._remove_directory()
        self.close()
        hooks = self.record.spec.hooks
        if hooks is not None:
            run_all_hooks("poststop", hooks.poststop, hook_state(self.oci_state("stopped", 0)))

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
        if not self.record.init_pid:
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

    def manager(self) -> cgroups.Manager:
        """The control groups."""
        if self._cgroup is None:
            self._cgroup = cgroups.load_manager(self.record.cgroup_paths, self.record.systemd_cgroup)
        return self._cgroup

    def pidfd(self) -> int:
        """A descriptor of init, kept until `close`. Raises NotFoundError when it is gone."""
        if self.init_pidfd < 0:
            try:
                fd = proc.pidfd_open(self.record.init_pid)
            except ProcessLookupError:
                raise NotFoundError("container not running") from None
            start, _ = process_start(self.record.init_pid)
            if start != self.record.init_start:
                os.close(fd)
                raise NotFoundError("container not running")
            self.init_pidfd = fd
        return self.init_pidfd

    def _executable(self) -> str:
        process = self.record.spec.process
        assert process is not None
        return process.args[0]

    def hand_on_seccomp(self, pid: int, listener: int) -> None:
        """Give the seccomp listener to the agent of the spec, with the state of the process it is for."""
        linux = self.record.spec.linux
        assert linux is not None and linux.seccomp is not None
        status = "running" if self.record.init_pid else "creating"
        state = seccomp_state(pid, linux.seccomp.listener_metadata, self.oci_state(status, self.init_pid or pid))
        parent.send_descriptor(linux.seccomp.listener_path, state, listener)

    def _owns_pid_namespace(self) -> bool:
        linux = self.record.spec.linux
        assert linux is not None
        return any(namespace.type == "pid" and not namespace.path for namespace in linux.namespaces)

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


def _merged(old: Resources, new: Resources) -> Resources:
    """`old` with what `new` says, property by property."""
    result = msgspec.to_builtins(old)
    for name, value in msgspec.to_builtins(new).items():
        if isinstance(value, dict):
            result[name] = {**result.get(name, {}), **value}
        else:
            result[name] = value
    return msgspec.convert(result, Resources)
