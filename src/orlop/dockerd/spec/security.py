# SPDX-License-Identifier: Apache-2.0
"""A container's --security-opt, and its seccomp profile in Docker's format."""

from collections.abc import Collection

import msgspec

from orlop.codec import decode
from orlop.dockerd.spec.host import Host
from orlop.engine.types import HostConfig
from orlop.errdefs import InvalidArgumentError, OrlopError
from orlop.oci.runtime import Seccomp, SeccompArg, SeccompSyscall
from orlop.oci.seccomp import default_profile


class SecurityOptions(msgspec.Struct, kw_only=True):
    """What the options say; None and "" where they say nothing."""

    no_new_privileges: bool | None = None
    apparmor: str = ""
    seccomp: str = ""
    labels: list[str] = []
    writable_cgroups: bool | None = None
    system_paths_unconfined: bool = False


_SHORT = {
    "no-new-privileges": "no-new-privileges=true",
    "writable-cgroups": "writable-cgroups=true",
    "disable": "label=disable",
}


def security_options(host_config: HostConfig) -> SecurityOptions:
    """Parse --security-opt. Raises InvalidArgumentError with Docker's text."""
    options = SecurityOptions()
    for given in host_config.security_opt or []:
        text = _SHORT.get(given, given)
        separator = "=" if "=" in text else ":"
        key, found, value = text.partition(separator)
        if not found:
            raise InvalidArgumentError(f'invalid --security-opt 1: "{text}"')
        if key == "label":
            options.labels.append(value)
        elif key == "apparmor":
            options.apparmor = value
        elif key == "seccomp":
            options.seccomp = value
        elif key == "no-new-privileges":
            options.no_new_privileges = _boolean(value, text)
        elif key == "writable-cgroups":
            options.writable_cgroups = _boolean(value, text)
        elif key == "systempaths" and value == "unconfined":
            options.system_paths_unconfined = True
        else:
            raise InvalidArgumentError(f'invalid --security-opt 2: "{text}"')
    return options


def apparmor_profile(options: SecurityOptions, privileged: bool, host: Host) -> str:
    """The AppArmor profile; "" where the kernel has none to enforce."""
    if not host.apparmor:
        return ""
    return options.apparmor or ("unconfined" if privileged else host.apparmor_default)


def container_seccomp(
    options: SecurityOptions, privileged: bool, daemon_profile: str, capabilities: Collection[str], host: Host
) -> Seccomp | None:
    """The container's own profile, or the daemon's (`daemon_profile`), or Docker's default; none if privileged.

    Raises InvalidArgumentError for a malformed profile.
    """
    chosen = options.seccomp
    if chosen == "unconfined" or (privileged and not chosen):
        return None
    if not host.seccomp:
        if chosen and chosen != "builtin":
            raise InvalidArgumentError(
                "seccomp is not enabled in your kernel, cannot run a custom seccomp profile"
            )
        return None
    if not chosen:
        chosen = daemon_profile
    if chosen == "unconfined":
        return None
    if chosen in ("", "builtin"):
        return default_profile(capabilities, host.architecture, host.kernel)
    return load_profile(chosen, capabilities, host)


class _Conditions(msgspec.Struct, rename="camel"):
    arches: list[str] = []
    caps: list[str] = []
    min_kernel: str = ""


class _Call(msgspec.Struct, rename="camel"):
    action: str
    name: str = ""
    names: list[str] = []
    errno_ret: int | None = None
    args: list[SeccompArg] = []
    includes: _Conditions = msgspec.field(default_factory=_Conditions)
    excludes: _Conditions = msgspec.field(default_factory=_Conditions)


class _ArchitectureMap(msgspec.Struct, rename="camel"):
    architecture: str
    sub_architectures: list[str] = []


class _Profile(msgspec.Struct, rename="camel"):
    """Docker's profile format: the OCI one, with conditions and an architecture map."""

    default_action: str = ""
    default_errno_ret: int | None = None
    architectures: list[str] = []
    arch_map: list[_ArchitectureMap] = []
    flags: list[str] = []
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: list[_Call] = []


_SECCOMP_NAMES = {"amd64": "SCMP_ARCH_X86_64", "arm64": "SCMP_ARCH_AARCH64", "riscv64": "SCMP_ARCH_RISCV64"}


def load_profile(text: str, capabilities: Collection[str], host: Host) -> Seccomp | None:
    """A user's profile, resolved for the container's capabilities and this host. None when it is empty."""
    try:
        profile = decode(text, _Profile)
    except OrlopError as error:
        raise InvalidArgumentError(f"Decoding seccomp profile failed: {error}") from None
    if not profile.default_action and not profile.syscalls:
        return None
    if profile.architectures and profile.arch_map:
        raise InvalidArgumentError(
            "both 'architectures' and 'archMap' are specified in the seccomp profile, "
            "use either 'architectures' or 'archMap'"
        )
    architectures = list(profile.architectures)
    for entry in profile.arch_map:
        if entry.architecture == _SECCOMP_NAMES.get(host.architecture):
            architectures = [entry.architecture, *entry.sub_architectures]
            break
    return Seccomp(
        default_action=profile.default_action,
        default_errno_ret=profile.default_errno_ret,
        architectures=architectures,
        flags=profile.flags,
        listener_path=profile.listener_path,
        listener_metadata=profile.listener_metadata,
        syscalls=[_syscall(call) for call in profile.syscalls if _applies(call, capabilities, host)],
    )


def _syscall(call: _Call) -> SeccompSyscall:
    if call.name and call.names:
        raise InvalidArgumentError(
            "both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'"
        )
    names = [call.name] if call.name else call.names
    return SeccompSyscall(names=names, action=call.action, errno_ret=call.errno_ret, args=call.args)


def _applies(call: _Call, capabilities: Collection[str], host: Host) -> bool:
    without, needed = call.excludes, call.includes
    if host.architecture in without.arches or any(name in capabilities for name in without.caps):
        return False
    if without.min_kernel and host.kernel >= _kernel(without.min_kernel):
        return False
    if needed.arches and host.architecture not in needed.arches:
        return False
    if any(name not in capabilities for name in needed.caps):
        return False
    return not needed.min_kernel or host.kernel >= _kernel(needed.min_kernel)


def _kernel(version: str) -> tuple[int, int]:
    major, dot, minor = version.partition(".")
    if not (dot and major.isdigit() and minor.isdigit()):
        raise InvalidArgumentError(f'invalid kernel version in seccomp profile: "{version}"')
    return int(major), int(minor)


def _boolean(value: str, option: str) -> bool:
    if value in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if value in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise InvalidArgumentError(f'invalid --security-opt 2: "{option}"')
