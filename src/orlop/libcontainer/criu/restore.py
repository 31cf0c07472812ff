# SPDX-License-Identifier: Apache-2.0
"""Restore: having CRIU bring a container back from its images, as a child of the caller."""

import os
from typing import TYPE_CHECKING

from orlop import codec
from orlop.errdefs import FailedPreconditionError, InternalError, InvalidArgumentError, OrlopError
from orlop.libcontainer import parent
from orlop.libcontainer.creation import run_creation_hooks
from orlop.libcontainer.criu import wire
from orlop.libcontainer.criu.dump import DESCRIPTORS, common_options, open_directories
from orlop.libcontainer.criu.mounts import external_mounts, external_namespaces, make_mount_points
from orlop.libcontainer.criu.session import Session, quoting
from orlop.libcontainer.errors import explain
from orlop.libcontainer.facts import process_start
from orlop.libcontainer.journal import warn
from orlop.libcontainer.options import CreateOptions, RestoreOptions
from orlop.libcontainer.rootfs.plan import RootfsPlan, plan_rootfs
from orlop.oci.runtime import Linux, Namespace
from orlop.unix import mount as mnt
from orlop.unix import process as proc
from orlop.unix import tables

if TYPE_CHECKING:
    from orlop.libcontainer.container import Container

ROOT = "criu-root"  # below the state directory; a mount while a restore is under way
_LOG = "restore.log"


def restore(container: "Container", create: CreateOptions, options: RestoreOptions) -> None:
    """Bring the container back. Raises FailedPreconditionError (no criu or images), InternalError quoting the log.

    On an error nothing of it runs.
    """
    spec, record = container.record.spec, container.record
    assert spec.linux is not None
    plan = plan_rootfs(spec, record.bundle, record.cgroup_paths)
    externals = external_mounts(spec, plan)
    images, work = open_directories(options)
    inherited = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for _, path, _ in external_namespaces(spec.linux)]
    root = f"{os.path.realpath(container.directory)}/{ROOT}"
    session = None
    attendant = _Attendant(container, create)
    mounts: list[wire.Pair] = [*({"/dev/null": "/dev/null"} | externals).items()]
    try:
        _make_mount_points(plan, externals)
        _mount_root(plan.path, root)
        session = Session(create.stdio, tuple(inherited))
        container.manager().add(session.pid)
        request = common_options(options, spec, images, work, _LOG)
        request |= {
            "root": root,
            "evasive_devices": True,
            "rst_sibling": True,
            "ext_mnt": mounts,
            "cg_root": _groups_of(session.pid),
            "inherit_fd": [
                *_inherited_pipes(options.image_path, session.pid),
                *((key, 4 + index) for index, (_, _, key) in enumerate(external_namespaces(spec.linux))),
            ],
            "join_ns": _joined(spec.linux),
            "tcp_close": options.tcp_close,
        }
        if options.lsm_profile:
            request["lsm_profile"] = options.lsm_profile
        if options.lsm_mount_context:
            request["lsm_mount_context"] = options.lsm_mount_context
        session.run(wire.request(wire.RESTORE, request), wire.RESTORE, attendant)
    except (InternalError, OSError) as error:
        attendant.abandon()
        raise quoting(error, options.work_path or options.image_path, _LOG) from None
    except OrlopError:
        attendant.abandon()
        raise
    finally:
        if session is not None:
            session.close()
        unmount_root(root)
        for fd in (images, work, *inherited):
            if fd >= 0:
                os.close(fd)
    if create.pid_file:
        parent.write_pid_file(create.pid_file, container.init_pid)


class _Attendant:
    """Does what CRIU's notifications ask for."""

    def __init__(self, container: "Container", create: CreateOptions) -> None:
        self._container = container
        self._create = create

    def __call__(self, script: str, pid: int, fd: int) -> None:
        container = self._container
        if script == "setup-namespaces":
            run_creation_hooks(container, pid)
        elif script == "orphan-pts-master":
            self._hand_on_terminal(fd)
        elif script == "post-restore":
            self._take_over(pid)

    def _hand_on_terminal(self, fd: int) -> None:
        if self._create.console_socket is not None:
            parent.send_descriptor(self._create.console_socket, b"/dev/ptmx", fd)
        else:
            self._container.console = os.dup(fd)

    def _take_over(self, pid: int) -> None:
        """The restored init is there: write down that it is the container's."""
        container, record = self._container, self._container.record
        container.init_pidfd = proc.pidfd_open(pid)
        record.init_pid = pid
        record.init_start, _ = process_start(pid)
        linux = record.spec.linux
        assert linux is not None
        # CRIU may bring clocks back by means of a time namespace; later processes have to share it.
        apart = os.stat(f"/proc/{pid}/ns/time").st_ino != os.stat("/proc/self/ns/time").st_ino
        if apart and all(entry.type != "time" for entry in linux.namespaces):
            linux.namespaces = [*linux.namespaces, Namespace(type="time")]
        container.keep()
        if self._create.pidfd_socket is not None:
            parent.send_descriptor(self._create.pidfd_socket, b"standard", container.init_pidfd)

    def abandon(self) -> None:
        """A restore that failed late: end what has been restored."""
        container = self._container
        if container.init_pidfd >= 0:
            parent.reap(container.record.init_pid, container.init_pidfd)
            os.close(container.init_pidfd)
            container.init_pidfd = -1


def _make_mount_points(plan: RootfsPlan, externals: dict[str, str]) -> None:
    fd = os.open(plan.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        make_mount_points(fd, plan, externals)
    finally:
        os.close(fd)


def _mount_root(path: str, root: str) -> None:
    """CRIU takes for a root only what is a mount point whose parent nothing covers."""
    os.mkdir(root, 0o755)
    tree = mnt.open_tree(mnt.AT_FDCWD, path, mnt.OPEN_TREE_CLONE | mnt.AT_RECURSIVE)
    try:
        point = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            mnt.attach(tree, point)
        finally:
            os.close(point)
    finally:
        os.close(tree)


def unmount_root(root: str) -> None:
    """Take away what `_mount_root` made, now or after a crash."""
    try:
        mnt.umount2(root, mnt.MNT_DETACH)
    except OSError:
        pass  # not mounted
    try:
        os.rmdir(root)
    except FileNotFoundError:
        pass
    except OSError as error:
        warn(f"{root} remains: {explain(error)}")


def _groups_of(pid: int) -> list[wire.Pair]:
    """The control groups that `pid` is in, which the restored processes are to be in."""
    found: list[wire.Pair] = []
    for line in tables.rows(f"/proc/{pid}/cgroup"):
        _, controllers, path = line.split(":", 2)
        found += [(controller, path) for controller in controllers.split(",")]
    return found


def _inherited_pipes(directory: str, pid: int) -> list[wire.Pair]:
    """The pipes that were the streams of init, to be replaced by those of criu, which are the caller's."""
    try:
        with open(f"{directory}/{DESCRIPTORS}", "rb", buffering=0) as file:
            streams = codec.decode(file.read(), list[str])
    except FileNotFoundError:
        raise FailedPreconditionError(f"{directory} holds no checkpoint: it has no {DESCRIPTORS}") from None
    return [(name, fd) for fd, name in enumerate(streams) if "pipe:" in name and fd < 3]


def _joined(linux: Linux) -> list[wire.Pair]:
    """The other namespaces that the container shares by path."""
    names = {"mount": "mnt"}
    found: list[wire.Pair] = []
    for entry in linux.namespaces:
        if not entry.path or entry.type in ("network", "pid"):
            continue
        if entry.type == "cgroup":
            raise InvalidArgumentError("linux.namespaces: criu cannot join a cgroup namespace by its path")
        found.append((names.get(entry.type, entry.type), entry.path))
    return found
