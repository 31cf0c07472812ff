# SPDX-License-Identifier: Apache-2.0
"""The OCI runtime specification's config.json as types (runtime-spec 1.3, Linux).

The spec is libcontainer's only configuration model: it is parsed once at the edge with `decode_spec`, and
each layer below works on these types (`orlop.codec` reads and writes them). JSON names follow the
specification; Python names are its names in snake case.
"""

import msgspec

from orlop.codec import decode


class _Struct(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """Base: camel-case JSON names; what equals its default is left out of the JSON."""


class IDMapping(_Struct):
    container_id: int = msgspec.field(name="containerID")
    host_id: int = msgspec.field(name="hostID")
    size: int


class Mount(_Struct):
    destination: str
    type: str = ""
    source: str = ""
    options: list[str] = []
    uid_mappings: list[IDMapping] = []
    gid_mappings: list[IDMapping] = []


class Root(_Struct):
    path: str
    readonly: bool = False


class Box(_Struct):
    """Size of a terminal in characters."""

    height: int
    width: int


class User(_Struct):
    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: list[int] = []
    username: str = ""


class Capabilities(_Struct):
    bounding: list[str] = []
    effective: list[str] = []
    inheritable: list[str] = []
    permitted: list[str] = []
    ambient: list[str] = []


class Rlimit(_Struct):
    type: str
    hard: int
    soft: int


class IOPriority(_Struct):
    class_: str = msgspec.field(name="class")
    priority: int = 0


class Scheduler(_Struct):
    policy: str
    nice: int = 0
    priority: int = 0
    flags: list[str] = []
    runtime: int = 0
    deadline: int = 0
    period: int = 0


class ExecCPUAffinity(_Struct):
    initial: str = ""
    final: str = ""


class Process(_Struct):
    cwd: str
    args: list[str] = []
    env: list[str] = []
    user: User = msgspec.field(default_factory=User)
    terminal: bool = False
    console_size: Box | None = None
    capabilities: Capabilities | None = None
    rlimits: list[Rlimit] = []
    no_new_privileges: bool = False
    apparmor_profile: str = ""
    oom_score_adj: int | None = None
    selinux_label: str = ""
    io_priority: IOPriority | None = None
    scheduler: Scheduler | None = None
    exec_cpu_affinity: ExecCPUAffinity | None = msgspec.field(default=None, name="execCPUAffinity")


class Hook(_Struct):
    path: str
    args: list[str] = []
    env: list[str] = []
    timeout: int | None = None


class Hooks(_Struct):
    prestart: list[Hook] = []
    create_runtime: list[Hook] = []
    create_container: list[Hook] = []
    start_container: list[Hook] = []
    poststart: list[Hook] = []
    poststop: list[Hook] = []


class Namespace(_Struct):
    """`type` is mount, pid, network, uts, ipc, user, cgroup or time; `path` joins an existing one."""

    type: str
    path: str = ""


class Device(_Struct):
    path: str
    type: str
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class NetDevice(_Struct):
    name: str = ""


class DeviceCgroup(_Struct):
    allow: bool
    type: str = ""
    major: int | None = None
    minor: int | None = None
    access: str = ""


class Memory(_Struct):
    """Bytes; -1 is unlimited. `swap` is memory plus swap, as on cgroup v1."""

    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    kernel: int | None = None
    kernel_tcp: int | None = msgspec.field(default=None, name="kernelTCP")
    swappiness: int | None = None
    disable_oom_killer: bool | None = msgspec.field(default=None, name="disableOOMKiller")
    use_hierarchy: bool | None = None
    check_before_update: bool | None = None


class CPU(_Struct):
    """Periods, quotas, runtimes and bursts in microseconds."""

    shares: int | None = None
    quota: int | None = None
    burst: int | None = None
    period: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str = ""
    mems: str = ""
    idle: int | None = None


class Pids(_Struct):
    limit: int | None = None


class WeightDevice(_Struct):
    major: int
    minor: int
    weight: int | None = None
    leaf_weight: int | None = None


class ThrottleDevice(_Struct):
    major: int
    minor: int
    rate: int = 0


class BlockIO(_Struct):
    weight: int | None = None
    leaf_weight: int | None = None
    weight_device: list[WeightDevice] = []
    throttle_read_bps_device: list[ThrottleDevice] = []
    throttle_write_bps_device: list[ThrottleDevice] = []
    throttle_read_iops_device: list[ThrottleDevice] = msgspec.field(
        default_factory=list, name="throttleReadIOPSDevice"
    )
    throttle_write_iops_device: list[ThrottleDevice] = msgspec.field(
        default_factory=list, name="throttleWriteIOPSDevice"
    )


class HugepageLimit(_Struct):
    page_size: str
    limit: int


class InterfacePriority(_Struct):
    name: str
    priority: int


class Network(_Struct):
    class_id: int | None = msgspec.field(default=None, name="classID")
    priorities: list[InterfacePriority] = []


class Rdma(_Struct):
    hca_handles: int | None = None
    hca_objects: int | None = None


class Resources(_Struct):
    devices: list[DeviceCgroup] = []
    memory: Memory | None = None
    cpu: CPU | None = None
    pids: Pids | None = None
    block_io: BlockIO | None = msgspec.field(default=None, name="blockIO")
    hugepage_limits: list[HugepageLimit] = []
    network: Network | None = None
    rdma: dict[str, Rdma] = {}
    unified: dict[str, str] = {}


class SeccompArg(_Struct):
    index: int
    value: int
    op: str
    value_two: int = 0


class SeccompSyscall(_Struct):
    names: list[str]
    action: str
    errno_ret: int | None = None
    args: list[SeccompArg] = []


class Seccomp(_Struct):
    default_action: str
    default_errno_ret: int | None = None
    architectures: list[str] = []
    flags: list[str] = []
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: list[SeccompSyscall] = []


class IntelRdt(_Struct):
    clos_id: str = msgspec.field(default="", name="closID")
    schemata: list[str] = []
    l3_cache_schema: str = msgspec.field(default="", name="l3CacheSchema")
    mem_bw_schema: str = ""
    enable_monitoring: bool = False


class MemoryPolicy(_Struct):
    mode: str = ""
    nodes: str = ""
    flags: list[str] = []


class Personality(_Struct):
    domain: str = ""
    flags: list[str] = []


class TimeOffset(_Struct):
    secs: int = 0
    nanosecs: int = 0


class Linux(_Struct):
    uid_mappings: list[IDMapping] = []
    gid_mappings: list[IDMapping] = []
    sysctl: dict[str, str] = {}
    resources: Resources | None = None
    cgroups_path: str = ""
    namespaces: list[Namespace] = []
    devices: list[Device] = []
    net_devices: dict[str, NetDevice] = {}
    seccomp: Seccomp | None = None
    rootfs_propagation: str = ""
    masked_paths: list[str] = []
    readonly_paths: list[str] = []
    mount_label: str = ""
    intel_rdt: IntelRdt | None = None
    memory_policy: MemoryPolicy | None = None
    personality: Personality | None = None
    time_offsets: dict[str, TimeOffset] = {}


class Spec(_Struct):
    oci_version: str
    process: Process | None = None
    root: Root | None = None
    hostname: str = ""
    domainname: str = ""
    mounts: list[Mount] = []
    hooks: Hooks | None = None
    annotations: dict[str, str] = {}
    linux: Linux | None = None


def decode_spec(raw: bytes | str) -> Spec:
    """Parse the text of a config.json. Raises InvalidArgumentError that names the field."""
    return decode(raw, Spec)
