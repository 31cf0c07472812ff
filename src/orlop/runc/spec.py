# SPDX-License-Identifier: Apache-2.0
"""spec: a config.json to start from."""

import os

import msgspec

from orlop.errdefs import AlreadyExistsError
from orlop.oci import runtime as oci
from orlop.runc.main import SPEC_VERSION, Call

_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
_MASKED = [
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
]  # fmt: skip
_READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
_SAFE = ["nosuid", "noexec", "nodev"]


def spec(call: Call) -> int:
    """Write config.json into the bundle. Raises AlreadyExistsError."""
    directory = call.flags.text("bundle") or "."
    name = call.flags.text("file") or "config.json"
    path = os.path.join(directory, name)
    text = msgspec.json.format(msgspec.json.encode(example(rootless=call.flags.flag("rootless"))), indent=4)
    try:
        with open(path, "xb") as file:
            file.write(text)
    except FileExistsError:
        raise AlreadyExistsError(f"File {name} exists. Remove it first") from None
    return 0


def example(*, rootless: bool = False) -> oci.Spec:
    """A spec that runs `sh` on a terminal."""
    namespaces = ["pid", "ipc", "uts", "mount", "user" if rootless else "network"]
    if os.path.exists("/proc/self/ns/cgroup"):
        namespaces.append("cgroup")
    result = oci.Spec(
        oci_version=SPEC_VERSION,
        process=oci.Process(
            terminal=True,
            args=["sh"],
            env=["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            cwd="/",
            capabilities=oci.Capabilities(
                bounding=_CAPABILITIES, effective=_CAPABILITIES, permitted=_CAPABILITIES
            ),
            rlimits=[oci.Rlimit(type="RLIMIT_NOFILE", hard=1024, soft=1024)],
            no_new_privileges=True,
        ),
        root=oci.Root(path="rootfs", readonly=True),
        hostname="runc",
        mounts=_mounts(rootless=rootless),
        linux=oci.Linux(
            resources=None if rootless else oci.Resources(devices=[oci.DeviceCgroup(allow=False, access="rwm")]),
            namespaces=[oci.Namespace(type=kind) for kind in namespaces],
            masked_paths=_MASKED,
            readonly_paths=_READ_ONLY,
        ),
    )
    if rootless and result.linux is not None:
        result.linux.uid_mappings = [oci.IDMapping(container_id=0, host_id=os.geteuid(), size=1)]
        result.linux.gid_mappings = [oci.IDMapping(container_id=0, host_id=os.getegid(), size=1)]
    return result


def _mounts(*, rootless: bool) -> list[oci.Mount]:
    def mount(destination: str, kind: str, source: str, *options: str) -> oci.Mount:
        return oci.Mount(destination=destination, type=kind, source=source, options=list(options))

    group = () if rootless else ("gid=5",)
    system = (
        mount("/sys", "none", "/sys", "rbind", *_SAFE, "ro")
        if rootless
        else mount("/sys", "sysfs", "sysfs", *_SAFE, "ro")
    )
    return [
        mount("/proc", "proc", "proc"),
        mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        mount(
            "/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", *group
        ),
        mount("/dev/shm", "tmpfs", "shm", *_SAFE, "mode=1777", "size=65536k"),
        mount("/dev/mqueue", "mqueue", "mqueue", *_SAFE),
        system,
        mount("/sys/fs/cgroup", "cgroup", "cgroup", *_SAFE, "relatime", "ro"),
    ]
