# SPDX-License-Identifier: Apache-2.0
"""What must hold of a spec before anything is done about it; each error names the property."""

import os

from orlop.errdefs import InvalidArgumentError
from orlop.libcontainer import intel_rdt
from orlop.libcontainer.namespaces import FLAGS
from orlop.libcontainer.program import rlimit_number
from orlop.oci.runtime import IDMapping, Linux, Namespace, Process, Spec

_LARGEST_ID = 2**32 - 2  # 2**32-1 means "leave as it is" to the kernel
_IPC_SYSCTLS = frozenset(
    f"kernel.{name}"
    for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)


def version_of(text: str) -> tuple[int, int]:
    """Major and minor number of an ociVersion (semantic versioning). Raises InvalidArgumentError."""
    numbers = text[:64].replace("+", "-").partition("-")[0].split(".")
    if len(numbers) != 3 or not all(number.isascii() and number.isdigit() for number in numbers):
        raise InvalidArgumentError(f'ociVersion is "{text}", expected a version as 1.3.0')
    return int(numbers[0]), int(numbers[1])


def validate_spec(spec: Spec, bundle: str) -> None:
    """Everything that can be said without looking beyond the bundle. Raises InvalidArgumentError."""
    if version_of(spec.oci_version)[0] != 1:
        raise InvalidArgumentError(f'ociVersion is "{spec.oci_version}", expected 1.x')
    if spec.process is None:
        raise InvalidArgumentError("process property must not be empty")
    if spec.root is None or not spec.root.path:
        raise InvalidArgumentError("root.path must not be empty")
    if spec.linux is None:
        raise InvalidArgumentError("linux property must not be empty")
    rootfs = os.path.join(bundle, spec.root.path)
    if not os.path.isdir(rootfs):
        raise InvalidArgumentError(f"invalid rootfs: stat {rootfs}: no such file or directory")
    resolved = os.path.realpath(rootfs)
    if resolved == "/":
        raise InvalidArgumentError("invalid rootfs: the root of the host")
    if resolved != os.path.normpath(os.path.join(os.path.realpath(bundle), spec.root.path)):
        raise InvalidArgumentError(f"invalid rootfs: {rootfs}: not an absolute path, or a symlink")
    validate_process(spec.process)
    _validate_namespaces(spec.linux)
    _validate_net_devices(spec.linux)
    if spec.linux.intel_rdt is not None:
        intel_rdt.validate(spec.linux.intel_rdt)
    kinds = {namespace.type: namespace for namespace in spec.linux.namespaces}
    _validate_names(spec, kinds)
    _validate_sysctls(spec, kinds)


def validate_process(process: Process) -> None:
    """The process of a spec or of an exec. Raises InvalidArgumentError."""
    if not process.args or not process.args[0]:
        raise InvalidArgumentError("process.args must not be empty")
    if not process.cwd.startswith("/"):
        raise InvalidArgumentError(f'process.cwd is "{process.cwd}": Cwd property must be an absolute path')
    if any("\0" in arg for arg in process.args) or "\0" in process.cwd:
        raise InvalidArgumentError("process.args, process.cwd: null byte")
    user = process.user
    for name, value in (
        ("uid", user.uid),
        ("gid", user.gid),
        *(("additionalGids", gid) for gid in user.additional_gids),
    ):
        if not 0 <= value <= _LARGEST_ID:
            raise InvalidArgumentError(f"process.user.{name} is {value}, expected 0 to {_LARGEST_ID}")
    seen: set[str] = set()
    for limit in process.rlimits:
        rlimit_number(limit.type)
        if limit.type in seen:
            raise InvalidArgumentError(f"process.rlimits: {limit.type} is there twice")
        if not (0 <= limit.soft < 2**64 and 0 <= limit.hard < 2**64):
            raise InvalidArgumentError(f"process.rlimits: {limit.type} is out of range")
        if limit.soft > limit.hard:
            raise InvalidArgumentError(
                f"process.rlimits: {limit.type}: soft {limit.soft} is above hard {limit.hard}"
            )
        seen.add(limit.type)
    if process.oom_score_adj is not None and not -1000 <= process.oom_score_adj <= 1000:
        raise InvalidArgumentError(f"process.oomScoreAdj is {process.oom_score_adj}, expected -1000 to 1000")


def _validate_namespaces(linux: Linux) -> None:
    seen: set[str] = set()
    for namespace in linux.namespaces:
        if namespace.type not in FLAGS:
            raise InvalidArgumentError(f'linux.namespaces: unknown type "{namespace.type}"')
        if namespace.type in seen:
            raise InvalidArgumentError(f'linux.namespaces: malformed spec file: duplicated ns "{namespace.type}"')
        if namespace.path and not namespace.path.startswith("/"):
            raise InvalidArgumentError(f'linux.namespaces: "{namespace.path}" is no absolute path')
        seen.add(namespace.type)
    if "mount" not in seen and (linux.masked_paths or linux.readonly_paths):
        raise InvalidArgumentError(
            "linux.maskedPaths, linux.readonlyPaths: "
            "unable to restrict sys entries without a private MNT namespace"
        )
    mappings = linux.uid_mappings + linux.gid_mappings
    user = next((namespace for namespace in linux.namespaces if namespace.type == "user"), None)
    if user is not None and not user.path and not (linux.uid_mappings and linux.gid_mappings):
        raise InvalidArgumentError(
            "linux.uidMappings, linux.gidMappings: "
            "user namespaces enabled, but no namespace path to join nor mappings to apply specified"
        )
    if user is None and mappings:
        raise InvalidArgumentError(
            "linux.uidMappings, linux.gidMappings: "
            "user namespace mappings specified, but user namespace isn't enabled in the config"
        )
    for mapping in mappings:
        _validate_mapping(mapping)
    _validate_time_offsets(linux)


def _validate_net_devices(linux: Linux) -> None:
    if linux.net_devices and all(namespace.type != "network" for namespace in linux.namespaces):
        raise InvalidArgumentError("linux.netDevices: unable to move network devices without a NET namespace")
    names = [*linux.net_devices, *(device.name for device in linux.net_devices.values() if device.name)]
    for name in names:
        # dev_valid_name() of the kernel.
        if not 0 < len(name) < 16 or name in (".", "..") or any(c in "/:" or c.isspace() for c in name):
            raise InvalidArgumentError(f'linux.netDevices: invalid network device name "{name}"')


def _validate_time_offsets(linux: Linux) -> None:
    if linux.time_offsets and not any(n.type == "time" and not n.path for n in linux.namespaces):
        raise InvalidArgumentError(
            "linux.timeOffsets: time namespace offsets specified, but time namespace isn't enabled in the config"
        )
    for clock, offset in linux.time_offsets.items():
        if clock not in ("monotonic", "boottime"):
            raise InvalidArgumentError(f'linux.timeOffsets: clock "{clock}", expected monotonic or boottime')
        if not 0 <= offset.nanosecs < 10**9:
            raise InvalidArgumentError(f"linux.timeOffsets.{clock}.nanosecs is {offset.nanosecs}, not below 10^9")


def _validate_mapping(mapping: IDMapping) -> None:
    for value in (mapping.container_id, mapping.host_id):
        if not 0 <= value <= _LARGEST_ID:
            raise InvalidArgumentError(f"linux.uidMappings, linux.gidMappings: {value} is no id")
    if not 1 <= mapping.size <= 2**32 - 1:
        raise InvalidArgumentError(f"linux.uidMappings, linux.gidMappings: size is {mapping.size}")


def _validate_names(spec: Spec, kinds: dict[str, Namespace]) -> None:
    if spec.hostname and "uts" not in kinds:
        raise InvalidArgumentError("hostname: unable to set hostname without a private UTS namespace")
    if spec.domainname and "uts" not in kinds:
        raise InvalidArgumentError("domainname: unable to set domainname without a private UTS namespace")


def _validate_sysctls(spec: Spec, kinds: dict[str, Namespace]) -> None:
    """Only kernel parameters that belong to a namespace of the container's."""
    assert spec.linux is not None
    for raw in spec.linux.sysctl:
        slash, dot = raw.find("/"), raw.find(".")
        name = raw.replace("/", ".") if slash >= 0 and (dot < 0 or slash < dot) else raw
        if ".." in name:
            raise InvalidArgumentError(f'linux.sysctl: "{raw}" is no kernel parameter')
        if name in _IPC_SYSCTLS or name.startswith("fs.mqueue."):
            if "ipc" not in kinds:
                raise InvalidArgumentError(f'sysctl "{raw}" is not allowed in the hosts ipc namespace')
        elif name.startswith("net."):
            if "network" not in kinds:
                raise InvalidArgumentError(f'sysctl "{raw}" not allowed in host network namespace')
        elif name == "kernel.domainname" and "uts" in kinds:
            continue
        elif name == "kernel.hostname":
            raise InvalidArgumentError(
                f'sysctl "{raw}" is not allowed as it conflicts with the OCI "hostname" field'
            )
        elif name.startswith("user.") and "user" in kinds:
            continue
        else:
            raise InvalidArgumentError(f'sysctl "{raw}" is not in a separate kernel namespace')
