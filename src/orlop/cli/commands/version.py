# SPDX-License-Identifier: Apache-2.0
"""`version`: of the client, and of the daemon's components."""

import platform
from typing import Any

from orlop import __version__
from orlop.cli import format as listing
from orlop.cli.command import Command
from orlop.cli.errors import ExitError
from orlop.cli.flags import Args, Flag
from orlop.engine.client import MAX_API_VERSION, Client, ConnectionFailedError


def run(client: Client, args: Args) -> int:
    failure = None
    server: dict[str, Any] | None = None
    try:
        server = client.get("/version")
    except ConnectionFailedError as error:
        failure = error
    details = {"Client": _client(client, connected=server is not None), "Server": server}
    if form := args.text("format"):
        print(listing.fill("{{json .}}" if form == "json" else form, details))
    else:
        _print(details)
    if failure is not None:
        raise ExitError(str(failure))
    return 0


def _client(client: Client, *, connected: bool) -> dict[str, str]:
    default = f"{MAX_API_VERSION[0]}.{MAX_API_VERSION[1]}"
    machine = platform.machine()
    return {
        "Version": __version__,
        "ApiVersion": client.api_version if connected else default,
        "DefaultAPIVersion": default,
        "PythonVersion": platform.python_version(),
        "Os": "linux",
        "Arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine),
        "Context": client.context,
    }


def _print(details: dict[str, Any]) -> None:
    client = details["Client"]
    print("Client:")
    rows = [
        ("Version", client["Version"]),
        ("API version", client["ApiVersion"]),
        ("Python version", client["PythonVersion"]),
        ("OS/Arch", f"{client['Os']}/{client['Arch']}"),
        ("Context", client["Context"]),
    ]
    _rows(rows, " ")
    server = details["Server"]
    if server is None:
        return
    name = (server.get("Platform") or {}).get("Name") or "Engine"
    print(f"\nServer: {name}")
    for component in server.get("Components") or []:
        print(f" {component['Name']}:")
        component_rows = [("Version", component["Version"])]
        for key, value in (component.get("Details") or {}).items():
            label = {"ApiVersion": "API version", "MinAPIVersion": "Minimum API version"}.get(key, key)
            component_rows.append((label, value))
        _rows(component_rows, "  ")


def _rows(rows: list[tuple[str, str]], indent: str) -> None:
    for label, value in rows:
        print(f"{indent}{label + ':':<19}{value}")


VERSION = Command(
    "version [OPTIONS]",
    "Show the Docker version information",
    run,
    flags=[Flag("format", "f", "string", "Format output using a custom template: 'json' or a Go template")],
)
