# SPDX-License-Identifier: Apache-2.0
"""The facts about this host that a container's specification depends on, read once a daemon."""

import os

import msgspec

from orlop.oci import apparmor
from orlop.oci.defaults import ALL_CAPABILITIES
from orlop.unix.tables import rows

_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "riscv64": "riscv64",
    "s390x": "s390x",
    "ppc64le": "ppc64le",
}


class Host(msgspec.Struct, kw_only=True, frozen=True):
    """What kernel and cgroups support. The defaults are a modern host on which everything works (for tests)."""

    cgroup_v2: bool = True
    kernel: tuple[int, int] = (6, 1)
    architecture: str = "amd64"
    """Go's name of it."""
    cpus: int = 1
    """CPUs that are online."""
    capabilities: tuple[str, ...] = ALL_CAPABILITIES
    """Those this daemon can give: known to the kernel and in its own bounding set."""

    memory_limit: bool = True
    swap_limit: bool = True
    memory_reservation: bool = True
    memory_swappiness: bool = False
    oom_kill_disable: bool = False
    pids_limit: bool = True
    cpu_shares: bool = True
    cpu_cfs: bool = True
    cpu_realtime: bool = False
    cpuset: bool = True
    cpuset_cpus: str = "0"
    """As a list, `0-3,7`."""
    cpuset_mems: str = "0"
    blkio_weight: bool = True
    blkio_weight_device: bool = True
    blkio_throttle: bool = True

    seccomp: bool = True
    apparmor: bool = False
    apparmor_default: str = ""
    """The profile for containers that is loaded (docker-default), if any."""
    cgroup_namespaces: bool = True
    recursive_readonly: bool = True
    """mount_setattr(2), Linux 5.12."""
    ping_group_range: bool = True
    unprivileged_port_start: bool = True
    ipv4_forwarding: bool = True
    throttled_cpus: tuple[int, ...] = ()
    """CPUs whose thermal_throttle directory has to be masked."""

    @classmethod
    def probe(cls) -> "Host":
        """Read the facts of the running kernel."""
        uname = os.uname()
        facts: dict[str, object] = {
            "kernel": _version(uname.release),
            "architecture": _ARCHITECTURES.get(uname.machine, uname.machine),
            "cpus": os.cpu_count() or 1,
            "capabilities": _own_capabilities(),
            "seccomp": os.path.exists("/proc/sys/kernel/seccomp/actions_avail"),
            "cgroup_namespaces": os.path.exists("/proc/self/ns/cgroup"),
            "recursive_readonly": _version(uname.release) >= (5, 12),
            "ping_group_range": os.path.exists("/proc/sys/net/ipv4/ping_group_range"),
            "unprivileged_port_start": os.path.exists("/proc/sys/net/ipv4/ip_unprivileged_port_start"),
            "ipv4_forwarding": _read("/proc/sys/net/ipv4/ip_forward") == "1",
            "throttled_cpus": _throttled_cpus(),
        }
        facts["apparmor"] = os.path.exists(apparmor.PROFILES)
        facts["apparmor_default"] = (
            apparmor.DEFAULT_PROFILE if apparmor.is_loaded(apparmor.DEFAULT_PROFILE) else ""
        )
        unified = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
        return cls(cgroup_v2=unified, **facts, **(_facts_v2() if unified else _facts_v1()))  # type: ignore[arg-type]

    def warnings(self) -> list[str]:
        """What `docker info` warns of."""
        lacking = (
            (self.memory_limit, "No memory limit support"),
            (self.swap_limit, "No swap limit support"),
            (self.oom_kill_disable or self.cgroup_v2, "No oom kill disable support"),
            (self.cpu_cfs, "No cpu cfs quota support"),
            (self.cpu_cfs, "No cpu cfs period support"),
            (self.cpu_shares, "No cpu shares support"),
            (self.cpuset, "No cpuset support"),
            (self.blkio_weight or not self.cgroup_v2, "No io.weight support"),
            (self.ipv4_forwarding, "IPv4 forwarding is disabled"),
        )
        return [f"WARNING: {text}" for present, text in lacking if not present]


def _facts_v2() -> dict[str, object]:
    root = "/sys/fs/cgroup"
    controllers = _read(f"{root}/cgroup.controllers").split()
    own = next((line[3:] for line in _read("/proc/self/cgroup").splitlines() if line.startswith("0::")), "/")
    return {
        "memory_limit": "memory" in controllers,
        "swap_limit": own == "/" or os.path.exists(f"{root}{own}/memory.swap.max"),
        "memory_reservation": "memory" in controllers,
        "pids_limit": "pids" in controllers,
        "cpu_shares": "cpu" in controllers,
        "cpu_cfs": "cpu" in controllers,
        "cpuset": "cpuset" in controllers,
        "cpuset_cpus": _read(f"{root}/cpuset.cpus.effective"),
        "cpuset_mems": _read(f"{root}/cpuset.mems.effective"),
        **dict.fromkeys(("blkio_weight", "blkio_weight_device", "blkio_throttle"), "io" in controllers),
    }


def _facts_v1() -> dict[str, object]:
    mounts = _mounts_v1()

    def has(controller: str, *files: str) -> bool:
        return controller in mounts and any(os.path.exists(f"{mounts[controller]}/{file}") for file in files)

    cpuset = mounts.get("cpuset", "/nonexistent")
    return {
        "memory_limit": "memory" in mounts,
        "swap_limit": has("memory", "memory.memsw.limit_in_bytes"),
        "memory_reservation": has("memory", "memory.soft_limit_in_bytes"),
        "memory_swappiness": has("memory", "memory.swappiness"),
        "oom_kill_disable": has("memory", "memory.oom_control"),
        "pids_limit": "pids" in mounts,
        "cpu_shares": has("cpu", "cpu.shares"),
        "cpu_cfs": has("cpu", "cpu.cfs_quota_us"),
        "cpu_realtime": has("cpu", "cpu.rt_period_us"),
        "cpuset": "cpuset" in mounts,
        "cpuset_cpus": _read(f"{cpuset}/cpuset.cpus"),
        "cpuset_mems": _read(f"{cpuset}/cpuset.mems"),
        "blkio_weight": has("blkio", "blkio.weight", "blkio.bfq.weight"),
        "blkio_weight_device": has("blkio", "blkio.weight_device", "blkio.bfq.weight_device"),
        "blkio_throttle": has("blkio", "blkio.throttle.read_bps_device"),
    }


def _mounts_v1() -> dict[str, str]:
    mounts: dict[str, str] = {}
    for line in rows("/proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup "):
            for controller in after.split(" ")[2].split(","):
                mounts.setdefault(controller, before.split(" ")[4])
    return mounts


def _own_capabilities() -> tuple[str, ...]:
    status = dict(line.split(":", 1) for line in _read("/proc/self/status").splitlines() if ":" in line)
    bounding = int(status.get("CapBnd", "0").strip(), 16)
    return tuple(name for number, name in enumerate(ALL_CAPABILITIES) if bounding >> number & 1)


def _throttled_cpus() -> tuple[int, ...]:
    root = "/sys/devices/system/cpu"
    try:
        names = [name for name in os.listdir(root) if name.startswith("cpu") and name[3:].isdigit()]
    except FileNotFoundError:
        return ()
    return tuple(sorted(int(name[3:]) for name in names if os.path.exists(f"{root}/{name}/thermal_throttle")))


def _version(release: str) -> tuple[int, int]:
    major, minor = release.split(".")[:2]
    return int(major), int("".join(digit for digit in minor.split("-")[0] if digit.isdigit()) or "0")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
