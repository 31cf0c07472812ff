# SPDX-License-Identifier: Apache-2.0
"""What goes into a container's /dev: device nodes, links, the terminal."""

import os
import stat

from orlop.errdefs import InvalidArgumentError, PermissionDeniedError
from orlop.libcontainer.errors import explain
from orlop.libcontainer.rootfs.plan import DeviceStep
from orlop.libcontainer.rootfs.resolve import make_file, open_in_root, open_parent
from orlop.unix import mount as mnt
from orlop.unix.fs import RESOLVE_NO_SYMLINKS

_LINKS: tuple[tuple[str, str], ...] = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
)
_NULL = os.makedev(1, 3)


def make_device(root: int, device: DeviceStep) -> None:
    """Make the node, or bind the host's where nodes may not be made (a user namespace). The umask must be 0."""
    try:
        parent, name = open_parent(root, device.path)
        try:
            os.mknod(name, device.mode, device.device, dir_fd=parent)
            if device.uid or device.gid:
                os.chown(name, device.uid, device.gid, dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            pass
        except PermissionError:
            _bind_device(root, device)
        finally:
            os.close(parent)
    except (OSError, ValueError) as error:
        raise InvalidArgumentError(f"error creating device nodes: {device.path}: {explain(error)}") from error


def _bind_device(root: int, device: DeviceStep) -> None:
    tree = mnt.open_tree(mnt.AT_FDCWD, device.path, mnt.OPEN_TREE_CLONE)
    if os.fstat(tree).st_rdev != device.device:
        raise PermissionDeniedError(f"the host's {device.path} is another device")
    target = make_file(root, device.path)
    mnt.attach(tree, target)
    os.close(target)
    os.close(tree)


def make_links(root: int) -> None:
    """/dev/fd, stdin, stdout, stderr, core and ptmx; what is there already stays, but ptmx."""
    links = _LINKS
    if os.path.exists("/proc/kcore"):
        links = (*_LINKS, ("/proc/kcore", "/dev/core"))
    parent, _ = open_parent(root, "/dev/x")
    try:
        for target, path in links:
            try:
                os.symlink(target, path.rpartition("/")[2], dir_fd=parent)
            except FileExistsError:
                continue
        # A ptmx of the host's would hand out terminals of the host's devpts.
        try:
            os.unlink("ptmx", dir_fd=parent)
        except FileNotFoundError:
            pass
        os.symlink("pts/ptmx", "ptmx", dir_fd=parent)
    finally:
        os.close(parent)


def open_null(root: int) -> int:
    """The container's /dev/null, proven to be the null device and not a link to something to be overwritten."""
    try:
        fd = open_in_root(root, "dev/null", os.O_PATH | os.O_NOFOLLOW, RESOLVE_NO_SYMLINKS)
    except OSError as error:
        raise InvalidArgumentError(f"container's /dev/null is invalid: {explain(error)}") from error
    if not is_null(os.fstat(fd)):
        os.close(fd)
        raise InvalidArgumentError("container's /dev/null is invalid: not the null device")
    return fd


def is_null(status: os.stat_result) -> bool:
    """Whether this is the null device."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL


def mount_console(root: int, terminal: int) -> None:
    """Put the opened terminal `terminal` at /dev/console. Raises InvalidArgumentError."""
    try:
        _mount_console(root, terminal)
    except OSError as error:
        raise InvalidArgumentError(f"error setting up /dev/console: {explain(error)}") from error


def _mount_console(root: int, terminal: int) -> None:
    parent, name = open_parent(root, "/dev/console")
    try:
        try:
            os.mknod(name, stat.S_IFREG | 0o666, dir_fd=parent)
        except FileExistsError:
            pass
        target = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    finally:
        os.close(parent)
    if stat.S_ISLNK(os.fstat(target).st_mode):
        os.close(target)
        raise InvalidArgumentError("/dev/console of the container is a symbolic link")
    clone = mnt.open_tree(terminal, b"", mnt.OPEN_TREE_CLONE | mnt.AT_EMPTY_PATH)
    mnt.attach(clone, target)
    os.close(clone)
    os.close(target)
