# SPDX-License-Identifier: Apache-2.0
"""`--use-api-socket`: the daemon's socket in the container, and with it what the user is logged in with."""

import base64
import io
import json
import tarfile
from typing import Any

from orlop.cli.errors import ExitError
from orlop.engine import credentials
from orlop.engine.client import Client

_SOCKET = "/var/run/docker.sock"
_DIRECTORY = "/run/secrets/docker"


def request(client: Client, body: dict[str, Any]) -> dict[str, Any]:
    """Put the socket into a container's body; the registries' credentials that `deliver` shall bring.

    Raises ExitError where the daemon is not at a Unix socket.
    """
    scheme, _, path = client.host.partition("://")
    if scheme != "unix":
        raise ExitError(f"--use-api-socket needs a daemon at a Unix socket, not at {client.host}", 125)
    socket = {"Type": "bind", "Source": path, "Target": _SOCKET, "BindOptions": {}}
    body["HostConfig"]["Mounts"] = [*(body["HostConfig"]["Mounts"] or []), socket]
    config = credentials.read_config()
    known = {
        key: credentials.lookup(key)
        for key in {**(config.get("auths") or {}), **(config.get("credHelpers") or {})}
    }
    auths = {key: _entry(found) for key, found in known.items() if found}
    if auths and not any(each.startswith("DOCKER_CONFIG=") for each in body["Env"] or []):
        body["Env"] = [*(body["Env"] or []), f"DOCKER_CONFIG={_DIRECTORY}"]
        return auths
    return {}


def deliver(client: Client, container: str, auths: dict[str, Any]) -> None:
    """Write the credentials into the container that has been made. Raises EngineError."""
    if not auths:
        return
    content = json.dumps({"auths": auths}).encode()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo(f"{_DIRECTORY[1:]}/config.json")
        member.size, member.mode = len(content), 0o600
        tar.addfile(member, io.BytesIO(content))
    headers = {"Content-Type": "application/x-tar"}
    client.request("PUT", f"/containers/{container}/archive", {"path": "/"}, archive.getvalue(), headers).read()


def _entry(found: dict[str, Any]) -> dict[str, str]:
    """A registry's entry in config.json."""
    if token := found.get("identitytoken"):
        return {"identitytoken": token}
    return {"auth": base64.b64encode(f"{found['username']}:{found['password']}".encode()).decode()}
