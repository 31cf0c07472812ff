# SPDX-License-Identifier: Apache-2.0
"""Mounts whose ids are shown as others (mount_setattr(2), MOUNT_ATTR_IDMAP), and overlays of them."""

import errno
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

from orlop.unix import mount as mnt
from orlop.unix import process as proc
from orlop.unix.overlay import configure

Range = tuple[int, int, int]
"""First id inside, first id outside, how many."""


def user_namespace(uids: Sequence[Range], gids: Sequence[Range]) -> int:
    """A descriptor of a new user namespace with these mappings, which lives as long as the descriptor.

    The caller must have one thread only. Raises OSError.
    """
    pid, pidfd = proc.clone3(proc.CLONE_NEWUSER)
    if pid == 0:
        try:
            signal.pause()
        finally:
            os._exit(0)
    try:
        _write_maps(pid, uids, gids)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)


@contextmanager
def namespace_aside(uids: Sequence[Range], gids: Sequence[Range], *more: str) -> Iterator[int]:
    """The id of a process that is in a user namespace with these mappings, until the end of the block.

    `more` are options of unshare(1), for other new namespaces that belong to it. It is another program, since a
    process with threads can neither enter a user namespace nor fork without care. Raises OSError.
    """
    with _aside("unshare", "--user", *more) as pid:
        _write_maps(pid, uids, gids)
        yield pid


def process_within(namespace: str, *more: str) -> AbstractContextManager[int]:
    """As `namespace_aside`, in the user namespace at a path that is there already."""
    return _aside("nsenter", f"--user={namespace}", "--", "unshare", *more)


@contextmanager
def _aside(*command: str) -> Iterator[int]:
    import subprocess

    pipe = subprocess.PIPE
    waiting = [*command, "--", "sh", "-c", "echo; read -r _"]
    with subprocess.Popen(waiting, stdin=pipe, stdout=pipe, stderr=pipe) as helper:
        assert helper.stdin is not None and helper.stdout is not None and helper.stderr is not None
        if not helper.stdout.readline():
            raise OSError(errno.EPERM, helper.stderr.read().decode(errors="replace").strip())
        yield helper.pid  # the end of its input ends it, also if this process is killed


def overlay(options: Sequence[str], uids: Sequence[Range], gids: Sequence[Range]) -> int:
    """`overlay_in` a namespace with these mappings. The caller must have one thread only. Raises OSError."""
    namespace = user_namespace(uids, gids)
    try:
        return overlay_in(namespace, options, (uids[0][1], gids[0][1]))
    finally:
        os.close(namespace)


def overlay_in(namespace: int, options: Sequence[str], root: tuple[int, int]) -> int:
    """A detached overlay of which the lower layers are idmapped; `options` as fstab has them.

    What is written is owned by ids outside, as the container's processes are. The top of a fresh upper directory,
    which is root's, is given to the container's `root`: user and group outside. Raises OSError.
    """
    with ExitStack() as stack:
        context = mnt.fsopen("overlay")
        stack.callback(os.close, context)
        for option in options:
            key, _, value = option.partition("=")
            if key == "lowerdir":
                for path in mnt.lower_layers(value):
                    layer = mapped_tree(path, namespace)
                    stack.callback(os.close, layer)
                    mnt.fsconfig(context, mnt.FSCONFIG_SET_FD, "lowerdir+", aux=layer)
        configure(context, [option for option in options if not option.startswith("lowerdir=")])
        made = mnt.fsmount(context)
    try:
        _give_root(made, *root)
    except BaseException:
        os.close(made)
        raise
    return made


def overlay_above(namespace: int, top: str, lower: Sequence[str], options: Sequence[str]) -> int:
    """A detached, read-only overlay: the directory `top`, idmapped, over directories that are as they are.

    Raises OSError.
    """
    with ExitStack() as stack:
        layers = [mapped_tree(top, namespace)]
        stack.callback(os.close, layers[0])
        for path in lower:
            layers.append(mnt.open_tree(mnt.AT_FDCWD, path))
            stack.callback(os.close, layers[-1])
        context = mnt.fsopen("overlay")
        stack.callback(os.close, context)
        for layer in layers:
            mnt.fsconfig(context, mnt.FSCONFIG_SET_FD, "lowerdir+", aux=layer)
        configure(context, options)
        return mnt.fsmount(context)


def map_mount(fd: int, uids: Sequence[Range], gids: Sequence[Range]) -> None:
    """Show the ids of the detached mount `fd` as those inside of the mappings. Raises OSError."""
    namespace = user_namespace(uids, gids)
    try:
        mnt.mount_setattr(fd, b"", mnt.AT_EMPTY_PATH, attr_set=mnt.MOUNT_ATTR_IDMAP, userns_fd=namespace)
    finally:
        os.close(namespace)


def mapped_tree(path: str, namespace: int) -> int:
    """A detached mount of the tree at `path`, its ids shown as those inside of the namespace. Raises OSError."""
    fd = mnt.open_tree(mnt.AT_FDCWD, path)
    try:
        mnt.mount_setattr(fd, b"", mnt.AT_EMPTY_PATH, attr_set=mnt.MOUNT_ATTR_IDMAP, userns_fd=namespace)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _write_maps(pid: int, uids: Sequence[Range], gids: Sequence[Range]) -> None:
    for file, ranges in (("uid_map", uids), ("gid_map", gids)):
        with open(f"/proc/{pid}/{file}", "w", encoding="ascii") as out:
            out.write("".join(f"{inside} {outside} {size}\n" for inside, outside, size in ranges))


def _give_root(made: int, uid: int, gid: int) -> None:
    root = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=made)
    try:
        if os.fstat(root).st_uid == 0:
            os.fchown(root, uid, gid)
    finally:
        os.close(root)
