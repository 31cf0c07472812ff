# SPDX-License-Identifier: Apache-2.0
"""Which containerd runtime a container's `Runtime` means."""

import hashlib
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from google.protobuf.any_pb2 import Any

from orlop.api.runc_options_pb2 import Options
from orlop.containerd.client import typeurl
from orlop.dockerd.config import RuntimeConfig
from orlop.errdefs import InvalidArgumentError

DEFAULT = "orlop"
ORLOP = "io.containerd.orlop.v2"
RUNC = "io.containerd.runc.v2"
SHIMS = {"orlop": ORLOP, "runc": RUNC, ORLOP: ORLOP, RUNC: RUNC}
"""Runtimes that need no entry in daemon.json."""
_PROGRAMS = {ORLOP: "orlop-runc", RUNC: "runc"}
_OPTION_FIELDS = {
    "".join(part.capitalize() for part in field.name.split("_")): field.name for field in Options.DESCRIPTOR.fields
}
"""Options of a shim as daemon.json spells them, `BinaryName`, and as their message does."""


class Runtime(NamedTuple):
    """A runtime of containerd with its options.

    `ours`: the shim itself serves log and attach socket; `in_process`: on libcontainer, without another program.
    """

    name: str
    options: Any
    ours: bool
    in_process: bool

    def restoring(self, checkpoint: str) -> Any:
        """The options with the directory of a checkpoint that a new task is to go on from."""
        options = typeurl.unpack(self.options, Options)
        options.criu_image_path = checkpoint
        return typeurl.pack(options)


class Runtimes:
    """Docker's runtime names, resolved."""

    def __init__(
        self,
        configured: Mapping[str, RuntimeConfig],
        default: str,
        root: str,
        *,
        systemd_cgroup: bool,
        scripts: Path | None = None,
        io_owner: tuple[int, int] = (0, 0),
    ) -> None:
        """`root` is the directory of the runtimes' own state (`orlop-runc --root`), below the exec root.

        `scripts` is where wrappers of runtimes with `runtimeArgs` are written: a shim is given one path, no words.
        `io_owner` is whose the pipes of processes are, user and group: they may open them again.
        """
        self._root = root
        self._scripts = scripts
        self._io_owner = io_owner
        self._systemd_cgroup = systemd_cgroup
        self._wrappers: dict[str, str] = {}
        self.configure(configured, default)

    def configure(self, configured: Mapping[str, RuntimeConfig], default: str) -> None:
        """Take other runtimes. Raises InvalidArgumentError for a wrong entry, and keeps what there was."""
        for name, entry in configured.items():
            _check(name, entry)
        default = default or DEFAULT
        if default not in configured and default not in SHIMS and not _names_a_shim(default):
            raise InvalidArgumentError(f"specified default runtime '{default}' does not exist")
        self._wrappers = {
            name: self._wrap(name, entry) for name, entry in configured.items() if entry.runtime_args
        }
        self._configured = configured
        self.default = default

    def names(self) -> dict[str, dict[str, object]]:
        """`Runtimes` of GET /info."""
        known: dict[str, dict[str, object]] = {name: {"runtimeType": SHIMS[name]} for name in SHIMS}
        for name, entry in self._configured.items():
            known[name] = {"path": entry.path} if entry.path else {"runtimeType": entry.runtime_type}
            if entry.runtime_args:
                known[name]["runtimeArgs"] = entry.runtime_args
            if entry.options:
                known[name]["options"] = entry.options
        return known

    def programs(self) -> dict[str, str]:
        """The program that can tell what a runtime does, by the runtime's name."""
        found = {name: _PROGRAMS[shim] for name, shim in SHIMS.items()}
        for name, entry in self._configured.items():
            shim = SHIMS.get(entry.runtime_type, "")
            program = (
                self._wrappers.get(name, entry.path) or entry.options.get("BinaryName") or _PROGRAMS.get(shim)
            )
            if program:
                found[name] = str(program)
        return found

    def resolve(self, name: str) -> Runtime:
        """The runtime of that name; empty: the default. Raises InvalidArgumentError for an unknown one."""
        name = name or self.default
        entry = self._configured.get(name)
        if entry is None:
            shim = SHIMS.get(name) or (name if _names_a_shim(name) else None)
            if shim is None:
                raise InvalidArgumentError(f"unknown or invalid runtime name: {name}")
            return self._runtime(shim, {})
        if entry.runtime_type:
            return self._runtime(SHIMS.get(entry.runtime_type, entry.runtime_type), entry.options)
        return self._runtime(ORLOP, {"BinaryName": self._wrappers.get(name, entry.path)})

    def _runtime(self, shim: str, given: Mapping[str, object]) -> Runtime:
        uid, gid = self._io_owner
        options = Options(root=self._root, systemd_cgroup=self._systemd_cgroup, io_uid=uid, io_gid=gid)
        for name, value in given.items():
            setattr(options, _OPTION_FIELDS[name], value)
        ours = shim == ORLOP
        return Runtime(shim, typeurl.pack(options), ours, ours and not options.binary_name)

    def _wrap(self, name: str, entry: RuntimeConfig) -> str:
        """A script that runs a runtime with its arguments; those of other arguments may still be in use."""
        words = " ".join(shlex.quote(word) for word in (entry.path, *entry.runtime_args))
        text = f'#!/bin/sh\nexec {words} "$@"\n'
        if self._scripts is None:
            raise InvalidArgumentError(f"runtime {name}: there is no directory for the script of its runtimeArgs")
        self._scripts.mkdir(mode=0o700, parents=True, exist_ok=True)
        script = self._scripts / f"{name}.{hashlib.sha256(text.encode()).hexdigest()[:32]}"
        if not script.exists():
            fresh = script.with_suffix(".tmp")
            fresh.write_text(text)
            fresh.chmod(0o700)
            fresh.replace(script)
        return str(script)


def _names_a_shim(name: str) -> bool:
    """Whether containerd finds a shim by that name on the PATH; never a path, which is root's to choose."""
    return "/" not in name and "." in name and not name.startswith(".")


def _check(name: str, entry: RuntimeConfig) -> None:
    if name in (DEFAULT, "runc"):
        raise InvalidArgumentError(f"runtime name '{name}' is reserved")
    if "/" in name:
        raise InvalidArgumentError(f"runtime {name}: a name has no slash")
    if not entry.path and not entry.runtime_type:
        raise InvalidArgumentError(f"runtime {name}: either a runtimeType or a path must be configured")
    if entry.path and entry.runtime_type:
        raise InvalidArgumentError(
            f"runtime {name}: cannot configure both path and runtimeType for the same runtime"
        )
    if entry.path and entry.options:
        raise InvalidArgumentError(f"runtime {name}: options cannot be used with a path runtime")
    if entry.runtime_type and entry.runtime_args:
        raise InvalidArgumentError(f"runtime {name}: args cannot be used with a runtimeType runtime")
    for option, value in entry.options.items():
        known = _OPTION_FIELDS.get(option)
        if known is None:
            raise InvalidArgumentError(f"runtime {name}: unknown option {option}")
        kind = type(getattr(Options(), known))
        if type(value) is not kind:
            raise InvalidArgumentError(f"runtime {name}: option {option} must be a {kind.__name__}")
