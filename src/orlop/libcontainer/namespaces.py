# SPDX-License-Identifier: Apache-2.0
"""Which namespaces a container gets, and forking a process into them."""

import os
from collections.abc import Callable

import msgspec

from orlop.errdefs import InvalidArgumentError
from orlop.libcontainer.errors import explain
from orlop.oci.runtime import Namespace, TimeOffset
from orlop.unix import process as proc

FLAGS = {
    "user": proc.CLONE_NEWUSER,
    "pid": proc.CLONE_NEWPID,
    "network": proc.CLONE_NEWNET,
    "mount": proc.CLONE_NEWNS,
    "ipc": proc.CLONE_NEWIPC,
    "uts": proc.CLONE_NEWUTS,
    "cgroup": proc.CLONE_NEWCGROUP,
    "time": proc.CLONE_NEWTIME,
}
# The name of the file in /proc/<pid>/ns.
FILES = {kind: {"network": "net", "mount": "mnt"}.get(kind, kind) for kind in FLAGS}

# These are entered after the fork: the control group has to be joined first, the clock offsets to be written.
_LATE = ("cgroup", "time")


class NamespacePlan(msgspec.Struct):
    """`clone_flags` are made with the fork; `late_flags` after it; `joins` are entered by descriptor."""

    clone_flags: int = 0
    late: list[str] = []
    joins: list[tuple[str, int]] = []  # (type, descriptor of the namespace), user and pid apart
    user: int = -1  # descriptor of a user namespace to join
    pid: int = -1  # descriptor of a PID namespace to join
    new_user: bool = False

    def close(self) -> None:
        """Close the descriptors."""
        for fd in (self.user, self.pid, *(fd for _, fd in self.joins)):
            if fd >= 0:
                os.close(fd)
        self.joins, self.user, self.pid = [], -1, -1

    def descriptors(self) -> list[int]:
        """What the child needs of them."""
        return [fd for _, fd in self.joins]


def plan_namespaces(namespaces: list[Namespace]) -> NamespacePlan:
    """Open the namespaces to join and collect the flags of those to make.

    Raises InvalidArgumentError naming the namespace whose path is none.
    """
    plan = NamespacePlan()
    try:
        for namespace in namespaces:
            if namespace.path:
                fd = _open(namespace)
                if namespace.type == "user":
                    plan.user = fd
                elif namespace.type == "pid":
                    plan.pid = fd
                else:
                    plan.joins = [*plan.joins, (namespace.type, fd)]
            elif namespace.type in _LATE:
                plan.late = [*plan.late, namespace.type]
            else:
                plan.clone_flags |= FLAGS[namespace.type]
        plan.new_user = bool(plan.clone_flags & proc.CLONE_NEWUSER)
    except BaseException:
        plan.close()
        raise
    return plan


def _open(namespace: Namespace) -> int:
    try:
        return os.open(namespace.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidArgumentError(
            f"lstat {explain(error)}: linux.namespaces: cannot join the {namespace.type} namespace"
        ) from error


def spawn(plan: NamespacePlan, cgroup: int, child: Callable[[], None]) -> tuple[int, int]:
    """Fork `child` into the planned namespaces as a direct child of the caller; its pid and pidfd.

    `child` must not return. The child is born non-dumpable, so that nobody in a namespace that it enters can trace
    it or reach its descriptors; an ordinary user's in a new user namespace has to see to that by itself, once its
    ids have been mapped through files in /proc that would belong to root. With `cgroup` (a directory of the
    unified hierarchy) it is born in that group.
    """
    dumpable = proc.prctl(proc.PR_GET_DUMPABLE)
    if not (plan.new_user and os.geteuid()):
        proc.prctl(proc.PR_SET_DUMPABLE, 0)
    try:
        if plan.user >= 0 or (plan.new_user and (plan.joins or plan.pid >= 0)):
            return _spawn_by_way_of_another(plan, cgroup, child)
        if plan.pid < 0:
            return _fork(plan.clone_flags, cgroup, child)
        own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        try:
            # Changes only where children are born, and can be taken back: cheaper than a process in between.
            proc.setns(plan.pid, proc.CLONE_NEWPID)
            try:
                return _fork(plan.clone_flags, cgroup, child)
            finally:
                proc.setns(own, proc.CLONE_NEWPID)
        finally:
            os.close(own)
    finally:
        proc.prctl(proc.PR_SET_DUMPABLE, 1 if dumpable == 1 else 0)


def _fork(flags: int, cgroup: int, child: Callable[[], None]) -> tuple[int, int]:
    pid, pidfd = proc.clone3(flags, cgroup=cgroup)
    if pid == 0:
        _end_after(child)
    return pid, pidfd


def _end_after(child: Callable[[], None]) -> None:
    """Run the child's code; nothing of it, not even an exception, may get back into the caller's."""
    try:
        child()
    finally:
        os._exit(1)


def _spawn_by_way_of_another(plan: NamespacePlan, cgroup: int, child: Callable[[], None]) -> tuple[int, int]:
    """By way of a process that joins what is to be joined with the caller's rights, the user namespace last.

    Inside a user namespace there are no rights over namespaces that belong to the host, and what is made new has
    to belong to the user namespace.
    """
    reader, writer = os.pipe()
    try:
        between, pidfd = proc.clone3(cgroup=cgroup)
        if between == 0:
            try:
                _join_all(plan)
                pid, _ = proc.clone3(plan.clone_flags | proc.CLONE_PARENT, exit_signal=0)
                if pid == 0:
                    _end_after(child)
                os.write(writer, str(pid).encode())
            except (OSError, InvalidArgumentError) as error:
                os.write(writer, explain(error).encode())
            finally:
                os._exit(0)
        os.close(pidfd)
        os.close(writer)
        writer = -1
        answer = os.read(reader, 4096).decode()
        os.waitpid(between, 0)
        if not answer.isdigit():
            raise InvalidArgumentError(answer or "linux.namespaces: the process that joins them died")
        return int(answer), proc.pidfd_open(int(answer))
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)


def _join_all(plan: NamespacePlan) -> None:
    """The user namespace last, since there are no rights left over the host's from there; for an ordinary user
    first, since it is where the rights come from.
    """
    user_first = os.geteuid() != 0
    if plan.user >= 0 and user_first:
        proc.setns(plan.user, proc.CLONE_NEWUSER)
    _join(plan)
    if plan.pid >= 0:
        proc.setns(plan.pid, proc.CLONE_NEWPID)
    if plan.user >= 0 and not user_first:
        proc.setns(plan.user, proc.CLONE_NEWUSER)


def enter(plan: NamespacePlan, time_offsets: dict[str, TimeOffset]) -> None:
    """In the child: join the namespaces with a path and make the late ones."""
    if plan.user >= 0 or plan.new_user:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    _join(plan)
    if "cgroup" in plan.late:
        proc.unshare(proc.CLONE_NEWCGROUP)
    if "time" in plan.late:
        _enter_new_time(time_offsets)


def _join(plan: NamespacePlan) -> None:
    for kind, fd in plan.joins:
        try:
            proc.setns(fd, FLAGS[kind])
        except OSError as error:
            raise InvalidArgumentError(
                f"linux.namespaces: cannot join the {kind} namespace: {explain(error)}"
            ) from error
        os.close(fd)
    plan.joins = []


def _enter_new_time(offsets: dict[str, TimeOffset]) -> None:
    proc.unshare(proc.CLONE_NEWTIME)
    if offsets:
        lines = "".join(f"{clock} {offset.secs} {offset.nanosecs}\n" for clock, offset in offsets.items())
        with open("/proc/self/timens_offsets", "wb", buffering=0) as file:
            file.write(lines.encode())
    fd = os.open("/proc/self/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC)
    proc.setns(fd, proc.CLONE_NEWTIME)
    os.close(fd)
