# SPDX-License-Identifier: Apache-2.0
"""Contexts: named daemons, kept below ~/.docker/contexts as Docker keeps them, so that the two share them.

`meta/<sha256 of the name>/meta.json` says where the daemon is, `tls/<the same>/docker/` has `ca.pem`, `cert.pem`
and `key.pem`; `currentContext` in config.json is the one in use.
"""

import json
import os
from typing import Any, NamedTuple

from orlop.engine import credentials
from orlop.errdefs import AlreadyExistsError, InvalidArgumentError, NotFoundError, UnavailableError

DEFAULT = "default"
TLS_FILES = ("ca.pem", "cert.pem", "key.pem")
NAME_PATTERN = "^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$"
_ENDPOINT = "docker"

Json = dict[str, Any]


class Endpoint(NamedTuple):
    """Where a daemon is, `unix:///path` or `tcp://host:port`, and where its TLS files are (empty: no TLS)."""

    host: str
    tls_directory: str = ""
    skip_tls_verify: bool = False


def chosen(flag: str = "") -> str:
    """The context in use: that of the flag, DOCKER_CONTEXT or config.json; `default` where DOCKER_HOST is set."""
    if flag:
        return flag
    if os.environ.get("DOCKER_HOST"):
        return DEFAULT
    return os.environ.get("DOCKER_CONTEXT") or configured() or DEFAULT


def configured() -> str:
    """`currentContext` of config.json; empty where there is none."""
    return str(credentials.read_config().get("currentContext") or "")


def use(name: str) -> None:
    """Make a context the one in use. Raises NotFoundError, UnavailableError."""
    if name != DEFAULT:
        read(name)
    config = credentials.read_config()
    if name == DEFAULT:
        config.pop("currentContext", None)
    else:
        config["currentContext"] = name
    credentials.write_config(config)


def names() -> list[str]:
    """The names of all contexts but `default`, sorted."""
    base = f"{_base()}/meta"
    found = []
    for entry in os.listdir(base) if os.path.isdir(base) else []:
        try:
            with open(f"{base}/{entry}/meta.json", encoding="utf-8") as file:
                found.append(str(json.load(file)["Name"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # half removed, or not a context: nothing to be listed
    return sorted(found)


def read(name: str) -> Json:
    """The metadata of a context: Name, Metadata, Endpoints. Raises NotFoundError, InvalidArgumentError."""
    path = f"{metadata_directory(name)}/meta.json"
    try:
        with open(path, encoding="utf-8") as file:
            metadata = json.load(file)
    except FileNotFoundError:
        raise NotFoundError(
            f'context "{name}": context not found: open {path}: no such file or directory'
        ) from None
    except (OSError, ValueError) as error:
        raise InvalidArgumentError(f'context "{name}": {path}: {error}') from None
    if not isinstance(metadata, dict):
        raise InvalidArgumentError(f'context "{name}": {path}: expected a JSON object')
    return metadata


def endpoint(name: str) -> Endpoint:
    """Where a context's daemon is. Raises NotFoundError, InvalidArgumentError."""
    docker = (read(name).get("Endpoints") or {}).get(_ENDPOINT) or {}
    if not docker.get("Host"):
        raise InvalidArgumentError(f'context "{name}": it has no docker endpoint')
    directory = f"{tls_directory(name)}/{_ENDPOINT}"
    has_tls = os.path.isdir(directory) or docker.get("SkipTLSVerify")
    return Endpoint(docker["Host"], directory if has_tls else "", bool(docker.get("SkipTLSVerify")))


def tls_of(name: str) -> dict[str, bytes]:
    """The TLS files of a context by name."""
    found = {}
    for file_name in TLS_FILES:
        try:
            with open(f"{tls_directory(name)}/{_ENDPOINT}/{file_name}", "rb") as file:
                found[file_name] = file.read()
        except FileNotFoundError:
            continue
    return found


def write(metadata: Json, tls: dict[str, bytes] | None = None, *, replace: bool = False) -> None:
    """Keep a context; `tls` None leaves the files that it has. Raises AlreadyExistsError, InvalidArgumentError."""
    name = str(metadata["Name"])
    check_name(name)
    directory = metadata_directory(name)
    if os.path.exists(directory) and not replace:
        raise AlreadyExistsError(f'context "{name}" already exists')
    import shutil

    try:
        if tls is not None:
            shutil.rmtree(tls_directory(name), ignore_errors=True)
            for file_name, data in tls.items():
                _put(f"{tls_directory(name)}/{_ENDPOINT}", file_name, data)
        _put(directory, "meta.json", json.dumps(metadata, separators=(",", ":")).encode())
    except OSError as error:
        raise UnavailableError(f'context "{name}": {error.filename}: {error.strerror}') from None


def remove(name: str) -> None:
    """Forget a context. Raises NotFoundError, UnavailableError."""
    if not os.path.exists(metadata_directory(name)):
        raise NotFoundError(f'context "{name}" does not exist')
    import shutil

    try:
        shutil.rmtree(metadata_directory(name))
        shutil.rmtree(tls_directory(name), ignore_errors=True)
    except OSError as error:
        raise UnavailableError(f'context "{name}": {error.filename}: {error.strerror}') from None


def check_name(name: str) -> None:
    """Raise InvalidArgumentError for what cannot be the name of a context that is kept."""
    import re

    if name == DEFAULT:
        raise InvalidArgumentError(f'"{DEFAULT}" is a reserved context name')
    if not re.match(NAME_PATTERN, name):
        raise InvalidArgumentError(
            f'context name "{name}" is invalid, names are validated against regexp "{NAME_PATTERN}"'
        )


def metadata_directory(name: str) -> str:
    """Where the metadata of a context is."""
    return f"{_base()}/meta/{_key(name)}"


def tls_directory(name: str) -> str:
    """Where the TLS files of a context's endpoints are."""
    return f"{_base()}/tls/{_key(name)}"


def _base() -> str:
    return os.path.join(os.path.dirname(credentials.config_path()), "contexts")


def _key(name: str) -> str:
    import hashlib

    return hashlib.sha256(name.encode()).hexdigest()


def _put(directory: str, name: str, data: bytes) -> None:
    os.makedirs(directory, 0o700, exist_ok=True)
    draft = f"{directory}/.{name}.{os.getpid()}"
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)
    os.replace(draft, f"{directory}/{name}")
