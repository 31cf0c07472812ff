# SPDX-License-Identifier: Apache-2.0
"""Mounting: the classic calls, and the descriptor-based mount API of Linux 5.2 and later."""

import ctypes
import os

from orlop.unix._libc import NR, Path, cstring, syscall
from orlop.unix.tables import rows

# mount(2)
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_MANDLOCK = 64
MS_DIRSYNC = 128
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_SILENT = 32768
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_STRICTATIME = 1 << 24
MS_LAZYTIME = 1 << 25

# umount(2)
MNT_FORCE = 1
MNT_DETACH = 2
MNT_EXPIRE = 4
UMOUNT_NOFOLLOW = 8

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

# open_tree(2), move_mount(2)
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_SYMLINKS = 0x01
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_SYMLINKS = 0x10
MOVE_MOUNT_T_EMPTY_PATH = 0x40

# fsopen(2), fsmount(2), fsconfig(2), fspick(2)
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSPICK_CLOEXEC = 1
FSPICK_EMPTY_PATH = 8
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6
FSCONFIG_CMD_RECONFIGURE = 7

# mount_setattr(2)
MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MOUNT_ATTR_ATIME = 0x70
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x00100000
MOUNT_ATTR_NOSYMFOLLOW = 0x00200000

# Mount options of fstab as attributes of a mount: name -> (attributes to set, attributes to clear).
ATTRIBUTES: dict[str, tuple[int, int]] = {
    "ro": (MOUNT_ATTR_RDONLY, 0),
    "rw": (0, MOUNT_ATTR_RDONLY),
    "nosuid": (MOUNT_ATTR_NOSUID, 0),
    "suid": (0, MOUNT_ATTR_NOSUID),
    "nodev": (MOUNT_ATTR_NODEV, 0),
    "dev": (0, MOUNT_ATTR_NODEV),
    "noexec": (MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, MOUNT_ATTR_NOEXEC),
    "noatime": (MOUNT_ATTR_NOATIME, MOUNT_ATTR_ATIME),
    "atime": (0, MOUNT_ATTR_ATIME),
    "relatime": (0, MOUNT_ATTR_ATIME),
    "norelatime": (0, MOUNT_ATTR_ATIME),
    "strictatime": (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR_ATIME),
    "nostrictatime": (0, MOUNT_ATTR_ATIME),
    "nodiratime": (MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, MOUNT_ATTR_NODIRATIME),
    "nosymfollow": (MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, MOUNT_ATTR_NOSYMFOLLOW),
}
# Propagation by name; a leading r makes it recursive.
PROPAGATION: dict[str, int] = {
    "private": MS_PRIVATE,
    "shared": MS_SHARED,
    "slave": MS_SLAVE,
    "unbindable": MS_UNBINDABLE,
}
# Options that are flags of the filesystem, not of the mount: mount(2) takes a bit, fsconfig(2) the name.
SUPERBLOCK_FLAGS: dict[str, int] = {
    "sync": MS_SYNCHRONOUS,
    "dirsync": MS_DIRSYNC,
    "mand": MS_MANDLOCK,
    "lazytime": MS_LAZYTIME,
}


class MountAttr(ctypes.Structure):
    """struct mount_attr of mount_setattr(2)."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def mount(source: Path, target: Path, fstype: Path = "", flags: int = 0, data: Path = "") -> None:
    """mount(2)."""
    syscall(
        NR["mount"],
        cstring(source),
        cstring(target),
        cstring(fstype) if fstype else None,
        flags,
        cstring(data) if data else None,
        about=target,
    )


def umount2(target: Path, flags: int = 0) -> None:
    """umount2(2)."""
    syscall(NR["umount2"], cstring(target), flags, about=target)


def pivot_root(new_root: Path, put_old: Path) -> None:
    """pivot_root(2)."""
    syscall(NR["pivot_root"], cstring(new_root), cstring(put_old), about=new_root)


def fsopen(fstype: Path) -> int:
    """A new filesystem context for fsconfig(2)."""
    return syscall(NR["fsopen"], cstring(fstype), FSOPEN_CLOEXEC, about=fstype)


def fsconfig(fd: int, command: int, key: Path = "", value: Path = "", aux: int = 0) -> None:
    """fsconfig(2); string values are limited to 255 bytes by the kernel."""
    syscall(
        NR["fsconfig"],
        fd,
        command,
        cstring(key) if key else None,
        cstring(value) if command == FSCONFIG_SET_STRING else None,
        aux,
        about=key or None,
    )


def fsmount(fd: int, attributes: int = 0) -> int:
    """A detached mount of a created filesystem context; `attributes` are MOUNT_ATTR_*."""
    return syscall(NR["fsmount"], fd, FSMOUNT_CLOEXEC, attributes)


def fspick(dirfd: int, path: Path, flags: int = FSPICK_CLOEXEC) -> int:
    """A context to reconfigure the filesystem that is mounted at `path`."""
    return syscall(NR["fspick"], dirfd, cstring(path), flags | FSPICK_CLOEXEC, about=path)


def open_tree(dirfd: int, path: Path, flags: int = OPEN_TREE_CLONE) -> int:
    """open_tree(2): with OPEN_TREE_CLONE a detached bind mount, with AT_RECURSIVE of the whole tree."""
    return syscall(NR["open_tree"], dirfd, cstring(path), flags | OPEN_TREE_CLOEXEC, about=path)


def move_mount(from_fd: int, from_path: Path, to_fd: int, to_path: Path, flags: int) -> None:
    """move_mount(2)."""
    syscall(NR["move_mount"], from_fd, cstring(from_path), to_fd, cstring(to_path), flags, about=to_path)


def attach(mount_fd: int, target_fd: int) -> None:
    """Attach the detached mount `mount_fd` on exactly the object that `target_fd` refers to."""
    move_mount(mount_fd, b"", target_fd, b"", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)


def mount_setattr(
    dirfd: int,
    path: Path,
    flags: int = 0,
    *,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
) -> None:
    """mount_setattr(2); an empty path with AT_EMPTY_PATH acts on the mount of `dirfd`."""
    attributes = MountAttr(attr_set, attr_clr, propagation, userns_fd)
    address, size = ctypes.addressof(attributes), ctypes.sizeof(attributes)
    syscall(NR["mount_setattr"], dirfd, cstring(path), flags, address, size, about=path)


class MountOptions:
    """fstab options sorted by who interprets them; `parse_options` makes one."""

    __slots__ = ("attr_clr", "attr_set", "bind", "data", "propagation", "rec_clr", "rec_set", "recursive")

    def __init__(self) -> None:
        self.bind = False
        self.recursive = False
        self.attr_set = 0  # MOUNT_ATTR_* of this mount
        self.attr_clr = 0
        self.rec_set = 0  # MOUNT_ATTR_* of this mount and all below it
        self.rec_clr = 0
        self.propagation: list[tuple[int, int]] = []  # (MS_SHARED …, 0 or AT_RECURSIVE), in order
        self.data: list[str] = []  # for the filesystem


# Options that say what is the default anyway, or what the new mount API has no counterpart for.
_NO_EFFECT = frozenset(
    ("defaults", "async", "loud", "silent", "nomand", "noiversion", "iversion", "nolazytime", "remount", "")
)


def parse_options(options: list[str] | tuple[str, ...]) -> MountOptions:
    """Sort mount options; of two that contradict each other the later one wins."""
    parsed = MountOptions()
    for option in options:
        if option in ATTRIBUTES:
            attr_set, attr_clr = ATTRIBUTES[option]
            parsed.attr_set = parsed.attr_set & ~attr_clr | attr_set
            parsed.attr_clr |= attr_clr
        elif option in PROPAGATION:
            parsed.propagation.append((PROPAGATION[option], 0))
        elif option in ("bind", "rbind"):
            parsed.bind, parsed.recursive = True, parsed.recursive or option == "rbind"
        elif option[:1] == "r" and option[1:] in ATTRIBUTES:
            attr_set, attr_clr = ATTRIBUTES[option[1:]]
            parsed.rec_set = parsed.rec_set & ~attr_clr | attr_set
            parsed.rec_clr |= attr_clr
        elif option[:1] == "r" and option[1:] in PROPAGATION:
            parsed.propagation.append((PROPAGATION[option[1:]], AT_RECURSIVE))
        elif option not in _NO_EFFECT:
            parsed.data.append(option)
    return parsed


def detached_mount(fstype: str, source: str, options: list[str] | tuple[str, ...] = ()) -> int:
    """A detached mount (attach it with `attach`) from what fstab would say: type, source, options.

    `bind` and `rbind` among the options (or as the type) clone the tree at `source`; `loop` makes a block device
    of the file `source`, which goes with the mount. Attributes (`ro`, `nosuid`
    …), their recursive forms (`rro` …) and propagation are applied; everything else goes to the filesystem.
    """
    if "loop" in options:
        from orlop.unix.loop import loop_mount

        return loop_mount(fstype, source, [option for option in options if option != "loop"])
    parsed = parse_options(options)
    if parsed.bind or fstype in ("bind", "rbind"):
        recursive = parsed.recursive or fstype == "rbind"
        fd = open_tree(AT_FDCWD, source, OPEN_TREE_CLONE | (AT_RECURSIVE if recursive else 0))
    else:
        if parsed.attr_set & MOUNT_ATTR_RDONLY and source.startswith("/"):
            parsed.data.append("ro")  # a block device may itself be read-only
        fd = new_filesystem(fstype, source, parsed.data)
    try:
        change_mount(fd, parsed)
    except BaseException:
        os.close(fd)
        raise
    return fd


def change_mount(fd: int, options: MountOptions) -> None:
    """Apply the attributes and the propagation of `options` to the mount that `fd` is the root of."""
    if options.attr_set or options.attr_clr:
        mount_setattr(fd, b"", AT_EMPTY_PATH, attr_set=options.attr_set, attr_clr=options.attr_clr)
    if options.rec_set or options.rec_clr:
        mount_setattr(fd, b"", AT_EMPTY_PATH | AT_RECURSIVE, attr_set=options.rec_set, attr_clr=options.rec_clr)
    for propagation, recursive in options.propagation:
        mount_setattr(fd, b"", AT_EMPTY_PATH | recursive, propagation=propagation)


def new_filesystem(fstype: str, source: str, data: list[str] | tuple[str, ...] = (), attributes: int = 0) -> int:
    """A detached mount of a filesystem made with `data` (its own options, `key=value` or `key`).

    Raises OSError whose text carries what the filesystem said about it, where it said something.
    """
    if fstype == "overlay" and (fd := _old_overlay(data, attributes)) is not None:
        return fd
    context = fsopen(fstype)
    try:
        try:
            if source:
                _set_string(context, "source", source)
            for option in data:
                key, separator, value = option.partition("=")
                if fstype == "overlay" and key == "lowerdir":
                    _set_lower_layers(context, value)
                elif separator:
                    # Quotes keep an SELinux label's commas from parting options; here nothing is parted.
                    _set_string(context, key, value.strip('"') if key.endswith("context") else value)
                else:
                    fsconfig(context, FSCONFIG_SET_FLAG, key)
            fsconfig(context, FSCONFIG_CMD_CREATE)
        except OSError as error:
            said = _context_log(context)
            if said:
                raise OSError(error.errno, f"{error.strerror}: {said}", fstype) from None
            raise
        return fsmount(context, attributes)
    finally:
        os.close(context)


def _old_overlay(data: list[str] | tuple[str, ...], attributes: int) -> int | None:
    """The overlay on a kernel that cannot be told its layers one by one; None on a newer one."""
    from orlop.unix.overlay import detached_overlay, layers_one_by_one

    if layers_one_by_one():
        return None
    lower = next((option.removeprefix("lowerdir=") for option in data if option.startswith("lowerdir=")), "")
    fd = detached_overlay(lower_layers(lower), [option for option in data if not option.startswith("lowerdir=")])
    if attributes:
        try:
            mount_setattr(fd, b"", AT_EMPTY_PATH, attr_set=attributes)
        except BaseException:
            os.close(fd)
            raise
    return fd


def _set_string(context: int, key: str, value: str) -> None:
    if len(os.fsencode(value)) < 256:
        fsconfig(context, FSCONFIG_SET_STRING, key, value)
        return
    # Too long for the kernel's copy of the string: a path can be given as a descriptor (Linux 6.13 for overlay).
    fd = os.open(value, os.O_PATH | os.O_CLOEXEC)
    try:
        fsconfig(context, FSCONFIG_SET_FD, key, aux=fd)
    finally:
        os.close(fd)


def _set_lower_layers(context: int, value: str) -> None:
    """Layers one by one (Linux 6.5): the joined list would be cut at 255 bytes. `::` starts data-only layers."""
    layers, *data_layers = _unescaped_split(value, "::")
    for key, group in [("lowerdir+", layers), *(("datadir+", layer) for layer in data_layers)]:
        for path in _unescaped_split(group, ":"):
            _set_string(context, key, path.replace("\\:", ":").replace("\\\\", "\\"))


def lower_layers(value: str) -> list[str]:
    """The paths of `lowerdir`, the topmost first."""
    return [path.replace("\\:", ":").replace("\\\\", "\\") for path in _unescaped_split(value, ":")]


def _unescaped_split(value: str, separator: str) -> list[str]:
    parts: list[str] = []
    current = ""
    index = 0
    while index < len(value):
        if value[index] == "\\" and index + 1 < len(value):
            current += value[index : index + 2]
            index += 2
        elif value.startswith(separator, index):
            parts.append(current)
            current = ""
            index += len(separator)
        else:
            current += value[index]
            index += 1
    return [*parts, current]


def _context_log(context: int) -> str:
    """What the filesystem wrote to its context's log: lines `e message`, `w message`, `i message`."""
    lines: list[str] = []
    while True:
        try:
            lines.append(os.read(context, 1024).decode(errors="replace").strip())
        except OSError:
            # ENODATA ends the log.
            return "; ".join(line[2:] for line in lines if line.startswith(("e ", "w ")))


def mounts_on(path: str) -> int:
    """How many mounts lie on `path` (an absolute one without links), one over the other."""
    escaped = path.replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011").replace("\n", "\\012")
    return sum(line.split(" ")[4] == escaped for line in rows("/proc/self/mountinfo"))
