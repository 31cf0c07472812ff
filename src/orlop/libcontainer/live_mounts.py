# SPDX-License-Identifier: Apache-2.0
"""Mounts in a container that runs already: a child enters its mount namespace and carries a plan out there."""

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from orlop.errdefs import FailedPreconditionError, InternalError
from orlop.libcontainer import namespaces, parent, prepare, sync
from orlop.libcontainer.errors import explain, unpack
from orlop.libcontainer.init import report
from orlop.libcontainer.rootfs.apply import Rootfs
from orlop.libcontainer.rootfs.plan import RootfsPlan, plan_mounts
from orlop.oci.runtime import Mount
from orlop.unix import mount as mnt
from orlop.unix import process as proc

if TYPE_CHECKING:
    from orlop.libcontainer.container import Container


def add(container: "Container", mounts: list[Mount]) -> None:
    """Add mounts, all or none. Raises InvalidArgumentError for the mount, FailedPreconditionError."""
    linux = container.record.spec.linux
    assert linux is not None
    steps = plan_mounts(mounts, container.record.cgroup_paths)
    plan = RootfsPlan(
        path="/", mounts=steps, devices=[], makes_dev=False, read_only=False, propagation=0, masked=[],
        read_only_paths=[], no_pivot=False,
    )  # fmt: skip

    def mount() -> None:
        rootfs = Rootfs(plan)
        rootfs.fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            rootfs.mount()
            rootfs.seal()
        except BaseException:
            for step in reversed(rootfs.done):
                mnt.umount2(step.destination, mnt.MNT_DETACH | mnt.UMOUNT_NOFOLLOW)
            raise

    try:
        # All of them: the sources are the host's.
        prepare.open_sources(steps, linux, all_binds=True)
        _inside(container, mount)
    finally:
        prepare.close_sources(steps)


def remove(container: "Container", mounts: list[Mount]) -> None:
    """Take mounts off, the last one first. Raises InvalidArgumentError, FailedPreconditionError, NotFoundError."""
    destinations = [step.destination for step in plan_mounts(mounts, container.record.cgroup_paths)]

    def unmount() -> None:
        for destination in reversed(destinations):
            try:
                mnt.umount2(destination, mnt.MNT_DETACH | mnt.UMOUNT_NOFOLLOW)
            except OSError as error:
                raise InternalError(f'unmounting "{destination}": {explain(error)}') from error

    _inside(container, unmount)


def _inside(container: "Container", work: Callable[[], None]) -> None:
    """Do `work` in a child that sees the container's mounts; raises what it raised."""
    linux = container.record.spec.linux
    assert linux is not None
    if all(namespace.type != "mount" for namespace in linux.namespaces):
        raise FailedPreconditionError("the container has no mount namespace of its own")
    init = container.pidfd()
    ours, theirs = sync.pair()

    def child() -> None:
        try:
            # From here on the files are the container's: nothing may be imported.
            sys.meta_path.clear()
            sys.path.clear()
            proc.setns(init, proc.CLONE_NEWNS)
            os.umask(0)
            work()
            theirs.send(sync.READY)
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the parent has to hear of it
            report(theirs, error)

    try:
        pid, pidfd = namespaces.spawn(namespaces.NamespacePlan(), -1, child)
        theirs.close()
        try:
            kind, text, _ = ours.receive()
        finally:
            parent.reap(pid, pidfd)
            os.close(pidfd)
    finally:
        theirs.close()
        ours.close()
    if kind == sync.ERROR:
        raise unpack(text)
    if kind != sync.READY:
        raise InternalError("the process that mounts in the container died")
