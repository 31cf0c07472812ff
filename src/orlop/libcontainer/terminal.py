# SPDX-License-Identifier: Apache-2.0
"""A container's pseudo-terminal, allocated from the container's own devpts."""

import fcntl
import os
import struct
import termios

from orlop.errdefs import InvalidArgumentError
from orlop.libcontainer.errors import explain
from orlop.libcontainer.rootfs.resolve import open_in_root
from orlop.oci.runtime import Box
from orlop.unix.fs import DEVPTS_SUPER_MAGIC, filesystem_type

_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441


def open_terminal(root: int, size: Box | None) -> tuple[int, int]:
    """Both ends of a new terminal (master, slave) from the devpts of the root directory `root`.

    The slave is had from the master itself, so that no path can be swapped for another. Raises
    InvalidArgumentError if there is no devpts.
    """
    master = _open_ptmx(root)
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    if size is not None and size.height and size.width:
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", size.height, size.width, 0, 0))
    return master, slave


def _open_ptmx(root: int) -> int:
    flags = os.O_RDWR | os.O_NOCTTY
    try:
        master = open_in_root(root, "dev/pts/ptmx", flags)
    except FileNotFoundError:
        try:
            master = open_in_root(root, "dev/ptmx", flags)
        except OSError as error:
            raise InvalidArgumentError(f"no terminal: open {explain(error)}") from error
    status = os.fstat(master)
    on_devpts = filesystem_type(master) == DEVPTS_SUPER_MAGIC
    if (os.major(status.st_rdev), os.minor(status.st_rdev)) != (5, 2) or not on_devpts:
        os.close(master)
        raise InvalidArgumentError("no terminal: /dev/pts/ptmx of the container is not a pseudo-terminal master")
    return master


def take_terminal(slave: int) -> None:
    """Make the terminal the controlling one of this session and its standard streams."""
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for fd in (0, 1, 2):
        os.dup2(slave, fd, inheritable=True)
