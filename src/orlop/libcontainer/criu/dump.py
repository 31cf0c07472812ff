# SPDX-License-Identifier: Apache-2.0
"""Checkpoint: having CRIU write a running container to a directory of images."""

import os
from typing import TYPE_CHECKING

from orlop import codec
from orlop.errdefs import FailedPreconditionError, InternalError, InvalidArgumentError
from orlop.libcontainer.criu import wire
from orlop.libcontainer.criu.mounts import external_mounts, external_namespaces, masked_files
from orlop.libcontainer.criu.session import Session, quoting, require
from orlop.libcontainer.errors import explain
from orlop.libcontainer.options import CheckpointOptions, CriuOptions
from orlop.libcontainer.rootfs.plan import plan_rootfs
from orlop.oci.runtime import Spec

if TYPE_CHECKING:
    from orlop.libcontainer.container import Container

DESCRIPTORS = "descriptors.json"  # what the three streams were, for the restore (runc's name and form)
_LOG = "dump.log"


def dump(container: "Container", options: CheckpointOptions) -> None:
    """Write the images. Raises FailedPreconditionError (no criu), InternalError quoting criu's log."""
    if options.status_fd >= 0:
        _check_status_fd(options.status_fd)
    if options.pre_dump:
        require("mem_track")
    if options.lazy_pages:
        require("lazy_pages")
    _check_parent(options)
    images, work = open_directories(options)
    session = None
    try:
        request = _plan(container, options, images, work)
        kind = wire.PRE_DUMP if options.pre_dump else wire.DUMP
        if not options.pre_dump:
            _write_descriptors(options.image_path, container.init_pid)
        session = Session()
        try:
            session.run(wire.request(kind, request), kind, _Notified(options))
        except InternalError as error:
            raise quoting(error, options.work_path or options.image_path, _LOG) from None
    finally:
        if session is not None:
            session.close()
        for fd in (images, work):
            if fd >= 0:
                os.close(fd)


def _plan(container: "Container", options: CheckpointOptions, images: int, work: int) -> dict[str, wire.Value]:
    """The options of the request, by their names in CRIU's protocol."""
    spec, record = container.record.spec, container.record
    assert spec.linux is not None
    plan = plan_rootfs(spec, record.bundle, record.cgroup_paths)
    request = common_options(options, spec, images, work, _LOG)
    request |= {
        "root": plan.path,
        "pid": container.init_pid,
        "leave_running": options.leave_running,
        "tcp_skip_in_flight": options.tcp_skip_in_flight,
        "link_remap": options.link_remap,
    }
    freezer = record.cgroup_paths.get("freezer") or record.cgroup_paths.get("")
    if freezer:
        request["freeze_cgroup"] = freezer
    if options.page_server:
        address, _, port = options.page_server.rpartition(":")
        if not address or not (port.isascii() and port.isdigit()):
            raise InvalidArgumentError(f'page server is "{options.page_server}", expected ADDRESS:PORT')
        request["ps"] = (address, int(port))
    if options.parent_path:
        request |= {"parent_img": options.parent_path, "track_mem": True}
    if options.pre_dump:
        request["track_mem"] = True
        return request
    points = external_mounts(spec, plan, container.init_pid)
    mounts: list[wire.Pair] = [(point, point) for point in points]
    # As runc has it, so that either can restore what the other has written down.
    mounts += [(path, "/dev/null") for path in masked_files(plan, container.init_pid)]
    request["ext_mnt"] = mounts
    request["external"] = [
        f"{name}[{os.stat(path).st_ino}]:{key}" for name, path, key in external_namespaces(spec.linux)
    ]
    return request


def common_options(options: CriuOptions, spec: Spec, images: int, work: int, log: str) -> dict[str, wire.Value]:
    """What dump and restore have in common."""
    mode = wire.CGROUP_MODES.get(options.manage_cgroups_mode)
    if mode is None:
        raise InvalidArgumentError(
            f'manage-cgroups-mode is "{options.manage_cgroups_mode}", expected soft, full, strict or ignore'
        )
    empty = 0
    for name in options.empty_ns:
        if name != "network":
            raise InvalidArgumentError(f'empty-ns is "{name}": only network is supported')
        empty |= 0x40000000
    found: dict[str, wire.Value] = {
        "images_dir_fd": images,
        "log_level": 4,
        "log_file": log,
        "notify_scripts": True,
        "manage_cgroups": True,
        "manage_cgroups_mode": mode,
        "shell_job": options.shell_job,
        "ext_unix_sk": options.ext_unix_sk,
        "tcp_established": options.tcp_established,
        "file_locks": options.file_locks,
        "empty_ns": empty,
        "orphan_pts_master": True,
        "auto_dedup": options.auto_dedup,
        "lazy_pages": options.lazy_pages,
    }
    if work >= 0:
        found["work_dir_fd"] = work
    if options.network_lock:
        found["network_lock"] = _network_lock(options.network_lock)
    # CRIU passes over a file that is not there.
    if config := spec.annotations.get("org.criu.config", "/etc/criu/runc.conf"):
        found["config_file"] = config
    return found


def _network_lock(name: str) -> int:
    number = wire.NETWORK_LOCKS.get(name)
    if number is None:
        raise InvalidArgumentError(f'network-lock is "{name}", expected {", ".join(wire.NETWORK_LOCKS)}')
    return number


def open_directories(options: CriuOptions) -> tuple[int, int]:
    """Descriptors of the directories of images and, where one is named, of logs."""
    fds = [-1, -1]
    try:
        for index, path in enumerate((options.image_path, options.work_path)):
            if path:
                fds[index] = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        if fds[0] >= 0:
            os.close(fds[0])
        raise
    return fds[0], fds[1]


def _check_parent(options: CheckpointOptions) -> None:
    for path in (options.image_path, options.work_path):
        if path:
            os.makedirs(path, 0o700, exist_ok=True)
    if options.parent_path.startswith("/"):
        raise InvalidArgumentError("--parent-path must be relative to the directory of images")
    if options.parent_path and not os.path.isdir(os.path.join(options.image_path, options.parent_path)):
        raise FailedPreconditionError(f"invalid --parent-path: {options.parent_path}: no such directory")


def _check_status_fd(fd: int) -> None:
    import fcntl

    try:
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    except OSError as error:
        raise InvalidArgumentError(f"--status-fd is {fd}, expected an open descriptor: {explain(error)}") from None
    if flags & os.O_ACCMODE == os.O_RDONLY:
        raise InvalidArgumentError(f"--status-fd is {fd}, expected a descriptor that can be written")


def _write_descriptors(directory: str, pid: int) -> None:
    streams = []
    for fd in (0, 1, 2):
        try:
            streams.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except FileNotFoundError:
            streams.append("")  # the process has closed it
    path = f"{directory}/{DESCRIPTORS}"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, codec.encode(streams))
    finally:
        os.close(fd)


class _Notified:
    """Tells whoever waits at the status descriptor that the page server is ready."""

    def __init__(self, options: CheckpointOptions) -> None:
        self._status_fd = options.status_fd

    def __call__(self, script: str, pid: int, fd: int) -> None:
        if script == "status-ready" and self._status_fd >= 0:
            os.write(self._status_fd, b"\0")
            os.close(self._status_fd)
            self._status_fd = -1
