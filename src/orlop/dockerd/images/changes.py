# SPDX-License-Identifier: Apache-2.0
"""Dockerfile instructions that change an image's configuration: `--change` of `docker import` and `commit`."""

import json
import re
import shlex
from collections.abc import Callable, Sequence

import msgspec

from orlop.errdefs import InvalidArgumentError
from orlop.oci.image import ImageConfig

Apply = Callable[[ImageConfig, str], None]


def apply_changes(config: ImageConfig, changes: Sequence[str]) -> ImageConfig:
    """A copy of a configuration after some instructions. Raises InvalidArgumentError naming it."""
    changed = msgspec.json.decode(msgspec.json.encode(config), type=ImageConfig)
    for change in changes:
        for line in change.splitlines():
            if not line.strip():
                continue
            instruction, _, arguments = line.strip().partition(" ")
            apply = _INSTRUCTIONS.get(instruction.upper())
            if apply is None:
                raise InvalidArgumentError(f"{instruction.upper()} is not a valid change command")
            if not arguments.strip():
                raise InvalidArgumentError(f"{instruction.upper()} requires at least one argument")
            apply(changed, arguments.strip())
    return changed


def _command(text: str) -> list[str]:
    """The JSON form as it is, the shell form under a shell."""
    if text.startswith("["):
        try:
            return msgspec.json.decode(text, type=list[str])
        except msgspec.DecodeError:
            pass  # Docker takes broken JSON as the shell form too
    return ["/bin/sh", "-c", text]


def _pairs(instruction: str, text: str) -> list[tuple[str, str]]:
    """`KEY=value KEY="a value"`, or the old form `KEY the rest`."""
    first = text.split(None, 1)
    if "=" not in first[0]:
        if len(first) < 2:
            raise InvalidArgumentError(f"{instruction} must have two arguments")
        return [(first[0], first[1])]
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidArgumentError(f"{instruction} {text}: {error}") from None
    pairs = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise InvalidArgumentError(f"{instruction}: syntax error, can't find = in {word!r}")
        pairs.append((key, value))
    return pairs


def _list(text: str) -> list[str]:
    if text.startswith("["):
        try:
            return [str(item) for item in json.loads(text)]
        except ValueError:
            pass
    return text.split()


def _cmd(config: ImageConfig, text: str) -> None:
    config.cmd = _command(text)


def _entrypoint(config: ImageConfig, text: str) -> None:
    config.entrypoint = _command(text)


def _env(config: ImageConfig, text: str) -> None:
    for key, value in _pairs("ENV", text):
        config.env = [item for item in config.env if item.partition("=")[0] != key] + [f"{key}={value}"]


def _label(config: ImageConfig, text: str) -> None:
    config.labels |= dict(_pairs("LABEL", text))


def _expose(config: ImageConfig, text: str) -> None:
    for port in text.split():
        if not re.fullmatch(r"[0-9]+(-[0-9]+)?(/(tcp|udp|sctp))?", port):
            raise InvalidArgumentError(f"invalid containerPort: {port}")
        config.exposed_ports[port if "/" in port else port + "/tcp"] = {}


def _volume(config: ImageConfig, text: str) -> None:
    for path in _list(text):
        config.volumes[path] = {}


def _user(config: ImageConfig, text: str) -> None:
    config.user = text


def _workdir(config: ImageConfig, text: str) -> None:
    import posixpath

    config.working_dir = posixpath.normpath(posixpath.join(config.working_dir or "/", text))


def _stopsignal(config: ImageConfig, text: str) -> None:
    config.stop_signal = text


def _onbuild(config: ImageConfig, text: str) -> None:
    config.on_build = [*(config.on_build or []), text]


def _shell(config: ImageConfig, text: str) -> None:
    config.shell = _list(text)


_INSTRUCTIONS: dict[str, Apply] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "SHELL": _shell,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
