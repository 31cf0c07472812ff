# SPDX-License-Identifier: Apache-2.0
"""What has to be mounted and made in a root filesystem, computed from the spec without touching the system."""

import os
import stat

import msgspec

from orlop.errdefs import InvalidArgumentError
from orlop.libcontainer.journal import warn
from orlop.oci.runtime import Device, IDMapping, Mount, Spec
from orlop.unix import mount as mnt

_DEVICE_TYPES = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}

# Every Linux container has these (config-linux.md, "Default Devices").
_DEFAULT_DEVICES = (
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
)

# Files below /proc that may be covered one by one (lxcfs does); everything else there is the kernel's.
_COVERABLE = frozenset(
    (
        "/proc/cpuinfo",
        "/proc/diskstats",
        "/proc/meminfo",
        "/proc/stat",
        "/proc/swaps",
        "/proc/uptime",
        "/proc/loadavg",
        "/proc/slabinfo",
        "/proc/sys/kernel/ns_last_pid",
        "/proc/sys/crypto/fips_enabled",
    )
)


class MountStep(msgspec.Struct):
    """One mount: `bind` clones the tree at `source`, anything else makes a filesystem of type `fstype`."""

    destination: str
    fstype: str
    source: str
    options: mnt.MountOptions
    bind: bool = False
    copy_up: bool = False  # fill a new tmpfs with what it covers
    seal: bool = False  # read-only, but only once everything has been made in it
    covers_proc: bool = False  # may go on a file below /proc
    idmap: str = ""  # idmap, ridmap (recursively), or none
    uid_mappings: list[IDMapping] = []
    gid_mappings: list[IDMapping] = []
    label: str = ""  # SELinux context to be set on the root of the new filesystem
    tree: int = -1  # a clone that the parent made because the child's user cannot reach the source


class DeviceStep(msgspec.Struct):
    """One node: `mode` holds type and permissions."""

    path: str
    mode: int
    device: int
    uid: int
    gid: int


class RootfsPlan(msgspec.Struct):
    """The steps in their order, and what is done to the whole afterwards."""

    path: str
    mounts: list[MountStep]
    devices: list[DeviceStep]
    makes_dev: bool
    read_only: bool
    propagation: int  # of `/` before the work and after it: MS_* with 0 or MS_REC
    masked: list[str]
    read_only_paths: list[str]
    no_pivot: bool
    label: str = ""
    shares_mounts: bool = False  # the caller's mount namespace: everything is mounted there, and chroot(2) is all


def plan_rootfs(
    spec: Spec, bundle: str, cgroup_paths: dict[str, str], *, no_pivot: bool = False, label: str = ""
) -> RootfsPlan:
    """The plan for a validated spec.

    `cgroup_paths` are the control groups by controller ("" on version 2), `label` is the SELinux context of new
    filesystems.
    """
    assert spec.root is not None and spec.linux is not None
    mounts = plan_mounts(spec.mounts, cgroup_paths)
    makes_dev = not any(step.bind and step.destination == "/dev" for step in mounts)
    for step in mounts:
        if step.fstype in ("tmpfs", "devpts"):
            step.options.data += context_of(label)
        elif step.fstype == "mqueue":
            step.label = label  # its superblock takes no context
    return RootfsPlan(
        path=os.path.join(bundle, spec.root.path),
        mounts=mounts,
        devices=_devices(spec.linux.devices) if makes_dev else [],
        makes_dev=makes_dev,
        read_only=spec.root.readonly,
        propagation=_propagation(spec.linux.rootfs_propagation),
        masked=spec.linux.masked_paths,
        read_only_paths=spec.linux.readonly_paths,
        no_pivot=no_pivot,
        label=label,
        shares_mounts=all(namespace.type != "mount" for namespace in spec.linux.namespaces),
    )


def context_of(label: str) -> list[str]:
    """The mount option that gives all files of a new filesystem an SELinux label, if there is one."""
    return [f"context={label}"] if label else []


def plan_mounts(entries: list[Mount], cgroup_paths: dict[str, str]) -> list[MountStep]:
    """The steps for some mounts, in order. Raises InvalidArgumentError."""
    mounts: list[MountStep] = []
    for entry in entries:
        destination = _destination(entry)
        mounts += _cgroup_steps(entry, destination, cgroup_paths) if entry.type == "cgroup" else [_step(entry)]
    return mounts


def _destination(entry: Mount) -> str:
    if "\0" in entry.destination + entry.source:
        raise InvalidArgumentError(f"mounts: null byte in {entry.destination!r}")
    destination = os.path.normpath("/" + entry.destination.lstrip("/"))
    if destination == "/":
        raise InvalidArgumentError(f'mounts: "{entry.destination}" is on the top of the root filesystem')
    return destination


def _step(entry: Mount) -> MountStep:
    destination = _destination(entry)
    if entry.type == "overlay":
        __import__("orlop.unix.overlay")  # the child, which may need it, cannot import any more
    idmap = _idmap(entry)
    options = mnt.parse_options([o for o in entry.options if o not in ("tmpcopyup", "idmap", "ridmap")])
    bind = options.bind or entry.type in ("bind", "rbind")
    if entry.type == "rbind":
        options.recursive = True
    if bind:
        # The filesystem's own flags cannot be changed through a bind mount; mount(8) ignores them there too.
        options.data = [option for option in options.data if option not in mnt.SUPERBLOCK_FLAGS]
    if bind and options.data:
        # As mount(8) does, and as the runtimes of OCI's validation suite are expected to.
        warn(f"mounts: {destination}: a bind mount takes no filesystem options: ignoring {','.join(options.data)}")
        options.data = []
    if idmap and not bind:
        raise InvalidArgumentError(f"mounts: {destination}: id-mapped mounts are only supported for bind-mounts")
    if not bind and not entry.type:
        raise InvalidArgumentError(f"mounts: {destination}: no type, and not a bind mount")
    covers_proc = destination in _COVERABLE
    if destination.startswith("/proc/") and not covers_proc:
        raise InvalidArgumentError(f'mounts: "{destination}" cannot be mounted because it is inside /proc')
    if destination == "/proc" and not bind and entry.type != "proc":
        raise InvalidArgumentError('mounts: "/proc" cannot be mounted because it is not of type proc')
    step = MountStep(
        destination=destination,
        fstype="bind" if bind else entry.type,
        source=entry.source or entry.type,
        options=options,
        bind=bind,
        copy_up="tmpcopyup" in entry.options,
        covers_proc=covers_proc,
        idmap=idmap,
        uid_mappings=entry.uid_mappings,
        gid_mappings=entry.gid_mappings,
    )
    return _sealed_later(step)


def _idmap(entry: Mount) -> str:
    if "ridmap" in entry.options:
        return "ridmap"
    if "idmap" in entry.options or entry.uid_mappings or entry.gid_mappings:
        return "idmap"
    return ""


def _sealed_later(step: MountStep) -> MountStep:
    """A read-only tmpfs, and /dev, stay writable until the nodes and mount points in them are made."""
    writable_first = step.fstype == "tmpfs" or step.destination == "/dev"
    if not step.bind and writable_first and step.options.attr_set & mnt.MOUNT_ATTR_RDONLY:
        step.options.attr_set &= ~mnt.MOUNT_ATTR_RDONLY
        step.seal = True
    return step


def _cgroup_steps(entry: Mount, destination: str, paths: dict[str, str]) -> list[MountStep]:
    """Type `cgroup`: the unified hierarchy, or on version 1 a tmpfs with the container's group of each one."""
    options = mnt.parse_options(entry.options)
    options.data = []
    if set(paths) == {""}:
        return [MountStep(destination=destination, fstype="cgroup2", source="cgroup", options=options)]
    directory = mnt.parse_options(["nosuid", "noexec", "nodev"])
    directory.data = ["mode=755"]
    step = MountStep(
        destination=destination,
        fstype="tmpfs",
        source="cgroup",
        options=directory,
        seal=bool(options.attr_set & mnt.MOUNT_ATTR_RDONLY),
    )
    options.recursive = True
    options.bind = True
    by_hierarchy = {hierarchy_name(controller, path): path for controller, path in paths.items()}
    return [
        step,
        *(
            MountStep(destination=f"{destination}/{name}", fstype="bind", source=path, options=options, bind=True)
            for name, path in by_hierarchy.items()
        ),
    ]


def hierarchy_name(controller: str, path: str) -> str:
    """The directory under /sys/fs/cgroup that a version 1 hierarchy is mounted on, as `cpu,cpuacct`."""
    prefix = "/sys/fs/cgroup/"
    if path.startswith(prefix):
        return path[len(prefix) :].split("/", 1)[0]
    return controller.removeprefix("name=") or "unified"


def _devices(extra: list[Device]) -> list[DeviceStep]:
    steps = {
        path: DeviceStep(path, stat.S_IFCHR | 0o666, os.makedev(major, minor), 0, 0)
        for path, major, minor in _DEFAULT_DEVICES
    }
    for device in extra:
        kind = _DEVICE_TYPES.get(device.type)
        if kind is None:
            raise InvalidArgumentError(
                f'linux.devices: {device.path}: type is "{device.type}", expected c, b, u or p'
            )
        # MINORBITS of linux/kdev_t.h; 2**32-1 as an owner means "leave as it is".
        _check_device(device, "major", device.major, 2**12 - 1)
        _check_device(device, "minor", device.minor, 2**20 - 1)
        _check_device(device, "uid", device.uid, 2**32 - 2)
        _check_device(device, "gid", device.gid, 2**32 - 2)
        mode = 0o666 if device.file_mode is None else device.file_mode & 0o7777
        number = 0 if device.type == "p" else os.makedev(device.major, device.minor)
        steps[device.path] = DeviceStep(device.path, kind | mode, number, device.uid or 0, device.gid or 0)
    return list(steps.values())


def _check_device(device: Device, name: str, value: int | None, most: int) -> None:
    if value is not None and not 0 <= value <= most:
        raise InvalidArgumentError(f"linux.devices: {device.path}: {name} is {value}, expected 0 to {most}")


def _propagation(name: str) -> int:
    if not name:
        return 0
    recursive = name[:1] == "r" and name[1:] in mnt.PROPAGATION
    flag = mnt.PROPAGATION.get(name[1:] if recursive else name)
    if flag is None:
        raise InvalidArgumentError(
            f'linux.rootfsPropagation is "{name}", expected private, shared, slave, unbindable or r… of these'
        )
    return flag | (mnt.MS_REC if recursive else 0)
