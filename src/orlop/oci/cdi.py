# SPDX-License-Identifier: Apache-2.0
"""Devices by the Container Device Interface (cncf-tags/container-device-interface, SPEC.md, up to 1.1.0).

A file in one of the directories says what a container gets with `vendor.com/class=name`: nodes, mounts, variables,
hooks. Of two files that define the same device, the one in the later directory counts.
"""

import logging
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from orlop.errdefs import InvalidArgumentError
from orlop.oci.runtime import Device, DeviceCgroup, Hook, Hooks, IntelRdt, Linux, Mount, Process, Resources, Spec

log = logging.getLogger("orlop.cdi")

DEFAULT_DIRECTORIES = ("/etc/cdi", "/var/run/cdi")
NVIDIA = "nvidia.com/gpu"
_KIND = re.compile(r"[a-zA-Z][a-zA-Z0-9._-]*/[a-zA-Z][a-zA-Z0-9_-]*")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.:-]*")
_LARGEST_FILE = 4 << 20
_HOOKS = {
    "prestart": "prestart",
    "createRuntime": "create_runtime",
    "createContainer": "create_container",
    "startContainer": "start_container",
    "poststart": "poststart",
    "poststop": "poststop",
}


class DeviceNode(msgspec.Struct, rename="camel", kw_only=True):
    """A node in the container; what is left out is taken from `host_path` (or `path`) on the host."""

    path: str
    host_path: str = ""
    type: str = ""
    major: int | None = None
    minor: int | None = None
    file_mode: int | None = None
    permissions: str = ""
    uid: int | None = None
    gid: int | None = None


class CdiMount(msgspec.Struct, rename="camel", kw_only=True):
    """A bind mount."""

    host_path: str
    container_path: str
    options: list[str] = []
    type: str = ""


class CdiHook(msgspec.Struct, rename="camel", kw_only=True):
    """A program that the runtime runs."""

    hook_name: str
    path: str
    args: list[str] = []
    env: list[str] = []
    timeout: int | None = None


class Edits(msgspec.Struct, rename="camel", kw_only=True):
    """What a container gets."""

    env: list[str] = []
    device_nodes: list[DeviceNode] = []
    mounts: list[CdiMount] = []
    hooks: list[CdiHook] = []
    intel_rdt: IntelRdt | None = None
    additional_gids: list[int] = msgspec.field(default_factory=list, name="additionalGids")


class CdiDevice(msgspec.Struct, rename="camel", kw_only=True):
    """A device of a file."""

    name: str
    annotations: dict[str, str] = {}
    container_edits: Edits = msgspec.field(default_factory=Edits)


class CdiSpec(msgspec.Struct, rename="camel", kw_only=True):
    """A file."""

    cdi_version: str
    kind: str
    annotations: dict[str, str] = {}
    devices: list[CdiDevice] = []
    container_edits: Edits = msgspec.field(default_factory=Edits)


class Found(NamedTuple):
    """A device and the file that it is from."""

    spec: CdiSpec
    device: CdiDevice


class Registry:
    """The devices of directories, read anew each time: files come and go with drivers."""

    def __init__(self, directories: Sequence[str]) -> None:
        self._directories = directories

    @property
    def enabled(self) -> bool:
        """Whether there is any directory to look in."""
        return bool(self._directories)

    def devices(self) -> dict[str, Found]:
        """Every device by its qualified name; a file that cannot be read is logged."""
        found: dict[str, Found] = {}
        for directory in self._directories:
            here: dict[str, Found] = {}
            for path in _files(directory):
                try:
                    spec = read(path)
                except InvalidArgumentError as error:
                    log.warning("%s", error)
                    continue
                for device in spec.devices:
                    name = f"{spec.kind}={device.name}"
                    if name in here:
                        log.warning("%s: device %s is defined twice in %s", path, name, directory)
                    here[name] = Found(spec, device)
            found.update(here)
        return found

    def gpus(self, names: Sequence[str]) -> list[str]:
        """NVIDIA's devices of these names (`0`, `all`) by qualified name; none where no file describes any."""
        if not any(name.startswith(f"{NVIDIA}=") for name in self.devices()):
            return []
        return [f"{NVIDIA}={name}" for name in names]

    def inject(self, spec: Spec, names: Sequence[str]) -> None:
        """Give a container devices by qualified names. Raises InvalidArgumentError in Docker's words."""
        known = self.devices()
        missing = [name for name in names if name not in known]
        if missing:
            raise InvalidArgumentError(
                f"CDI device injection failed: unresolvable CDI devices {', '.join(missing)}"
            )
        done: list[CdiSpec] = []
        for name in dict.fromkeys(names):
            if not any(known[name].spec is one for one in done):
                done.append(known[name].spec)
                _apply(spec, known[name].spec.container_edits)
            _apply(spec, known[name].device.container_edits)


def read(path: Path) -> CdiSpec:
    """A file, JSON or YAML. Raises InvalidArgumentError that names it."""
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise InvalidArgumentError(f"CDI spec {path}: larger than {_LARGEST_FILE} bytes")
        spec = msgspec.convert(_parse(path), CdiSpec)
    except (OSError, ValueError) as error:  # also what msgspec raises
        raise InvalidArgumentError(f"CDI spec {path}: {error}") from None
    if not _KIND.fullmatch(spec.kind):
        raise InvalidArgumentError(f"CDI spec {path}: invalid kind {spec.kind!r}")
    for device in spec.devices:
        if not _NAME.fullmatch(device.name):
            raise InvalidArgumentError(f"CDI spec {path}: invalid device name {device.name!r}")
    for edits in (spec.container_edits, *(device.container_edits for device in spec.devices)):
        for hook in edits.hooks:
            if hook.hook_name not in _HOOKS:
                raise InvalidArgumentError(f"CDI spec {path}: invalid hook name {hook.hook_name!r}")
    return spec


def _parse(path: Path) -> Any:
    if path.suffix == ".json":
        return msgspec.json.decode(path.read_bytes())
    import yaml

    try:
        return yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def _files(directory: str) -> Iterator[Path]:
    try:
        names = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        log.error("CDI directory %s cannot be read: %s", directory, error.strerror)
        return
    for name in names:
        if name.endswith((".json", ".yaml")):
            yield Path(directory, name)


def _apply(spec: Spec, edits: Edits) -> None:
    process, linux = spec.process, spec.linux
    assert isinstance(process, Process)
    assert isinstance(linux, Linux)
    changed = {entry.partition("=")[0] for entry in edits.env}
    process.env = [entry for entry in process.env if entry.partition("=")[0] not in changed] + edits.env
    linux.resources = linux.resources or Resources()
    for node in edits.device_nodes:
        _add_node(linux, linux.resources, node)
    for mount in edits.mounts:
        options = [*mount.options] if {"bind", "rbind"} & {*mount.options} else ["bind", *mount.options]
        spec.mounts.append(
            Mount(destination=mount.container_path, type="bind", source=mount.host_path, options=options)
        )
    for hook in edits.hooks:
        spec.hooks = spec.hooks or Hooks()
        made = Hook(path=hook.path, args=hook.args, env=hook.env, timeout=hook.timeout)
        getattr(spec.hooks, _HOOKS[hook.hook_name]).append(made)
    if edits.intel_rdt is not None:
        linux.intel_rdt = edits.intel_rdt
    groups = process.user.additional_gids
    process.user.additional_gids = [*groups, *(gid for gid in edits.additional_gids if gid and gid not in groups)]


def _add_node(linux: Linux, resources: Resources, node: DeviceNode) -> None:
    host = node.host_path or node.path
    kind, major, minor, mode = node.type, node.major, node.minor, node.file_mode
    if not kind or major is None or minor is None:
        try:
            found = os.stat(host)
        except OSError as error:
            raise InvalidArgumentError(
                f"CDI device injection failed: failed to stat CDI host device {host!r}: "
                f"{(error.strerror or '').lower()}"
            ) from None
        kind = "b" if stat.S_ISBLK(found.st_mode) else "c"
        if not stat.S_ISBLK(found.st_mode) and not stat.S_ISCHR(found.st_mode):
            raise InvalidArgumentError(f"CDI device injection failed: {host!r} is not a device node")
        major, minor = os.major(found.st_rdev), os.minor(found.st_rdev)
        mode = stat.S_IMODE(found.st_mode) if mode is None else mode
    linux.devices = [device for device in linux.devices if device.path != node.path]
    linux.devices.append(
        Device(path=node.path, type=kind, major=major, minor=minor, file_mode=mode, uid=node.uid, gid=node.gid)
    )
    access = node.permissions or "rwm"
    resources.devices.append(DeviceCgroup(allow=True, type=kind, major=major, minor=minor, access=access))
