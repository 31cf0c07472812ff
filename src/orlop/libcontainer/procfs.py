# SPDX-License-Identifier: Apache-2.0
"""Writing to /proc for a container without trusting what is mounted at /proc.

A private mount of procfs cannot be covered by anybody; each file is opened beneath it without following links or
crossing into another mount, and is proven to live on procfs before it is written.
"""

import os

from orlop.errdefs import PermissionDeniedError
from orlop.unix.fs import (
    PROC_SUPER_MAGIC,
    RESOLVE_BENEATH,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    filesystem_type,
    openat2,
)
from orlop.unix.mount import new_filesystem


def open_procfs() -> int:
    """A private procfs of the caller's PID namespace, or the mounted one, proven, where that is refused."""
    try:
        return new_filesystem("proc", "proc")
    except PermissionError:
        # A user namespace whose parent's /proc is partly masked may make no new one.
        fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        _prove(fd, "/proc")
        return fd


def write_proc(procfs: int, path: str, value: str) -> None:
    """Write `value` to the file `path` below the procfs `procfs`."""
    fd = openat2(procfs, path, os.O_WRONLY, RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS)
    try:
        _prove(fd, path)
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def sysctl_path(name: str) -> str:
    """The file below /proc of a kernel parameter: `net.ipv4.ip_forward` or `net/ipv4/conf/eth0.1/…`."""
    slash, dot = name.find("/"), name.find(".")
    if slash >= 0 and (dot < 0 or slash < dot):
        return f"sys/{name}"
    # With dots as separators, a slash stands for a dot within a component (sysctl.d(5)).
    return "sys/" + name.replace(".", "\0").replace("/", ".").replace("\0", "/")


def _prove(fd: int, path: str) -> None:
    if filesystem_type(fd) != PROC_SUPER_MAGIC:
        os.close(fd)
        raise PermissionDeniedError(f"{path} is not on procfs")
