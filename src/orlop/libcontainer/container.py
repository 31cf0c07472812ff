# SPDX-License-Identifier: Apache-2.0
"""A container as its runtime sees it: create, start, exec, signal, pause, update, delete."""

import _socket
import builtins
import os
import select
import signal
from collections.abc import Callable

import msgspec

from orlop import cgroups
from orlop.errdefs import (
    AlreadyExistsError,
    FailedPreconditionError,
    InternalError,
    NotFoundError,
    OrlopError,
    PermissionDeniedError,
)
from orlop.libcontainer import holdings, parent, prepare
from orlop.libcontainer.creation import launch
from orlop.libcontainer.entering import enter
from orlop.libcontainer.errors import explain
from orlop.libcontainer.hooks import run_hooks
from orlop.libcontainer.journal import warn
from orlop.libcontainer.options import (
    CheckpointOptions,
    CreateOptions,
    ExecOptions,
    ExecResult,
    RestoreOptions,
)
from orlop.libcontainer.rootless import lacks_control_groups, unprivileged, validate_rootless
from orlop.libcontainer.state import (
    START_SOCKET,
    Record,
    State,
    hook_state,
    process_start,
    read_record,
    seccomp_state,
    timestamp,
    write_record,
)
from orlop.libcontainer.sync import Conversation, at_once
from orlop.libcontainer.validate import validate_id, validate_process, validate_spec
from orlop.oci.runtime import Process, Resources, Spec
from orlop.unix import process as proc


class Container:
    """One container; make it with `create`, `load` or `list`.

    Every method acts on the kernel and on `<root>/<id>/`; the object holds nothing that another process could not
    read from there, but `init_pidfd` and, after `create` with a terminal, `console`.
    """

    def __init__(self, root: str, record: Record) -> None:
        self.id = record.id
        self.root = root
        self.directory = f"{root}/{record.id}"
        self.record = record
        self.console: int | None = None
        self.init_pidfd = -1
        self._cgroup: cgroups.Manager | None = None

    # -- finding ----------------------------------------------------------------------------------

    @classmethod
    def load(cls, root: str, container_id: str) -> "Container":
        """The container of that id. Raises NotFoundError, InvalidArgumentError."""
        validate_id(container_id)
        return cls(root, read_record(f"{root}/{container_id}"))

    @classmethod
    def list(cls, root: str) -> "builtins.list[Container]":
        """All containers below `root`, by id."""
        try:
            names = sorted(os.listdir(root))
        except FileNotFoundError:
            return []
        found: builtins.list[Container] = []
        for name in names:
            try:
                found.append(cls.load(root, name))
            except OrlopError:
                # Something else in the directory, or a container that is gone meanwhile.
                continue
        return found

    # -- creating ---------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        root: str,
        container_id: str,
        bundle: str,
        spec: Spec,
        options: CreateOptions,
        launcher: "Callable[[Container, CreateOptions], None] | None" = None,
    ) -> "Container":
        """Make a container whose init, a child of the caller, waits for `start`.

        The caller has one thread only. Raises AlreadyExistsError, InvalidArgumentError and what else keeps the
        process from being set up, with nothing left behind; the text goes after `runc create failed: `.
        """
        validate_id(container_id)
        validate_spec(spec, bundle)
        assert spec.linux is not None and spec.process is not None
        rootless = lacks_control_groups() if options.rootless is None else options.rootless
        if unprivileged():
            validate_rootless(spec)
        cgroup = _control_groups(spec.linux.cgroups_path, container_id, options, rootless=rootless)
        record = Record(
            id=container_id,
            bundle=bundle,
            spec=spec,
            created=timestamp(),
            cgroup_paths=cgroup.paths(),
            systemd_cgroup=options.systemd_cgroup,
            keyring="" if options.no_new_keyring else f"_ses.{container_id}",
            owner=os.geteuid(),
        )
        container = cls(root, record)
        container._cgroup = cgroup
        try:
            os.makedirs(root, mode=0o700, exist_ok=True)
            os.mkdir(container.directory, 0o711)
        except FileExistsError:
            raise AlreadyExistsError("container with given ID already exists") from None
        except PermissionError as error:
            raise PermissionDeniedError(f"cannot keep the container's state: {explain(error)}") from None
        made_cgroup = False
        try:
            # Written before anything is made, so that what a crash leaves behind can be deleted.
            write_record(container.directory, record)
            cgroup.create()
            made_cgroup = True
            if rootless:
                cgroups.apply_rootless(cgroup, prepare.effective_resources(spec.linux))
            else:
                cgroup.apply(prepare.effective_resources(spec.linux))
            holdings.acquire(container.directory, record)
            (launcher or launch)(container, options)
            cgroup.settle()
        except BaseException as error:
            container._discard(made_cgroup)
            if isinstance(error, OSError):
                raise InternalError(f"unable to start container process: {explain(error)}") from error
            if isinstance(error, OrlopError):
                raise type(error)(f"unable to start container process: {error}") from error
            raise
        return container

    @classmethod
    def restore(
        cls,
        root: str,
        container_id: str,
        bundle: str,
        spec: Spec,
        options: CreateOptions,
        images: RestoreOptions,
    ) -> "Container":
        """Make a container that goes on where its checkpoint left off, its init a child of the caller.

        Raises what create does, and FailedPreconditionError where there is no criu(8).
        """
        from orlop.libcontainer.criu.restore import restore

        def launcher(container: "Container", options: CreateOptions) -> None:
            restore(container, options, images)

        return cls.create(root, container_id, bundle, spec, options, launcher)

    def checkpoint(self, options: CheckpointOptions) -> None:
        """Write the container to a directory of images; it has ended then, unless that leaves it running.

        Raises FailedPreconditionError (not running, no criu(8)), InvalidArgumentError, InternalError.
        """
        status = self.status()
        if status not in ("running", "paused"):
            raise FailedPreconditionError(f"container cannot be checkpointed in {status} state")
        from orlop.libcontainer.criu.dump import dump

        dump(self, options)

    def _discard(self, made_cgroup: bool) -> None:
        """Take back what a failed create has made; a control group that was in use is somebody else's."""
        if self.console is not None:
            os.close(self.console)
            self.console = None
        if made_cgroup:
            try:
                self.manager().destroy()
            except (OSError, OrlopError) as error:
                warn(f"control groups of {self.id} remain: {explain(error)}")
        holdings.release(self.record)
        self._remove_directory()

    # -- starting ---------------------------------------------------------------------------------

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
        sock = self._connect()
        try:
            sock.send(b"start")
            os.unlink(f"{self.directory}/{START_SOCKET}")
            answer = sock.recv(1 << 17)
        except (BrokenPipeError, ConnectionResetError):
            raise FailedPreconditionError("cannot start a container that has stopped") from None
        finally:
            sock.close()
        if answer:
            raise parent.exec_error(answer, self._executable())
        hooks = self.record.spec.hooks
        if hooks is not None and hooks.poststart:
            try:
                run_hooks("poststart", hooks.poststart, hook_state(self.oci_state("running", self.init_pid)))
            except OrlopError:
                self._kill_init(signal.SIGKILL)
                raise

    def _connect(self) -> _socket.socket:
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        directory = os.open(self.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sock.connect(f"/proc/self/fd/{directory}/{START_SOCKET}")
        except (ConnectionRefusedError, FileNotFoundError):
            sock.close()
            raise FailedPreconditionError("cannot start a container that has stopped") from None
        finally:
            os.close(directory)
        return sock

    # -- further processes ------------------------------------------------------------------------

    def exec(self, process: Process, options: ExecOptions) -> ExecResult:
        """Run another process in the container: a child of the caller, which has one thread only.

        Returns when the program runs. Raises FailedPreconditionError when the container is not running, and what
        keeps the program from running; the text goes after `exec failed: `.
        """
        return at_once(self.exec_in_steps(process, options))

    def exec_in_steps(self, process: Process, options: ExecOptions) -> Conversation[ExecResult]:
        """The same as a generator, for callers with a loop: it yields a descriptor wherever it has to wait, to be
        resumed when that can be read. Closing it early ends the process.
        """
        status = self.status()
        if status == "stopped":
            raise FailedPreconditionError("cannot exec in a stopped container")
        if status == "paused" and not options.ignore_paused:
            raise FailedPreconditionError("cannot exec in a paused container")
        try:
            validate_process(process)
            return (yield from enter(self, process, options))
        except OSError as error:
            raise InternalError(f"unable to start container process: {explain(error)}") from error
        except OrlopError as error:
            raise type(error)(f"unable to start container process: {error}") from error

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

    def pids(self) -> builtins.list[int]:
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
            for hook in hooks.poststop:
                try:
                    run_hooks("poststop", [hook], hook_state(self.oci_state("stopped", 0)))
                except OrlopError as error:
                    warn(str(error))

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
                os.unlink(f"{self.directory}/{name}")
            os.rmdir(self.directory)
        except FileNotFoundError:
            return


def _control_groups(path: str, container_id: str, options: CreateOptions, *, rootless: bool) -> cgroups.Manager:
    """The groups that the spec names, or our choice; as many as a user may make where that is all there is."""
    if rootless and not path and not options.systemd_cgroup:
        return cgroups.load_manager(cgroups.permitted(cgroups.rootless_paths(container_id)))
    default = f":orlop:{container_id}" if options.systemd_cgroup else f"/orlop/{container_id}"
    return cgroups.new_manager(path or default, options.systemd_cgroup)


def _merged(old: Resources, new: Resources) -> Resources:
    """`old` with what `new` says, property by property."""
    result = msgspec.to_builtins(old)
    for name, value in msgspec.to_builtins(new).items():
        if isinstance(value, dict):
            result[name] = {**result.get(name, {}), **value}
        else:
            result[name] = value
    return msgspec.convert(result, Resources)
