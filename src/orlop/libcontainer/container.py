# SPDX-License-Identifier: Apache-2.0
"""A container as its runtime sees it: create, start, exec, signal, pause, update, delete."""

import _socket
import builtins
import errno
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
    InvalidArgumentError,
    NotFoundError,
    OrlopError,
)
from orlop.libcontainer import namespaces, parent, prepare, sync
from orlop.libcontainer.errors import explain
from orlop.libcontainer.hooks import run_hooks
from orlop.libcontainer.init import InitPlan, run_init
from orlop.libcontainer.join import JoinPlan, run_join
from orlop.libcontainer.journal import warn
from orlop.libcontainer.options import CreateOptions, ExecOptions, ExecResult
from orlop.libcontainer.rootfs.plan import plan_rootfs
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
from orlop.libcontainer.validate import validate_id, validate_process, validate_spec
from orlop.oci.runtime import Hooks, Process, Resources, Spec
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
    def create(cls, root: str, container_id: str, bundle: str, spec: Spec, options: CreateOptions) -> "Container":
        """Make a container whose init, a child of the caller, waits for `start`.

        The caller has one thread only. Raises AlreadyExistsError, InvalidArgumentError and what else keeps the
        process from being set up, with nothing left behind; the text goes after `runc create failed: `.
        """
        validate_id(container_id)
        validate_spec(spec, bundle)
        assert spec.linux is not None and spec.process is not None
        cgroup = cgroups.new_manager(spec.linux.cgroups_path or f"/orlop/{container_id}", options.systemd_cgroup)
        record = Record(
            id=container_id,
            bundle=bundle,
            spec=spec,
            created=timestamp(),
            cgroup_paths=cgroup.paths(),
            keyring="" if options.no_new_keyring else f"_ses.{container_id}",
            owner=os.geteuid(),
        )
        container = cls(root, record)
        container._cgroup = cgroup
        os.makedirs(root, mode=0o700, exist_ok=True)
        try:
            os.mkdir(container.directory, 0o711)
        except FileExistsError:
            raise AlreadyExistsError("container with given ID already exists") from None
        made_cgroup = False
        try:
            # Written before anything is made, so that what a crash leaves behind can be deleted.
            write_record(container.directory, record)
            cgroup.create()
            made_cgroup = True
            cgroup.apply(prepare.effective_resources(spec.linux))
            container._launch(options)
        except BaseException as error:
            container._discard(made_cgroup)
            if isinstance(error, OSError):
                raise InternalError(f"unable to start container process: {explain(error)}") from error
            if isinstance(error, OrlopError):
                raise type(error)(f"unable to start container process: {error}") from error
            raise
        return container

    def _launch(self, options: CreateOptions) -> None:
        plan = self._plan(options)
        spec = self.record.spec
        linux = spec.linux
        assert linux is not None and spec.process is not None
        cgroup = self._manager()
        ours, theirs = sync.pair()
        joins_cgroup = cgroup.fd() is None

        def child() -> None:
            if joins_cgroup:
                cgroup.join()
            run_init(plan, theirs)

        try:
            in_user_namespace = plan.namespaces.new_user or plan.namespaces.user >= 0
            prepare.open_sources(plan.rootfs, linux, all_binds=in_user_namespace)
            fd = cgroup.fd()
            pid, pidfd = namespaces.spawn(plan.namespaces, -1 if fd is None else fd, child)
        finally:
            theirs.close()
            plan.listener.close()
            prepare.close_sources(plan.rootfs)
            prepare.close_program(plan.program)
            plan.namespaces.close()
        try:
            self._attend(ours, pid, pidfd, plan, options)
        except BaseException:
            parent.reap(pid, pidfd)
            os.close(pidfd)
            self.init_pidfd = -1
            raise
        finally:
            ours.close()

    def _plan(self, options: CreateOptions) -> InitPlan:
        spec = self.record.spec
        linux, process = spec.linux, spec.process
        assert linux is not None and process is not None
        kinds = {namespace.type: namespace for namespace in linux.namespaces}
        rootfs = plan_rootfs(spec, self.record.bundle, self.record.cgroup_paths, no_pivot=options.no_pivot)
        program = prepare.prepare_program(process, options.stdio, options.preserve_fds, linux, is_exec=False)
        personality = prepare.personality_of(linux.personality)
        planned = namespaces.plan_namespaces(linux.namespaces)
        network = kinds.get("network")
        return InitPlan(
            program=program,
            rootfs=rootfs,
            namespaces=planned,
            listener=self._listen(),
            state=self._state("creating", 0),
            keyring=self.record.keyring,
            loopback=network is not None and not network.path,
            hostname=spec.hostname,
            domainname=spec.domainname,
            sysctl=linux.sysctl,
            time_offsets=linux.time_offsets,
            personality=personality,
            hooks=spec.hooks or Hooks(),
        )

    def _listen(self) -> _socket.socket:
        """The socket that init accepts its starter on."""
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        directory = os.open(self.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # A socket's path is limited to 107 bytes; the directory's is not.
            sock.bind(f"/proc/self/fd/{directory}/{START_SOCKET}")
        finally:
            os.close(directory)
        sock.listen(4)
        return sock

    def _attend(self, channel: sync.Channel, pid: int, pidfd: int, plan: InitPlan, options: CreateOptions) -> None:
        """Do the parent's part until init waits for its start, then write down that it does."""
        spec = self.record.spec
        assert spec.linux is not None and spec.process is not None
        if plan.namespaces.new_user:
            parent.write_id_maps(pid, spec.linux.uid_mappings, spec.linux.gid_mappings)
        parent.set_oom_score(pid, spec.process.oom_score_adj)
        channel.send(sync.GO)

        def hooks() -> None:
            state = hook_state(self._state("creating", pid))
            run_hooks("prestart", plan.hooks.prestart, state)
            run_hooks("createRuntime", plan.hooks.create_runtime, state)

        console = parent.converse(
            channel,
            pid,
            spec.process,
            run_hooks=hooks,
            late_rlimits=not plan.program.set_rlimits,
            hand_on_seccomp=lambda fd: self._hand_on_seccomp(pid, fd),
        )
        if console is not None:
            self.console = console
            if options.console_socket is not None:
                parent.send_descriptor(options.console_socket, b"/dev/ptmx", console)
                os.close(console)
                self.console = None
        if options.pidfd_socket is not None:
            parent.send_descriptor(options.pidfd_socket, b"standard", pidfd)
        self.record.init_pid = pid
        self.record.init_start, _ = process_start(pid)
        self.init_pidfd = pidfd
        write_record(self.directory, self.record)
        if options.pid_file:
            parent.write_pid_file(options.pid_file, pid)

    def _hand_on_seccomp(self, pid: int, listener: int) -> None:
        """Give the seccomp listener to the agent of the spec, with the state of the process it is for."""
        linux = self.record.spec.linux
        assert linux is not None and linux.seccomp is not None
        status = "running" if self.record.init_pid else "creating"
        state = seccomp_state(pid, linux.seccomp.listener_metadata, self._state(status, self.init_pid or pid))
        parent.send_descriptor(linux.seccomp.listener_path, state, listener)

    def _discard(self, made_cgroup: bool) -> None:
        """Take back what a failed create has made; a control group that was in use is somebody else's."""
        if self.console is not None:
            os.close(self.console)
            self.console = None
        if made_cgroup:
            try:
                self._manager().destroy()
            except (OSError, OrlopError) as error:
                warn(f"control groups of {self.id} remain: {explain(error)}")
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
                run_hooks("poststart", hooks.poststart, hook_state(self._state("running", self.init_pid)))
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
        status = self.status()
        if status == "stopped":
            raise FailedPreconditionError("cannot exec in a stopped container")
        if status == "paused" and not options.ignore_paused:
            raise FailedPreconditionError("cannot exec in a paused container")
        try:
            validate_process(process)
            return self._exec(process, options)
        except OSError as error:
            raise InternalError(f"unable to start container process: {explain(error)}") from error
        except OrlopError as error:
            raise type(error)(f"unable to start container process: {error}") from error

    def _exec(self, process: Process, options: ExecOptions) -> ExecResult:
        linux = self.record.spec.linux
        assert linux is not None
        kinds = {namespace.type for namespace in linux.namespaces}
        plan = JoinPlan(
            program=prepare.prepare_program(
                process,
                None if process.terminal else options.stdio,
                options.preserve_fds,
                linux,
                is_exec=True,
            ),
            init_pidfd=self._pidfd(),
            namespaces=sum(namespaces.FLAGS[kind] for kind in kinds if kind != "pid"),
            keyring=self.record.keyring,
            personality=prepare.personality_of(linux.personality),
        )
        born_in = namespaces.NamespacePlan()
        if "pid" in kinds:
            born_in.pid = os.open(f"/proc/{self.init_pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        cgroup = self._exec_manager(options.cgroup)
        ours, theirs = sync.pair()
        fd = cgroup.fd()

        def child() -> None:
            if initial := plan.program.scheduling.initial_cpus:
                os.sched_setaffinity(0, initial)
            if fd is None:
                cgroup.join()
            run_join(plan, theirs)

        try:
            pid, pidfd = self._spawn_beside_init(born_in, fd, child)
        finally:
            theirs.close()
            born_in.close()
            prepare.close_program(plan.program)
        console: int | None = None
        try:
            parent.set_oom_score(pid, self._oom_score(process))
            ours.send(sync.GO)
            console = parent.converse(
                ours,
                pid,
                process,
                late_rlimits=not plan.program.set_rlimits,
                hand_on_seccomp=lambda fd: self._hand_on_seccomp(pid, fd),
            )
            if options.pidfd_socket is not None:
                parent.send_descriptor(options.pidfd_socket, b"setns", pidfd)
            if options.pid_file:
                parent.write_pid_file(options.pid_file, pid)
            if console is not None and options.console_socket is not None:
                parent.send_descriptor(options.console_socket, b"/dev/ptmx", console)
                os.close(console)
                console = None
            ours.send(sync.GO)
            parent.await_exec(ours, process.args[0])
        except BaseException:
            if console is not None:
                os.close(console)
            parent.reap(pid, pidfd)
            raise
        finally:
            ours.close()
            os.close(pidfd)
        return ExecResult(pid, console)

    def _spawn_beside_init(
        self, born_in: namespaces.NamespacePlan, cgroup: int | None, child: Callable[[], None]
    ) -> tuple[int, int]:
        if cgroup is None:
            return namespaces.spawn(born_in, -1, child)
        try:
            return namespaces.spawn(born_in, cgroup, child)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
        # A container that manages groups below its own (systemd) has none for processes at the top: go where its
        # init has gone.
        with open(f"/proc/{self.init_pid}/cgroup", encoding="utf-8") as file:
            path = next(line.rstrip("\n")[3:] for line in file if line.startswith("0::"))
        fd = os.open(f"/sys/fs/cgroup{path}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return namespaces.spawn(born_in, fd, child)
        finally:
            os.close(fd)

    def _oom_score(self, process: Process) -> int | None:
        """What was asked for, or the container's: not what the caller happens to have."""
        init = self.record.spec.process
        if process.oom_score_adj is None and init is not None:
            return init.oom_score_adj
        return process.oom_score_adj

    def _exec_manager(self, below: str) -> cgroups.Manager:
        if not below:
            return self._manager()
        paths: dict[str, str] = {}
        for controller, path in self.record.cgroup_paths.items():
            inner = os.path.normpath(f"{path}/{below.lstrip('/')}")
            if not (inner + "/").startswith(path + "/"):
                raise InvalidArgumentError(f"cgroup {below} is outside of the container's")
            paths[controller] = inner
        return cgroups.load_manager(paths)

    # -- state ------------------------------------------------------------------------------------

    @property
    def init_pid(self) -> int:
        """The init process as seen from here; 0 before there is one."""
        return self.record.init_pid

    def status(self) -> str:
        """creating, created, running, paused or stopped, from the kernel."""
        if not self.record.init_pid:
            return "creating" if self._manager().exists() and self._manager().pids() else "stopped"
        start, letter = process_start(self.record.init_pid)
        if start != self.record.init_start or letter in ("Z", "X", ""):
            return "stopped"
        if os.path.exists(f"{self.directory}/{START_SOCKET}"):
            return "created"
        return "paused" if self._manager().frozen() else "running"

    def state(self) -> State:
        """The OCI state and what `runc list` shows besides."""
        status = self.status()
        return self._state(status, 0 if status == "stopped" else self.init_pid)

    def _state(self, status: str, pid: int) -> State:
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
        return self._manager().pids()

    def stats(self) -> cgroups.Stats:
        """What the control groups have counted."""
        return self._manager().stats()

    # -- control ----------------------------------------------------------------------------------

    def signal(self, number: int, all: bool = False) -> None:
        """Send init a signal, or every process with `all`. Raises NotFoundError when it is not running."""
        if all:
            self._manager().kill(number)
            return
        if self.status() == "stopped":
            raise NotFoundError("container not running")
        self._kill_init(number)

    def _kill_init(self, number: int) -> None:
        if number == signal.SIGKILL and not self._owns_pid_namespace():
            # Without a PID namespace of its own nothing ends the others with init.
            self._manager().kill(number)
            return
        try:
            proc.pidfd_send_signal(self._pidfd(), number)
        except ProcessLookupError:
            raise NotFoundError("container not running") from None
        if number == signal.SIGKILL and self._manager().frozen():
            self._manager().thaw()

    def pause(self) -> None:
        """Freeze every process. Raises FailedPreconditionError unless created or running."""
        status = self.status()
        if status not in ("created", "running"):
            raise FailedPreconditionError(f"container not running or created: {status}")
        self._manager().freeze()

    def resume(self) -> None:
        """Thaw a paused container. Raises FailedPreconditionError."""
        if not self._manager().frozen():
            raise FailedPreconditionError("container not paused")
        self._manager().thaw()

    def update(self, resources: Resources) -> None:
        """Change limits; what `resources` leaves out stays. Raises FailedPreconditionError when stopped."""
        if self.status() == "stopped":
            raise FailedPreconditionError("container not running")
        self._manager().apply(resources)
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
        manager = self._manager()
        if manager.exists():
            if manager.pids():
                manager.kill(signal.SIGKILL)
            manager.destroy()
        self._remove_directory()
        self.close()
        hooks = self.record.spec.hooks
        if hooks is not None:
            for hook in hooks.poststop:
                try:
                    run_hooks("poststop", [hook], hook_state(self._state("stopped", 0)))
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
        if self._manager().frozen():
            self._manager().thaw()
        if not self.record.init_pid:
            self._manager().kill(signal.SIGKILL)
            return
        try:
            self._kill_init(signal.SIGKILL)
        except NotFoundError:
            return
        poller = select.poll()
        poller.register(self._pidfd(), select.POLLIN)
        if not poller.poll(10_000):
            raise InternalError("container init still running")

    # -- small things -----------------------------------------------------------------------------

    def _manager(self) -> cgroups.Manager:
        if self._cgroup is None:
            self._cgroup = cgroups.load_manager(self.record.cgroup_paths)
        return self._cgroup

    def _pidfd(self) -> int:
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

    def _owns_pid_namespace(self) -> bool:
        linux = self.record.spec.linux
        assert linux is not None
        return any(namespace.type == "pid" and not namespace.path for namespace in linux.namespaces)

    def _remove_directory(self) -> None:
        try:
            for name in os.listdir(self.directory):
                os.unlink(f"{self.directory}/{name}")
            os.rmdir(self.directory)
        except FileNotFoundError:
            return


def _merged(old: Resources, new: Resources) -> Resources:
    """`old` with what `new` says, property by property."""
    result = msgspec.to_builtins(old)
    for name, value in msgspec.to_builtins(new).items():
        if isinstance(value, dict):
            result[name] = {**result.get(name, {}), **value}
        else:
            result[name] = value
    return msgspec.convert(result, Resources)
