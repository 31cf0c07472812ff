# SPDX-License-Identifier: Apache-2.0
"""Making a further process in a container, as the caller of Container.exec sees it (`join` is the other side)."""

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from orlop import cgroups
from orlop.errdefs import InvalidArgumentError
from orlop.libcontainer import namespaces, parent, prepare, sync
from orlop.libcontainer.join import JoinPlan, run_join
from orlop.libcontainer.journal import debug
from orlop.libcontainer.options import ExecOptions, ExecResult
from orlop.libcontainer.rootless import unprivileged
from orlop.oci.runtime import Linux, Process
from orlop.unix import tables

if TYPE_CHECKING:
    from orlop.libcontainer.container import Container


def enter(container: "Container", process: Process, options: ExecOptions) -> sync.Conversation[ExecResult]:
    """Fork a process beside init and attend to it until its program runs.

    Raises what keeps it from getting there; then there is no process, nor if the conversation is closed.
    """
    linux = container.record.spec.linux
    assert linux is not None
    plan = _plan(container, process, options, linux)
    born_in = namespaces.NamespacePlan()
    cgroup = _groups(container, options.cgroup)
    group = cgroup.fd()
    ours, theirs = sync.pair()

    def join_group() -> None:
        if initial := plan.program.scheduling.initial_cpus:
            os.sched_setaffinity(0, initial)
        if group is None:
            cgroup.join()

    def child() -> None:
        run_join(plan, theirs, join_group)

    try:
        if plan.in_user_namespace:
            born_in.user = os.open(f"/proc/{container.init_pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        if any(namespace.type == "pid" for namespace in linux.namespaces):
            born_in.pid = os.open(f"/proc/{container.init_pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        if all(namespace.type != "mount" for namespace in linux.namespaces):
            plan.root = os.open(f"/proc/{container.init_pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        prepare.open_program(plan.program, linux)
        pid, pidfd = _spawn(container, born_in, group, child)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        born_in.close()
        prepare.close_program(plan.program)
        if plan.root >= 0:
            os.close(plan.root)
        if options.cgroup:
            cgroup.close()
    debug(f"{container.id}: the new process is {pid}")
    try:
        console = yield from _attend(container, ours, pid, pidfd, plan, options)
        return ExecResult(pid, console)
    except BaseException:
        parent.reap(pid, pidfd)
        raise
    finally:
        ours.close()
        os.close(pidfd)


def _plan(container: "Container", process: Process, options: ExecOptions, linux: Linux) -> JoinPlan:
    apart = {"pid", "user"} if unprivileged() else {"pid"}
    program = prepare.prepare_program(process, options.stdio, options.preserve_fds, linux, is_exec=True)
    told = options.pid_file is not None or options.pidfd_socket is not None or options.console_socket is not None
    return JoinPlan(
        program=program,
        holds=told or not program.set_rlimits,
        init_pidfd=container.pidfd(),
        namespaces=sum(namespaces.FLAGS[entry.type] for entry in linux.namespaces if entry.type not in apart),
        in_user_namespace=unprivileged(),
        keyring=container.record.keyring,
        personality=prepare.personality_of(linux.personality),
    )


def _attend(
    container: "Container", channel: sync.Channel, pid: int, pidfd: int, plan: JoinPlan, options: ExecOptions
) -> sync.Conversation[int | None]:
    """Do the parent's part until the program runs; returns the terminal's master if the caller keeps it."""
    process = plan.program.process
    parent.set_oom_score(pid, _oom_score(container, process))
    channel.go()
    console = yield from parent.converse(
        channel,
        pid,
        process,
        late_rlimits=not plan.program.set_rlimits,
        hand_on_seccomp=lambda fd: container.hand_on_seccomp(pid, fd),
    )
    try:
        if options.pidfd_socket is not None:
            parent.send_descriptor(options.pidfd_socket, b"setns", pidfd)
        if options.pid_file:
            parent.write_pid_file(options.pid_file, pid)
        if console is not None and options.console_socket is not None:
            parent.send_descriptor(options.console_socket, b"/dev/ptmx", console)
            os.close(console)
            console = None
        if plan.holds:
            channel.go()
        yield from parent.await_exec(channel, process.args[0])
    except BaseException:
        if console is not None:
            os.close(console)
        raise
    return console


def _spawn(
    container: "Container", born_in: namespaces.NamespacePlan, group: int | None, child: Callable[[], None]
) -> tuple[int, int]:
    if group is None:
        return namespaces.spawn(born_in, -1, child)
    try:
        return namespaces.spawn(born_in, group, child)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
    # A container that manages groups below its own (systemd) has none for processes at the top: go where its init
    # has gone.
    path = next(line[3:] for line in tables.rows(f"/proc/{container.init_pid}/cgroup") if line.startswith("0::"))
    fd = os.open(f"/sys/fs/cgroup{path}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return namespaces.spawn(born_in, fd, child)
    finally:
        os.close(fd)


def _oom_score(container: "Container", process: Process) -> int | None:
    """What was asked for, or the container's: not what the caller happens to have."""
    init = container.record.spec.process
    if process.oom_score_adj is None and init is not None:
        return init.oom_score_adj
    return process.oom_score_adj


def _groups(container: "Container", below: str) -> cgroups.Manager:
    if not below:
        return container.manager()
    paths: dict[str, str] = {}
    for controller, path in container.record.cgroup_paths.items():
        inner = os.path.normpath(f"{path}/{below.lstrip('/')}")
        if not (inner + "/").startswith(path + "/"):
            raise InvalidArgumentError(f"cgroup {below} is outside of the container's")
        paths[controller] = inner
    return cgroups.load_manager(paths)
