# SPDX-License-Identifier: Apache-2.0
"""Credentials of registries in a user's config.json, or in the helper programs that it names."""

import base64
import json
import os
from typing import Any

from orlop.errdefs import InvalidArgumentError, UnavailableError

HUB = "https://index.docker.io/v1/"
_TOKEN_USER = "<token>"

Json = dict[str, Any]


def config_path() -> str:
    """The client's configuration file."""
    return os.path.join(os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"), "config.json")


def registry_of(name: str) -> str:
    """The key of config.json for the registry of an image."""
    first, slash, _ = name.partition("/")
    host = first if slash and (any(c in first for c in ".:") or first == "localhost") else ""
    return HUB if host in ("", "docker.io", "index.docker.io") else host


def registry_auth(name: str) -> dict[str, str]:
    """The X-Registry-Auth header for the registry of an image; none without credentials."""
    key = registry_of(name)
    found = lookup(key)
    if found is None:
        return {}
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(found).encode()).decode()}


def lookup(key: str) -> Json | None:
    """The AuthConfig for a registry, as the Engine API wants it; None where there are no credentials.

    Raises InvalidArgumentError for a malformed file or answer, UnavailableError for a helper that does not start.
    """
    config = read_config()
    helper = _helper(config, key)
    if helper:
        answer = _call(helper, "get", key)
        if answer is None:
            return None
        try:
            secret = json.loads(answer)
            user, password = str(secret["Username"]), str(secret["Secret"])
        except (ValueError, KeyError, TypeError):
            raise InvalidArgumentError(
                f"error getting credentials - docker-credential-{helper}: expected Username and Secret as JSON"
            ) from None
        if user == _TOKEN_USER:
            return {"identitytoken": password, "serveraddress": key}
        return {"username": user, "password": password, "serveraddress": key}
    entry = (config.get("auths") or {}).get(key)
    if not entry:
        return None
    found = {"serveraddress": key}
    if entry.get("auth"):
        try:
            user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
        except (ValueError, TypeError):
            raise InvalidArgumentError(
                f"{config_path()}: auths: {key}: auth is not base64 of user:password"
            ) from None
        found |= {"username": user, "password": password.rstrip("\0")}
    if entry.get("identitytoken"):
        found = {"identitytoken": entry["identitytoken"], "serveraddress": key}
    return found if len(found) > 1 else None


def store(key: str, user: str, password: str, token: str = "") -> bool:
    """Keep credentials; True if they are in the file, as they are. Raises UnavailableError."""
    config = read_config()
    helper = _helper(config, key)
    if helper:
        secret = {"ServerURL": key, "Username": _TOKEN_USER if token else user, "Secret": token or password}
        _call(helper, "store", json.dumps(secret), must=True)
        return False
    entry = {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}
    if token:
        entry = {"auth": base64.b64encode(f"{user}:".encode()).decode(), "identitytoken": token}
    config.setdefault("auths", {})[key] = entry
    write_config(config)
    return True


def erase(key: str) -> bool:
    """Forget credentials; whether there were some. Raises UnavailableError."""
    config = read_config()
    helper = _helper(config, key)
    if helper:
        return _call(helper, "erase", key) is not None
    if (config.get("auths") or {}).pop(key, None) is None:
        return False
    write_config(config)
    return True


def _helper(config: Json, key: str) -> str:
    return str((config.get("credHelpers") or {}).get(key) or config.get("credsStore") or "")


def _call(helper: str, verb: str, text: str, *, must: bool = False) -> str | None:
    """Ask docker-credential-<helper>; None where it refuses (it knows no such credentials)."""
    import subprocess

    program = f"docker-credential-{helper}"
    try:
        result = subprocess.run([program, verb], input=text, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UnavailableError(f"error getting credentials - {program}: {error.strerror}") from None
    if result.returncode == 0:
        return result.stdout
    if must:
        raise UnavailableError(f"Error saving credentials: {(result.stdout or result.stderr).strip()}")
    return None


def read_config() -> Json:
    path = config_path()
    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InvalidArgumentError(f"Error loading config file: {path}: {error}") from None
    return config if isinstance(config, dict) else {}


def write_config(config: Json) -> None:
    """Replace the file at once; nobody else may read it."""
    path = os.path.realpath(config_path())
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    draft = f"{path}.{os.getpid()}"
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(config, file, indent="\t")
        os.replace(draft, path)
    except OSError as error:
        raise UnavailableError(f"error saving credentials: {path}: {(error.strerror or '').lower()}") from None
