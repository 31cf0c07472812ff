# SPDX-License-Identifier: Apache-2.0
"""Reads daemon.json, and merges it with the flags: nothing may be said twice, nothing unknown is passed over."""

import codecs
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from orlop.dockerd.config import Config
from orlop.dockerd.config_check import check
from orlop.dockerd.flags import Options
from orlop.errdefs import InvalidArgumentError

_FLAT = frozenset(
    {"builder", "default-network-opts", "default-ulimits", "features", "log-opts", "nri-opts", "runtimes"}
)
"""Keys whose value is an object of the user's own names; that of any other key is looked into."""
_MERGED = frozenset({"runtimes"})
"""Keys that may be given both in the file and by flags."""
_PROXIES = frozenset({"http-proxy", "https-proxy", "no-proxy"})

_WITHOUT_EFFECT = frozenset(
    {
        "allow-nondistributable-artifacts",
        "builder",
        "containerd-plugins-namespace",
        "deprecated-key-path",
        "network-control-plane-mtu",
        "network-diagnostic-port",
        "swarm-default-advertise-addr",
    }
)
"""Keys of Docker's daemon.json for what this daemon does not do (swarm, build), or that have no effect there."""
_REFUSED = {
    "cpu-rt-period": "the CPU time of all containers together cannot be limited; limit that of each one",
    "cpu-rt-runtime": "the CPU time of all containers together cannot be limited; limit that of each one",
    "cri-containerd": "containerd is not started by this daemon",
    "nri-opts": "there is no Node Resource Interface",
    "rootless": "rootless mode is not supported",
    "selinux-enabled": "SELinux is not supported",
    "storage-opts": "snapshotters take their options from containerd's configuration",
}
"""Settings whose absence a user would be surprised by: anything but "off" is refused."""
_OFF: tuple[object, ...] = (False, 0, "", [], {}, None, {"enable": False}, "enable=false")
_KEYS = frozenset(field.encode_name for field in msgspec.structs.fields(Config))


def load(options: Options) -> Config:
    """Merge file and flags, and check the whole. Raises InvalidArgumentError with one line that names the key."""
    from_file = read(options)
    settings = {**from_file, **_with_effect(options.settings)}
    for key in _MERGED & from_file.keys() & options.settings.keys():
        settings[key] = {**from_file[key], **options.settings[key]}
    if proxies := {key: settings.pop(key) for key in settings.keys() & _PROXIES}:
        settings["proxies"] = proxies
    try:
        config = msgspec.convert(settings, Config)
    except msgspec.ValidationError as error:
        raise InvalidArgumentError(f"invalid configuration: {error}") from None
    check(config)
    return config


def read(options: Options) -> dict[str, Any]:
    """The file's settings, without those that have no effect. Raises InvalidArgumentError."""
    try:
        return _settings(_parse(Path(options.config_file), required=options.explicit_file), options.settings)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(
            f"unable to configure the Docker daemon with file {options.config_file}: {error}"
        ) from None


def _parse(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        if required:
            raise InvalidArgumentError(f"open {path}: no such file or directory") from None
        return {}
    except OSError as error:
        raise InvalidArgumentError(f"open {path}: {error.strerror}") from None
    try:
        # Editors of Windows begin a file with a mark that tells UTF-16 from UTF-8.
        marked = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = raw.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"failed to decode configuration JSON at offset {error.start}") from None
    if not text.strip():
        return {}
    try:
        parsed = json.loads(text, object_pairs_hook=_no_duplicates)
    except json.JSONDecodeError as error:
        raise InvalidArgumentError(f"invalid JSON: line {error.lineno}: {error.msg}") from None
    if not isinstance(parsed, dict):
        raise InvalidArgumentError("invalid JSON: not an object")
    return parsed


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidArgumentError(f"duplicate key {twice}")
    return result


def _settings(parsed: dict[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    flat = _flatten(parsed)
    known = _KEYS | _PROXIES | _WITHOUT_EFFECT | _REFUSED.keys() | {"host-gateway-ip"}
    if unknown := sorted(flat.keys() - known):
        raise InvalidArgumentError(
            f"the following directives don't match any configuration option: {', '.join(unknown)}"
        )
    _check_conflicts(flat, flags)
    settings = _with_effect(flat)
    if flat.get("host-gateway-ip"):
        settings["host-gateway-ips"] = [flat["host-gateway-ip"]]
    return settings


def _with_effect(given: Mapping[str, Any]) -> dict[str, Any]:
    for key, why in _REFUSED.items():
        if given.get(key) not in _OFF:
            raise InvalidArgumentError(f"{key}: {why}")
    known = _KEYS | _PROXIES
    return {key: value for key, value in given.items() if key in known and value is not None}


def _flatten(parsed: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in parsed.items():
        if isinstance(value, dict) and key not in _FLAT:
            flat.update(value)
        else:
            flat[key] = value
    return flat


def _check_conflicts(flat: Mapping[str, Any], flags: Mapping[str, Any]) -> None:
    given = dict(flags)
    errors = []
    if "host-gateway-ip" in flat and "host-gateway-ips" in flat:
        errors.append("host-gateway-ip and host-gateway-ips must not both be specified in the config file")
    if "host-gateway-ip" in flat and "host-gateway-ips" in given:
        given["host-gateway-ip"] = given["host-gateway-ips"]
    twice = [
        f"{key}: (from flag: {_shown(given[key])}, from file: {_shown(flat[key])})"
        for key in sorted(flat.keys() & given.keys() - _MERGED)
    ]
    if twice:
        errors.append(
            "the following directives are specified both as a flag and in the configuration file: "
            + ", ".join(twice)
        )
    if errors:
        raise InvalidArgumentError("; ".join(errors))


def _shown(value: Any) -> str:
    """A value as Go prints it, without the password of a URL."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{' '.join(_shown(item) for item in value)}]"
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{_shown(item)}' for key, item in sorted(value.items()))}]"
    text = str(value)
    scheme, separator, rest = text.partition("://")
    if separator and "@" in rest:
        return f"{scheme}://xxxxx:xxxxx@{rest.rpartition('@')[2]}"
    return text
