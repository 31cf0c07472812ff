# SPDX-License-Identifier: Apache-2.0
"""The network of `ctr run --cni`: plugins of the Container Network Interface (cni.dev, specification 1.0).

A plugin is a program: parameters come in variables, the configuration on standard input, and the result is JSON on
standard output. Each plugin of a list gets the result of the one before.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

from orlop.errdefs import FailedPreconditionError, InternalError, InvalidArgumentError, OrlopError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CONFIGURATIONS = "/etc/cni/net.d"
"""Where networks are described; NETCONFPATH names another directory, as for cnitool."""
PROGRAMS = ("/opt/cni/bin", "/usr/lib/cni")
"""Where plugins lie; CNI_PATH names other directories."""
INTERFACE = "eth0"
_EXTENSIONS = (".conf", ".conflist", ".json")
_TIMEOUT = 60.0  # seconds for one plugin


class Network(NamedTuple):
    """A network: its name, the version of the specification, and the configuration of each plugin in order."""

    name: str
    version: str
    plugins: Sequence[Mapping[str, Any]]
    programs: Sequence[str] = PROGRAMS

    def setup(self, id: str, netns: str) -> dict[str, Any]:
        """Connect a container; nothing is left where a plugin fails. Raises InternalError with its words."""
        result: dict[str, Any] = {}
        try:
            for plugin in self.plugins:
                result = self._run("ADD", plugin, id, netns, result) or result
        except OrlopError:
            self.remove(id, netns, strict=False)
            raise
        return result

    def remove(self, id: str, netns: str = "", *, strict: bool = True) -> None:
        """Take a container off the network; `netns` may be gone. Raises InternalError, if `strict`."""
        for plugin in reversed(self.plugins):
            try:
                self._run("DEL", plugin, id, netns, {})
            except OrlopError:
                if strict:
                    raise

    def _run(
        self, command: str, plugin: Mapping[str, Any], id: str, netns: str, before: Mapping[str, Any]
    ) -> dict[str, Any]:
        program = _program(str(plugin.get("type", "")), self.programs)
        configuration = {**plugin, "name": self.name, "cniVersion": self.version}
        if before:
            configuration["prevResult"] = before
        variables = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": id,
            "CNI_NETNS": netns,
            "CNI_IFNAME": INTERFACE,
            "CNI_ARGS": "",
            "CNI_PATH": ":".join(self.programs),
        }
        try:
            done = subprocess.run(
                [program],
                input=json.dumps(configuration).encode(),
                capture_output=True,
                env={**os.environ, **variables},
                timeout=_TIMEOUT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InternalError(f"cni: plugin {program}: {error}") from None
        if done.returncode:
            raise InternalError(f"cni: plugin {program} ({command}): {_complaint(done.stdout, done.stderr)}")
        return _result(done.stdout, program) if command == "ADD" else {}


def default_network() -> Network:
    """The first network described on this machine. Raises FailedPreconditionError, InvalidArgumentError."""
    directory = os.environ.get("NETCONFPATH") or CONFIGURATIONS
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(_EXTENSIONS))
    except OSError:
        names = []
    if not names:
        raise FailedPreconditionError(f"cni: no network config found in {directory}")
    path = os.path.join(directory, names[0])
    with open(path, "rb") as file:
        network = parse(file.read(), path)
    given = os.environ.get("CNI_PATH")
    return network._replace(programs=given.split(":")) if given else network


def parse(raw: bytes, path: str) -> Network:
    """A configuration, of one plugin or a list. Raises InvalidArgumentError that names the file and the field."""
    try:
        document = json.loads(raw)
    except ValueError as error:
        raise InvalidArgumentError(f"{path}: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("name"), str) or not document["name"]:
        raise InvalidArgumentError(f"{path}: name: expected a text")
    plugins = document.get("plugins", [document])
    if not isinstance(plugins, list) or not plugins or not all(isinstance(one, dict) for one in plugins):
        raise InvalidArgumentError(f"{path}: plugins: expected a list of at least one plugin")
    for one in plugins:
        name = one.get("type")
        if not isinstance(name, str) or not name or "/" in name:
            raise InvalidArgumentError(f"{path}: type: expected the name of a plugin")
    return Network(document["name"], str(document.get("cniVersion", "0.2.0")), plugins)


def _program(name: str, directories: Sequence[str]) -> str:
    for directory in directories:
        path = os.path.join(directory, name)
        if os.access(path, os.X_OK):
            return path
    raise FailedPreconditionError(f"cni: failed to find plugin {name!r} in {':'.join(directories)}")


def _complaint(out: bytes, err: bytes) -> str:
    """What a plugin that failed says: an error document, else whatever it wrote."""
    try:
        document = json.loads(out)
        words = [str(document[key]) for key in ("msg", "details") if document.get(key)]
    except (ValueError, TypeError, AttributeError):
        words = []
    return ": ".join(words) or err.decode(errors="replace").strip() or "it gave no reason"


def _result(out: bytes, program: str) -> dict[str, Any]:
    try:
        found = json.loads(out) if out.strip() else {}
    except ValueError as error:
        raise InternalError(f"cni: plugin {program}: its result is no JSON: {error}") from None
    return found if isinstance(found, dict) else {}
