# SPDX-License-Identifier: Apache-2.0
"""Project quotas: how much the files below a directory may take, on ext4 (`prjquota`) and XFS (`pquota`).

A project is a number that inodes bear; new ones take it from their directory. Sources: quotactl(2), xfsctl(3),
linux/fs.h (struct fsxattr), linux/quota.h (struct if_dqblk).
"""

import fcntl
import os
import struct

from orlop.unix._libc import NR, syscall

_FS_IOC_FSGETXATTR = 0x801C581F
_FS_IOC_FSSETXATTR = 0x401C5820
_FSXATTR = struct.Struct("=5I8x")  # xflags, extsize, nextents, projid, cowextsize, padding
_FS_XFLAG_PROJINHERIT = 0x200

_PRJQUOTA = 2
_Q_GETQUOTA = 0x800007
_Q_SETQUOTA = 0x800008
_DQBLK = struct.Struct("=8QI4x")  # hard and soft limit of blocks, space, hard and soft limit of inodes, …, valid
_QIF_BLIMITS = 1
_BLOCK = 1024  # bytes; the unit of limits


def supported(directory: str) -> bool:
    """Whether the file system of `directory` keeps quotas of projects; raises OSError if it cannot be opened."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _quotactl(fd, _Q_GETQUOTA, 0, bytes(_DQBLK.size))
    except OSError:  # ESRCH, ENOSYS, EOPNOTSUPP, EPERM: each kind of file system has its own
        return False
    finally:
        os.close(fd)
    return True


def project_of(directory: str) -> int:
    """The project that a directory belongs to; 0 where there is none, no directory, or no such thing."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        project: int = _FSXATTR.unpack(fcntl.ioctl(fd, _FS_IOC_FSGETXATTR, bytes(_FSXATTR.size)))[3]
    except OSError:  # ENOTTY, EOPNOTSUPP: a file system without projects
        return 0
    finally:
        os.close(fd)
    return project


def limit_tree(directory: str, project: int, size: int) -> None:
    """Give an empty directory, and all that will be in it, to a project that may take `size` bytes.

    Raises OSError.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags, extent, extents, _, cow = _FSXATTR.unpack(fcntl.ioctl(fd, _FS_IOC_FSGETXATTR, bytes(_FSXATTR.size)))
        wanted = _FSXATTR.pack(flags | _FS_XFLAG_PROJINHERIT, extent, extents, project, cow)
        fcntl.ioctl(fd, _FS_IOC_FSSETXATTR, wanted)
        _set_limit(fd, project, -(-size // _BLOCK))
    finally:
        os.close(fd)


def drop_limit(directory: str, project: int) -> None:
    """Let a project of the file system of `directory` take what it likes; raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _set_limit(fd, project, 0)
    finally:
        os.close(fd)


def _set_limit(fd: int, project: int, blocks: int) -> None:
    _quotactl(fd, _Q_SETQUOTA, project, _DQBLK.pack(blocks, blocks, 0, 0, 0, 0, 0, 0, _QIF_BLIMITS))


def _quotactl(fd: int, command: int, project: int, block: bytes) -> None:
    syscall(NR["quotactl_fd"], fd, command << 8 | _PRJQUOTA, project, block)
