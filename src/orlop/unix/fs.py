# SPDX-License-Identifier: Apache-2.0
"""Files: resolution that stays inside a directory, and the filesystem behind a descriptor."""

import ctypes
import os

from orlop.unix._libc import NR, Path, cstring, libc, oserror, syscall

# openat2(2)
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
RESOLVE_CACHED = 0x20

# statfs(2)
PROC_SUPER_MAGIC = 0x9FA0
SYSFS_MAGIC = 0x62656572
TMPFS_MAGIC = 0x01021994
DEVPTS_SUPER_MAGIC = 0x1CD1
CGROUP_SUPER_MAGIC = 0x27E0EB
CGROUP2_SUPER_MAGIC = 0x63677270
OVERLAYFS_SUPER_MAGIC = 0x794C7630
NSFS_MAGIC = 0x6E736673
BPF_FS_MAGIC = 0xCAFE4A11

# memfd_create(2), fcntl(2)
MFD_CLOEXEC = 1
MFD_ALLOW_SEALING = 2
MFD_EXEC = 16
F_ADD_SEALS = 1033
F_SEAL_SEAL = 1
F_SEAL_SHRINK = 2
F_SEAL_GROW = 4
F_SEAL_WRITE = 8


class OpenHow(ctypes.Structure):
    """struct open_how of openat2(2)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _Statfs(ctypes.Structure):
    """struct statfs of 64-bit Linux; only the first word matters here."""

    _fields_ = (("f_type", ctypes.c_long), ("rest", ctypes.c_long * 31))


AT_FDCWD = -100
AT_EACCESS = 0x200


def faccessat2(path: Path, mode: int) -> None:
    """faccessat2(2) for the effective ids: as os.access, but the error tells why not. Raises OSError."""
    syscall(NR["faccessat2"], AT_FDCWD, cstring(path), mode, AT_EACCESS, about=path)


def openat2(dirfd: int, path: Path, flags: int, resolve: int, mode: int = 0) -> int:
    """openat2(2), close-on-exec. EAGAIN, which a racing rename causes, is tried again a few times."""
    how = OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    raw, address, size = cstring(path), ctypes.addressof(how), ctypes.sizeof(how)
    for _ in range(127):
        try:
            return syscall(NR["openat2"], dirfd, raw, address, size, about=path)
        except BlockingIOError:
            continue
    raise oserror(path)


def filesystem_type(fd: int) -> int:
    """f_type of fstatfs(2): the magic number of the filesystem that `fd` lives on."""
    buffer = _Statfs()
    if libc.fstatfs(fd, ctypes.byref(buffer)) == -1:
        raise oserror()
    return int(buffer.f_type)


def mknodat(dirfd: int, name: Path, mode: int, device: int = 0) -> None:
    """mknodat(2); `mode` holds the file type, the umask applies."""
    os.mknod(name, mode, device, dir_fd=dirfd)


def memfd_create(name: Path, flags: int = MFD_CLOEXEC) -> int:
    """memfd_create(2)."""
    return syscall(NR["memfd_create"], cstring(name), flags, about=name)


def syncfs(fd: int) -> None:
    """syncfs(2): bring the filesystem that `fd` lives on to the disk; blocks."""
    if libc.syncfs(fd) == -1:
        raise oserror()
