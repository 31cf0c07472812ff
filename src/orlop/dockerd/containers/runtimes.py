# SPDX-License-Identifier: Apache-2.0
"""Which containerd runtime a container's `Runtime` means."""

from collections.abc import Mapping
from typing import NamedTuple

from google.protobuf.any_pb2 import Any

from orlop.api.runc_options_pb2 import Options
from orlop.containerd.client import typeurl
from orlop.dockerd.config import RuntimeConfig
from orlop.errdefs import InvalidArgumentError

ORLOP = "io.containerd.orlop.v2"
RUNC = "io.containerd.runc.v2"
SHIMS = {"orlop": ORLOP, "runc": RUNC, ORLOP: ORLOP, RUNC: RUNC}
"""Runtimes that need no entry in daemon.json."""


class Runtime(NamedTuple):
    """A runtime of containerd with its options; `ours`: the shim itself serves log and attach socket."""

    name: str
    options: Any
    ours: bool


class Runtimes:
    """Docker's runtime names, resolved."""

    def __init__(
        self, configured: Mapping[str, RuntimeConfig], default: str, root: str, *, systemd_cgroup: bool
    ) -> None:
        """`root` is the directory of the runtimes' own state (`orlop-runc --root`), below the exec root."""
        self._configured = configured
        self._root = root
        self._systemd_cgroup = systemd_cgroup
        self.default = default
        self.resolve(default)

    def names(self) -> dict[str, dict[str, object]]:
        """`Runtimes` of GET /info."""
        known: dict[str, dict[str, object]] = {name: {"runtimeType": SHIMS[name]} for name in SHIMS}
        for name, entry in self._configured.items():
            known[name] = {"path": entry.path} if entry.path else {"runtimeType": entry.runtime_type}
            if entry.runtime_args:
                known[name]["runtimeArgs"] = entry.runtime_args
        return known

    def resolve(self, name: str) -> Runtime:
        """The runtime of that name; empty: the default. Raises InvalidArgumentError for an unknown one."""
        name = name or self.default
        entry = self._configured.get(name)
        if entry is None:
            shim = SHIMS.get(name) or (name if name.startswith("io.containerd.") else None)
            if shim is None:
                raise InvalidArgumentError(f"unknown or invalid runtime name: {name}")
            return self._runtime(shim, "")
        if entry.runtime_type:
            shim = SHIMS.get(entry.runtime_type, entry.runtime_type)
            return self._runtime(shim, str(entry.options.get("BinaryName", "")))
        if not entry.path:
            raise InvalidArgumentError(f"runtimes: {name}: neither path nor runtimeType is given")
        if entry.runtime_args:
            raise InvalidArgumentError(f"runtimes: {name}: runtimeArgs are not supported; use a wrapper script")
        return self._runtime(ORLOP, entry.path)

    def _runtime(self, shim: str, binary: str) -> Runtime:
        options = Options(binary_name=binary, root=self._root, systemd_cgroup=self._systemd_cgroup)
        return Runtime(shim, typeurl.pack(options), shim == ORLOP)
