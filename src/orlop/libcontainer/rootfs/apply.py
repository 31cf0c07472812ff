# SPDX-License-Identifier: Apache-2.0
"""Carries a RootfsPlan out, in the container's mount namespace, through descriptors only.

`Rootfs` is used in this order: attach, mount, make_dev, (hooks), pivot, seal, protect. Mount points are opened
once with RESOLVE_IN_ROOT, and what is attached goes on the opened object, never on a path that is resolved again.
"""

import os
import stat

from orlop.errdefs import InvalidArgumentError, OrlopError
from orlop.libcontainer.errors import explain
from orlop.libcontainer.rootfs import nodes
from orlop.libcontainer.rootfs.copy import copy_tree
from orlop.libcontainer.rootfs.plan import MountStep, RootfsPlan, context_of
from orlop.libcontainer.rootfs.resolve import make_directories, make_file, open_in_root
from orlop.unix import mount as mnt
from orlop.unix import tables
from orlop.unix.fs import PROC_SUPER_MAGIC, RESOLVE_NO_SYMLINKS, filesystem_type

# What goes in the place of a filesystem that may not be mounted anew.
_SHOWN_INSTEAD = {"cgroup2": "/sys/fs/cgroup", "sysfs": "/sys", "mqueue": "/dev/mqueue"}


class Rootfs:
    """The root filesystem being built; `fd` is its root directory, valid before and after the pivot."""

    def __init__(self, plan: RootfsPlan) -> None:
        self.plan = plan
        self.fd = -1
        self.done: list[MountStep] = []
        self._to_seal: list[int] = []

    def attach(self) -> None:
        """Cut mount propagation to the host as the plan says, and make the root a mount of its own."""
        flags = self.plan.propagation or mnt.MS_SLAVE | mnt.MS_REC
        if flags & mnt.MS_UNBINDABLE:  # comes last: nothing could be cloned from an unbindable root
            flags = mnt.MS_PRIVATE | flags & mnt.MS_REC
        if not self.plan.shares_mounts:
            _set_propagation(mnt.AT_FDCWD, "/", flags)
            if flags & mnt.MS_SHARED:
                _make_parent_private(self.plan.path)
        point = os.open(self.plan.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.fd = mnt.open_tree(point, b"", mnt.OPEN_TREE_CLONE | mnt.AT_RECURSIVE | mnt.AT_EMPTY_PATH)
        mnt.attach(self.fd, point)
        os.close(point)

    def mount(self) -> None:
        """Every mount of the plan, in order."""
        for step in self.plan.mounts:
            try:
                self._mount(step)
                self.done.append(step)
            except (OSError, OrlopError) as error:
                raise InvalidArgumentError(
                    f'error mounting "{step.source}" to rootfs at "{step.destination}": {explain(error)}'
                ) from error

    def make_dev(self) -> None:
        """The device nodes and the customary links in /dev, unless the host's /dev is bound there."""
        if not self.plan.makes_dev:
            return
        for device in self.plan.devices:
            nodes.make_device(self.fd, device)
        nodes.make_links(self.fd)

    def pivot(self) -> None:
        """Make this the root of the mount namespace and let go of the host's."""
        os.fchdir(self.fd)
        if self.plan.shares_mounts:
            os.chroot(".")
            os.chdir("/")
        elif self.plan.no_pivot:
            _leave_no_kernel_filesystem(self.plan.path)
            mnt.move_mount(
                self.fd, b"", mnt.AT_FDCWD, "/", mnt.MOVE_MOUNT_F_EMPTY_PATH | mnt.MOVE_MOUNT_T_SYMLINKS
            )
            os.chroot(".")
            os.chdir("/")
        else:
            if self.plan.propagation & mnt.MS_SHARED:
                _set_propagation(self.fd, b"", mnt.MS_PRIVATE)
            old = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            # Both in one directory: the old root ends up mounted over the new one and is taken off from there.
            mnt.pivot_root(".", ".")
            os.fchdir(old)
            _set_propagation(old, b"", mnt.MS_SLAVE | mnt.MS_REC)
            mnt.umount2(".", mnt.MNT_DETACH)
            os.close(old)
            os.chdir("/")

    def seal(self) -> None:
        """Make read-only what had to be writable while mount points and nodes were made in it."""
        for fd in self._to_seal:
            mnt.mount_setattr(fd, b"", mnt.AT_EMPTY_PATH, attr_set=mnt.MOUNT_ATTR_RDONLY)
            os.close(fd)
        self._to_seal = []
        if self.plan.read_only:
            mnt.mount_setattr(self.fd, b"", mnt.AT_EMPTY_PATH, attr_set=mnt.MOUNT_ATTR_RDONLY)

    def protect(self) -> None:
        """Cover the masked paths, make the read-only paths so, and give the whole its propagation."""
        for path in self.plan.read_only_paths:
            try:
                self._make_read_only(path)
            except OSError as error:
                raise InvalidArgumentError(f'can\'t make "{path}" read-only: {explain(error)}') from error
        if self.plan.masked:
            try:
                self._mask()
            except OSError as error:
                raise InvalidArgumentError(f"can't mask paths: {explain(error)}") from error
        if self.plan.propagation:
            _set_propagation(self.fd, b"", self.plan.propagation)

    # -- one step ---------------------------------------------------------------------------------

    def _mount(self, step: MountStep) -> None:
        if step.bind:
            self._bind(step)
            return
        target = self._directory(step)
        try:
            if step.fstype == "tmpfs":
                _inherit_mode(step, target)
            fd = self._filesystem(step)
            if step.label:
                _set_label(fd, step.label)
            if step.copy_up:
                self._copy_up(step, fd)
            mnt.attach(fd, target)
            for propagation, recursive in step.options.propagation:
                mnt.mount_setattr(fd, b"", mnt.AT_EMPTY_PATH | recursive, propagation=propagation)
        finally:
            os.close(target)
        self._seal_later(step, fd)

    def _filesystem(self, step: MountStep) -> int:
        try:
            # Nothing is mounted below a new filesystem: what is asked for recursively is the same as for it alone.
            attributes = step.options.attr_set | step.options.rec_set
            return mnt.new_filesystem(step.fstype, step.source, step.options.data, attributes)
        except PermissionError:
            if not os.path.exists(_SHOWN_INSTEAD.get(step.fstype, "")):
                raise
        # Not the owner of the namespace that it shows (a user namespace without a network namespace): show the
        # host's mount, with what is mounted below, which a user namespace may not part from it.
        fd = mnt.open_tree(mnt.AT_FDCWD, _SHOWN_INSTEAD[step.fstype], mnt.OPEN_TREE_CLONE | mnt.AT_RECURSIVE)
        mnt.change_mount(fd, step.options)
        return fd

    def _directory(self, step: MountStep) -> int:
        """The mount point of a filesystem. proc and sysfs go on plain directories, never through a link."""
        if step.fstype not in ("proc", "sysfs"):
            target = make_directories(self.fd, step.destination)
            self._refuse_procfs(step, target)
            return target
        try:
            target = open_in_root(self.fd, step.destination, resolve=RESOLVE_NO_SYMLINKS)
        except FileNotFoundError:
            os.close(make_directories(self.fd, step.destination))
            target = open_in_root(self.fd, step.destination, resolve=RESOLVE_NO_SYMLINKS)
        except OSError:
            raise _not_ordinary(step) from None
        if not stat.S_ISDIR(os.fstat(target).st_mode):
            raise _not_ordinary(step)
        return target

    def _bind(self, step: MountStep) -> None:
        tree = step.tree
        if tree < 0:
            recursive = mnt.AT_RECURSIVE if step.options.recursive else 0
            tree = mnt.open_tree(mnt.AT_FDCWD, step.source, mnt.OPEN_TREE_CLONE | recursive)
        source_is_directory = stat.S_ISDIR(os.fstat(tree).st_mode)
        make = make_directories if source_is_directory else make_file
        target = make(self.fd, step.destination)
        try:
            if step.destination != "/proc" or filesystem_type(tree) != PROC_SUPER_MAGIC:
                self._refuse_procfs(step, target)
            mnt.attach(tree, target)
            mnt.change_mount(tree, step.options)
        finally:
            os.close(target)
        self._seal_later(step, tree)

    def _refuse_procfs(self, step: MountStep, target: int) -> None:
        """A mount over procfs would redirect what the runtime itself, and the container's tools, write there."""
        if filesystem_type(target) == PROC_SUPER_MAGIC and not step.covers_proc:
            raise InvalidArgumentError(f'"{step.destination}" cannot be mounted because it is inside /proc')

    def _seal_later(self, step: MountStep, fd: int) -> None:
        if step.seal:
            self._to_seal.append(fd)
        else:
            os.close(fd)

    def _copy_up(self, step: MountStep, fd: int) -> None:
        try:
            covered = open_in_root(self.fd, step.destination, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return
        filled = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
        try:
            copy_tree(covered, filled)
        finally:
            os.close(filled)
            os.close(covered)

    # -- protection -------------------------------------------------------------------------------

    def _make_read_only(self, path: str) -> None:
        try:
            target = open_in_root(self.fd, path)
        except FileNotFoundError:
            return
        clone = mnt.open_tree(target, b"", mnt.OPEN_TREE_CLONE | mnt.AT_RECURSIVE | mnt.AT_EMPTY_PATH)
        mnt.mount_setattr(clone, b"", mnt.AT_EMPTY_PATH, attr_set=mnt.MOUNT_ATTR_RDONLY)
        mnt.attach(clone, target)
        os.close(clone)
        os.close(target)

    def _mask(self) -> None:
        null = nodes.open_null(self.fd)
        empty = -1
        for path in self.plan.masked:
            try:
                target = open_in_root(self.fd, path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if stat.S_ISDIR(os.fstat(target).st_mode):
                # One empty tmpfs covers all directories: the first is attached, the others are clones of it.
                if empty < 0:
                    options = ["size=0k", "nr_inodes=1", *context_of(self.plan.label)]
                    cover = empty = mnt.new_filesystem("tmpfs", "tmpfs", options, mnt.MOUNT_ATTR_RDONLY)
                else:
                    cover = mnt.open_tree(empty, b"", mnt.OPEN_TREE_CLONE | mnt.AT_EMPTY_PATH)
            else:
                cover = mnt.open_tree(null, b"", mnt.OPEN_TREE_CLONE | mnt.AT_EMPTY_PATH)
            mnt.attach(cover, target)
            os.close(target)
            if cover != empty:
                os.close(cover)
        os.close(null)
        if empty >= 0:
            os.close(empty)


def _not_ordinary(step: MountStep) -> InvalidArgumentError:
    return InvalidArgumentError(f'filesystem "{step.fstype}" must be mounted on ordinary directory')


def _set_label(filesystem: int, label: str) -> None:
    root = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=filesystem)
    try:
        os.setxattr(root, "security.selinux", label.encode() + b"\0")
    finally:
        os.close(root)


def _inherit_mode(step: MountStep, target: int) -> None:
    if not any(option.startswith("mode=") for option in step.options.data):
        step.options.data.append(f"mode={stat.S_IMODE(os.fstat(target).st_mode):04o}")


def _set_propagation(fd: int, path: str | bytes, flags: int) -> None:
    how = (mnt.AT_EMPTY_PATH if not path else 0) | (mnt.AT_RECURSIVE if flags & mnt.MS_REC else 0)
    mnt.mount_setattr(fd, path, how, propagation=flags & ~mnt.MS_REC)


def _leave_no_kernel_filesystem(rootfs: str) -> None:
    """Take the host's procfs and sysfs away, which stay below a root that was moved and not pivoted.

    A user namespace may mount a new one only where an unmasked one can be seen.
    """
    for row in reversed([line.split(" ") for line in tables.rows("/proc/self/mountinfo")]):
        point, kind = tables.unescape(row[4]), row[row.index("-") + 1]
        if kind in ("proc", "sysfs") and row[3] == "/" and not (point + "/").startswith(rootfs + "/"):
            try:
                mnt.umount2(point, mnt.MNT_DETACH)
            except (PermissionError, FileNotFoundError):
                # Locked, or below one that has gone already; what is locked is covered.
                if os.path.isdir(point):
                    mnt.mount("tmpfs", point, "tmpfs", mnt.MS_RDONLY, "size=0k")


def _make_parent_private(path: str) -> None:
    """The mount that holds the root filesystem: pivot_root(2) refuses a shared one."""
    while True:
        try:
            mnt.mount_setattr(mnt.AT_FDCWD, path, propagation=mnt.MS_PRIVATE)
            return
        except OSError:
            # EINVAL: not a mount point; the parent may be.
            if path == "/":
                raise
            path = os.path.dirname(path)
