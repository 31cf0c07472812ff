# SPDX-License-Identifier: Apache-2.0
"""What Docker and containerd give a container when nobody says otherwise: facts, and pure functions over them."""

from collections.abc import Iterable

from orlop.oci.runtime import (
    Capabilities,
    DeviceCgroup,
    Linux,
    Mount,
    Namespace,
    Process,
    Resources,
    Rlimit,
    Root,
    Spec,
)

OCI_VERSION = "1.0.2"
"""The oldest version that has all that is used here: runtimes as old as crun 1.8 refuse any from 1.1 on."""
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

DEFAULT_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)

_NAMES = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
ALL_CAPABILITIES = tuple(f"CAP_{name}" for name in _NAMES.split())
"""By number, capabilities(7)."""

_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)

READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_PROC = ("/proc", "proc", "proc", ["nosuid", "noexec", "nodev"])
_DEV = ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"])
_PTS = (
    "/dev/pts",
    "devpts",
    "devpts",
    ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
)
_SYS = ("/sys", "sysfs", "sysfs", ["nosuid", "noexec", "nodev", "ro"])
_CGROUP = ("/sys/fs/cgroup", "cgroup", "cgroup", ["ro", "nosuid", "noexec", "nodev"])
_MQUEUE = ("/dev/mqueue", "mqueue", "mqueue", ["nosuid", "noexec", "nodev"])
_SHM = ("/dev/shm", "tmpfs", "shm", ["nosuid", "noexec", "nodev", "mode=1777"])
_RUN = ("/run", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"])


def _mounts(rows: Iterable[tuple[str, str, str, list[str]]]) -> list[Mount]:
    return [
        Mount(destination=destination, type=kind, source=source, options=list(options))
        for destination, kind, source, options in rows
    ]


def docker_mounts() -> list[Mount]:
    """The mounts of every Docker container, before the user's."""
    return _mounts((_PROC, _DEV, _PTS, _SYS, _CGROUP, _MQUEUE, _SHM))


def containerd_mounts() -> list[Mount]:
    """The mounts of containerd's default specification."""
    shm = (*_SHM[:3], [*_SHM[3], "size=65536k"])
    return _mounts((_PROC, _DEV, _PTS, shm, _MQUEUE, _SYS, _RUN))


def masked_paths(throttled_cpus: Iterable[int] = ()) -> list[str]:
    """Docker's masked paths; `throttled_cpus` are those with a thermal_throttle directory in /sys.

    /proc/interrupts, powercap and thermal_throttle tell what the rest of the machine does.
    """
    throttles = [f"/sys/devices/system/cpu/cpu{cpu}/thermal_throttle" for cpu in throttled_cpus]
    return sorted([*_MASKED, "/proc/interrupts"]) + throttles


def containerd_masked_paths() -> list[str]:
    """containerd's masked paths."""
    return list(_MASKED)


def _allow(major: int, minor: int | None, allow: bool = True) -> DeviceCgroup:
    return DeviceCgroup(allow=allow, type="c", major=major, minor=minor, access="rwm")


def docker_device_rules() -> list[DeviceCgroup]:
    """Device access of a Docker container: null, zero, random, urandom, tty and console; not fuse."""
    allowed = ((1, 5), (1, 3), (1, 9), (1, 8), (5, 0), (5, 1))
    rules = [DeviceCgroup(allow=False, access="rwm"), *(_allow(major, minor) for major, minor in allowed)]
    return [*rules, _allow(10, 229, allow=False)]


def containerd_device_rules() -> list[DeviceCgroup]:
    """Device access of a container by containerd's default options."""
    allowed = ((1, 3), (1, 8), (1, 7), (5, 0), (1, 5), (1, 9), (5, 1), (136, None), (5, 2))
    return [DeviceCgroup(allow=False, access="rwm"), *(_allow(major, minor) for major, minor in allowed)]


def capability_sets(names: Iterable[str]) -> Capabilities:
    """Bounding, permitted and effective sets; inheritable and ambient ones stay empty (CVE-2022-24769)."""
    names = list(names)
    return Capabilities(bounding=names, permitted=list(names), effective=list(names))


def docker_default_spec() -> Spec:
    """The specification that Docker starts from: no arguments, user, limits or seccomp yet."""
    kinds = ("mount", "network", "uts", "pid", "ipc")
    return Spec(
        oci_version=OCI_VERSION,
        process=Process(cwd="/", capabilities=capability_sets(DEFAULT_CAPABILITIES)),
        root=Root(path="rootfs"),
        mounts=docker_mounts(),
        linux=Linux(
            masked_paths=masked_paths(),
            readonly_paths=list(READONLY_PATHS),
            namespaces=[Namespace(type=kind) for kind in kinds],
            resources=Resources(devices=docker_device_rules()),
        ),
    )


def containerd_default_spec(container_id: str, namespace: str) -> Spec:
    """What containerd's client generates without options, with its default devices (as ctr adds them)."""
    kinds = ("pid", "ipc", "uts", "mount", "network")
    return Spec(
        oci_version=OCI_VERSION,
        process=Process(
            cwd="/",
            no_new_privileges=True,
            capabilities=capability_sets(DEFAULT_CAPABILITIES),
            rlimits=[Rlimit(type="RLIMIT_NOFILE", hard=1024, soft=1024)],
        ),
        root=Root(path="rootfs"),
        mounts=containerd_mounts(),
        linux=Linux(
            masked_paths=containerd_masked_paths(),
            readonly_paths=list(READONLY_PATHS),
            cgroups_path=f"/{namespace}/{container_id}",
            resources=Resources(devices=containerd_device_rules()),
            namespaces=[Namespace(type=kind) for kind in kinds],
        ),
    )
