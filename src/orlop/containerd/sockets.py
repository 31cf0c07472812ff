# SPDX-License-Identifier: Apache-2.0
"""The daemon's directories and sockets: locked, private, and taken over from one that died."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from typing import TYPE_CHECKING

from orlop.errdefs import FailedPreconditionError

if TYPE_CHECKING:
    from orlop.containerd.config import Config


def prepare_directories(config: Config) -> int:
    """Make the state directories, mode 0700, and lock the root: the descriptor holds the lock.

    Raises FailedPreconditionError when another daemon has it.
    """
    for path in (config.root, config.state):
        os.makedirs(path, 0o711, exist_ok=True)
        os.chmod(path, 0o700)
    for path in (config.address, config.ttrpc):
        os.makedirs(os.path.dirname(path), 0o711, exist_ok=True)
    fd = os.open(os.path.join(config.root, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise FailedPreconditionError(f"root {config.root} is in use by another containerd") from None
    return fd


def listen(path: str) -> socket.socket:
    """A listening Unix socket, mode 0600, in place of a stale one. Raises FailedPreconditionError."""
    remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        sock.bind(path)
        sock.listen(128)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(mask)
    sock.setblocking(False)
    return sock


def remove_stale(path: str) -> None:
    """Remove a socket that nobody serves. Raises FailedPreconditionError if it is served or no socket."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FailedPreconditionError(f"address {path} exists and is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            unlink(path)
            return
    raise FailedPreconditionError(f"address {path} is served by another process")


def unlink(path: str) -> None:
    """Remove a file; one that is gone is no error."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
