# SPDX-License-Identifier: Apache-2.0
"""Runs the shim's program where nobody can write to it through a container's /proc/self/exe.

A container's init is forked from the shim, and until it executes the user's program its /proc/PID/exe is the
shim's. A write through that name would change the host's Python, or this command (the way of CVE-2019-5736). So
that program is a copy in memory whose seals refuse every write, or seen through a mount without anything to write.
"""

import _signal  # type: ignore[import-not-found]
import fcntl
import os
import sys

from orlop.unix.unexec import was_captured

TYPE_CHECKING = False  # without the import of typing, see orlop.shim.bootstrap
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

    from orlop.shim.bootstrap import Start

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
# Small arenas and prompt returns to the kernel, see "Memory" in orlop.shim.zygote.
ENVIRONMENT = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "65536", "PYTHONDONTWRITEBYTECODE": ""}


def sealed_copy(path: str) -> int:
    """A descriptor of a sealed copy of a program. Raises OSError."""
    copy = os.memfd_create("orlop-shim", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(path, "rb") as original:
            size = os.fstat(original.fileno()).st_size
            while size > 0:
                size -= os.sendfile(copy, original.fileno(), None, size)
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(copy)
        raise
    return copy


def is_sealed() -> bool:
    """Whether this process runs from such a copy."""
    try:
        fd = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:
        return False
    finally:
        os.close(fd)


def execute(module: str, args: list[str], env: "Mapping[str, str]") -> "NoReturn":
    """Replace this process with `python -m module args…`, run from a sealed copy. Raises OSError."""
    interpreter = sealed_copy(os.path.realpath(sys.executable))
    # argv[0] is the real path: the interpreter finds its prefix and virtual environment from it.
    os.execve(interpreter, [sys.executable, "-P", "-m", module, *args], dict(env))


def execute_captured(directory: str, args: list[str], env: "Mapping[str, str]") -> "NoReturn":
    """Replace this process, which came from a captured command, with one more of it. Raises OSError.

    It is seen through an overlay of the directory that it lies in and another (overlayfs wants two), without an
    upper layer: one copy of its pages serves all shims. Where that cannot be mounted, it is copied.
    """
    from orlop.unix.overlay import detached_overlay

    place, name = os.path.split(os.readlink("/proc/self/exe"))
    try:
        view = detached_overlay([place, directory], [])
        program = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=view)
        os.close(view)
    except OSError:
        program = sealed_copy("/proc/self/exe")
    os.execve(program, [name, *args], dict(env))


def start_server(listener: int, path: str, start: "Start") -> int:
    """Start the shim's server, a process of its own with `listener`, bound to `path`, as descriptor 3; its pid."""
    args = ["-namespace", start.namespace, "-id", start.id, "-address", start.address]
    if start.debug:
        args.append("-debug")
    env = dict(os.environ) | ENVIRONMENT | {"TTRPC_ADDRESS": start.ttrpc_address}
    pid = os.fork()
    if pid:
        return pid
    try:
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        if listener == 3:
            os.set_inheritable(3, True)
        else:
            os.dup2(listener, 3)
        _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
        if was_captured():
            execute_captured(os.path.dirname(path), args, env)
        execute("orlop.shim.main", args, env)
    finally:
        os._exit(127)
