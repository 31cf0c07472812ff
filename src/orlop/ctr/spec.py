# SPDX-License-Identifier: Apache-2.0
"""The OCI spec of a container that `ctr run` and `ctr containers create` make: a pure function of their flags."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from orlop.errdefs import InvalidArgumentError
from orlop.oci import runtime as oci
from orlop.oci.defaults import ALL_CAPABILITIES, DEFAULT_PATH, capability_sets, containerd_default_spec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orlop.ctr.flags import Values
    from orlop.oci.image import ImageConfig

_NAMESPACES = ("pid", "ipc", "uts", "mount", "network", "user", "cgroup", "time")


def build_spec(
    values: Values, id: str, namespace: str, image: ImageConfig | None, arguments: list[str]
) -> oci.Spec:
    """The spec for these flags; `image` is None for a rootfs of the user's.

    The user is left to the caller, who can look names up. Raises InvalidArgumentError that names the flag.
    """
    spec = containerd_default_spec(id, namespace)
    assert spec.process is not None
    assert spec.linux is not None
    _apply_image(spec.process, image, arguments)
    _apply_process(spec.process, values)
    _apply_capabilities(spec.process, values)
    _apply_namespaces(spec, values)
    _apply_resources(spec.linux, values)
    spec.mounts += [parse_mount(text) for text in values["mount"]]
    spec.annotations.update(_pair(text, "annotation") for text in values["annotation"])
    if values["read-only"]:
        assert spec.root is not None
        spec.root.readonly = True
    if values["hostname"]:
        spec.hostname = values["hostname"]
    if values.given("cgroup"):
        spec.linux.cgroups_path = values["cgroup"]
    if values["rdt-class"]:
        spec.linux.intel_rdt = oci.IntelRdt(clos_id=values["rdt-class"])
    if values["rootfs-propagation"]:
        spec.linux.rootfs_propagation = values["rootfs-propagation"]
    if values["seccomp"] or values["seccomp-profile"]:
        spec.linux.seccomp = _seccomp(spec.process, values)
    if values["privileged"]:
        _make_privileged(spec, host_devices=not values["privileged-without-host-devices"])
    _add_cdi_devices(spec, values)
    return spec


def _add_cdi_devices(spec: oci.Spec, values: Values) -> None:
    """Devices that files of vendors describe. Raises InvalidArgumentError that names the flag."""
    names = [name for name in values["device"] if _is_cdi_name(name)]
    if not names and not values["gpus"]:
        return
    from orlop.oci.cdi import DEFAULT_DIRECTORIES, Registry

    registry = Registry(DEFAULT_DIRECTORIES)
    gpus = registry.gpus(values["gpus"])
    if values["gpus"] and not gpus:
        raise InvalidArgumentError(
            f"gpus: no file in {' or '.join(DEFAULT_DIRECTORIES)} describes them; name their nodes with --device"
        )
    registry.inject(spec, [*names, *gpus])


def _apply_image(process: oci.Process, image: ImageConfig | None, arguments: list[str]) -> None:
    process.env = [f"PATH={DEFAULT_PATH}"]
    process.args = arguments
    if image is None:
        return
    process.env = _merge_env(process.env, image.env)
    process.cwd = image.working_dir or "/"
    if not arguments:  # given ones replace the image's entrypoint too, as in ctr
        process.args = [*(image.entrypoint or []), *(image.cmd or [])]


def _apply_process(process: oci.Process, values: Values) -> None:
    if not process.args:
        raise InvalidArgumentError("no command: neither the image nor the command line names one")
    added = [*_env_file(values["env-file"]), *values["env"]]
    if values["tty"]:
        process.terminal = True
        process.env = _merge_env(process.env, ["TERM=xterm"])
    if values["net-host"]:
        added.append(f"HOSTNAME={os.uname().nodename}")
    process.env = _merge_env(process.env, added)
    if values["cwd"]:
        process.cwd = values["cwd"]
    if values["allow-new-privs"]:
        process.no_new_privileges = False
    if name := values["apparmor-default-profile"]:
        from orlop.oci.apparmor import load_profile

        load_profile(name)
    process.apparmor_profile = values["apparmor-profile"] or name or process.apparmor_profile
    if values["rlimit-nofile"]:
        soft, _, hard = values["rlimit-nofile"].partition(":")
        try:
            limit = oci.Rlimit(type="RLIMIT_NOFILE", soft=int(soft), hard=int(hard or soft))
        except ValueError:
            raise InvalidArgumentError(
                f"rlimit-nofile: expected soft:hard, got {values['rlimit-nofile']!r}"
            ) from None
        process.rlimits = [limit]


def _apply_capabilities(process: oci.Process, values: Values) -> None:
    assert process.capabilities is not None
    names = list(process.capabilities.bounding)
    for name in (*values["cap-add"], *values["cap-drop"]):
        if not name.startswith("CAP_"):
            raise InvalidArgumentError("capabilities must be specified with 'CAP_' prefix")
    names += [name for name in values["cap-add"] if name not in names]
    process.capabilities = capability_sets(name for name in names if name not in values["cap-drop"])


def _apply_namespaces(spec: oci.Spec, values: Values) -> None:
    assert spec.linux is not None
    kinds = {each.type: each for each in spec.linux.namespaces}
    if values["net-host"]:
        del kinds["network"]
        options = ["rbind", "ro"]
        for path in ("/etc/hosts", "/etc/resolv.conf"):
            spec.mounts.append(oci.Mount(destination=path, type="bind", source=path, options=options))
    for text in values["with-ns"]:
        kind, colon, path = text.partition(":")
        if not colon:
            raise InvalidArgumentError("with-ns: expected nstype:path")
        if kind not in _NAMESPACES:
            raise InvalidArgumentError(f"with-ns: {kind!r} is no namespace type")
        kinds[kind] = oci.Namespace(type=kind, path=path)
    for flag in ("uidmap", "gidmap"):
        if values[flag]:
            kinds["user"] = oci.Namespace(type="user")
    spec.linux.uid_mappings = [_mapping(text, "uidmap") for text in values["uidmap"]]
    spec.linux.gid_mappings = [_mapping(text, "gidmap") for text in values["gidmap"]]
    spec.linux.namespaces = list(kinds.values())


def _apply_resources(linux: oci.Linux, values: Values) -> None:
    assert linux.resources is not None
    cpu = oci.CPU(cpus=values["cpuset-cpus"], mems=values["cpuset-mems"])
    if values["cpu-shares"]:
        cpu.shares = values["cpu-shares"]
    quota, period = values["cpu-quota"], values["cpu-period"]
    if values["cpus"]:
        if quota != -1 or period:
            raise InvalidArgumentError("cpus and quota/period should be used separately")
        cpu.quota, cpu.period = int(values["cpus"] * 100_000), 100_000
    elif quota != -1 or period:
        cpu.quota, cpu.period = quota, period or None
    if cpu != oci.CPU():
        linux.resources.cpu = cpu
    if values["memory-limit"]:
        linux.resources.memory = oci.Memory(limit=values["memory-limit"])
    for path in values["device"]:
        if _is_cdi_name(path):
            continue  # a file of the vendor's says what that is
        device = device_at(path)
        linux.devices.append(device)
        rule = oci.DeviceCgroup(allow=True, type=device.type, major=device.major, minor=device.minor, access="rwm")
        linux.resources.devices.append(rule)


def _is_cdi_name(text: str) -> bool:
    """Whether it is `vendor.com/class=name` and not a path."""
    return "=" in text and not text.startswith(("/", "."))


def _seccomp(process: oci.Process, values: Values) -> oci.Seccomp:
    path = values["seccomp-profile"]
    if path and not values["seccomp"]:
        raise InvalidArgumentError("seccomp must be set to true, if using a custom seccomp-profile")
    if path:
        from orlop.codec import decode

        with open(path, "rb") as file:
            return decode(file.read(), oci.Seccomp)
    from orlop.oci.seccomp import default_profile

    assert process.capabilities is not None
    major, minor = os.uname().release.split(".")[:2]
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    return default_profile(process.capabilities.bounding, machine, (int(major), int(minor)))


def _make_privileged(spec: oci.Spec, *, host_devices: bool) -> None:
    assert spec.process is not None
    assert spec.linux is not None
    assert spec.linux.resources is not None
    spec.process.capabilities = capability_sets(ALL_CAPABILITIES)
    spec.process.apparmor_profile = ""
    spec.process.no_new_privileges = False
    spec.linux.masked_paths, spec.linux.readonly_paths = [], []
    spec.linux.seccomp = None
    for mount in spec.mounts:
        if mount.type in ("sysfs", "cgroup"):
            mount.options = ["rw" if option == "ro" else option for option in mount.options]
    if host_devices:
        spec.linux.resources.devices = [oci.DeviceCgroup(allow=True, access="rwm")]
        spec.linux.devices = host_device_nodes()


def host_device_nodes(directory: str = "/dev") -> list[oci.Device]:
    """The device nodes of the host, without those that every container has its own of."""
    skipped = {"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"}
    found: list[oci.Device] = []
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name in skipped or entry.is_symlink():
                continue
            if entry.is_dir():
                found += host_device_nodes(entry.path)
                continue
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                found.append(device_at(entry.path))
    return found


def device_at(path: str) -> oci.Device:
    """The device node at a path. Raises InvalidArgumentError when it is none."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise InvalidArgumentError(f"device {path}: {error.strerror}") from None
    if not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        raise InvalidArgumentError(f"device {path}: not a device node")
    return oci.Device(
        path=path,
        type="c" if stat.S_ISCHR(status.st_mode) else "b",
        major=os.major(status.st_rdev),
        minor=os.minor(status.st_rdev),
        file_mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
    )


def parse_mount(text: str) -> oci.Mount:
    """`type=bind,src=/a,dst=/b,options=rbind:ro`. Raises InvalidArgumentError that names the faulty part."""
    mount = oci.Mount(destination="")
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals:
            raise InvalidArgumentError(f"mount {text!r}: expected key=value, got {part!r}")
        if key == "type":
            mount.type = value
        elif key in ("source", "src"):
            mount.source = value
        elif key in ("destination", "dst", "target"):
            mount.destination = value
        elif key == "options":
            mount.options = value.split(":")
        else:
            raise InvalidArgumentError(f"mount {text!r}: unknown option {key!r}")
    if not mount.destination:
        raise InvalidArgumentError(f"mount {text!r}: destination is missing")
    return mount


def _merge_env(base: Iterable[str], added: Iterable[str]) -> list[str]:
    """Later ones replace earlier ones of the same name; a name alone takes the variable away."""
    merged: dict[str, str] = {entry.partition("=")[0]: entry for entry in base}
    for entry in added:
        name, equals, _ = entry.partition("=")
        if equals:
            merged[name] = entry
        else:
            merged.pop(name, None)
    return list(merged.values())


def _env_file(path: str) -> list[str]:
    if not path:
        return []
    with open(path, encoding="utf-8") as file:
        return [line.strip() for line in file if line.strip() and not line.startswith("#")]


def _pair(text: str, flag: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise InvalidArgumentError(f"{flag}: expected key=value, got {text!r}")
    return key, value


def _mapping(text: str, flag: str) -> oci.IDMapping:
    try:
        container, host, size = map(int, text.split(":"))
    except ValueError:
        raise InvalidArgumentError(f"{flag}: expected container-id:host-id:length, got {text!r}") from None
    return oci.IDMapping(container_id=container, host_id=host, size=size)
