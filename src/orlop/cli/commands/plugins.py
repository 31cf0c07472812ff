# SPDX-License-Identifier: Apache-2.0
"""`plugin`: plugins that the daemon manages. Daemons that manage none say so."""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from orlop.cli import format as listing
from orlop.cli.command import Command
from orlop.cli.confirm import confirmed
from orlop.cli.errors import ExitError
from orlop.cli.flags import Args, Flag
from orlop.cli.format import Column
from orlop.cli.pulling import show_progress
from orlop.cli.table import shorten
from orlop.engine.client import Client, EngineError
from orlop.engine.credentials import registry_auth

_COLUMNS = [
    Column("ID", "ID"),
    Column("Name", "NAME"),
    Column("Description", "DESCRIPTION"),
    Column("Enabled", "ENABLED"),
    Column("PluginReference", "REFERENCE"),
]


def _list(client: Client, args: Args) -> int:
    full, as_json = args.flag("no-trunc"), args.text("format") == "json"
    rows = []
    for plugin in client.get("/plugins", {"filters": listing.parse_filters(args.items("filter"))}) or []:
        description = (plugin["Config"].get("Description") or "").replace("\n", " ").replace("\r", " ")
        rows.append(
            {
                "ID": plugin["Id"] if full else plugin["Id"][:12],
                "Name": plugin["Name"],
                "Description": description if full else shorten(description, 45),
                "Enabled": plugin["Enabled"] if as_json else _word(plugin["Enabled"]),
                "PluginReference": plugin.get("PluginReference", ""),
            }
        )
    shown = ["ID", "Name", "Description", "Enabled"]
    quiet = "ID" if args.flag("quiet") else ""
    print(listing.render_rows(rows, args.text("format"), shown, _COLUMNS, quiet_field=quiet), end="")
    return 0


def _word(value: bool) -> str:
    return "true" if value else "false"


def _enable(client: Client, args: Args) -> int:
    if args.number("timeout") < 0:
        raise ExitError(f"negative timeout {args.number('timeout')} is invalid")
    name = args.positional[0]
    client.post(f"/plugins/{name}/enable", {"timeout": args.number("timeout")})
    print(name)
    return 0


def _disable(client: Client, args: Args) -> int:
    name = args.positional[0]
    client.post(f"/plugins/{name}/disable", {"force": args.flag("force") or None})
    print(name)
    return 0


def _remove(client: Client, args: Args) -> int:
    status = 0
    for name in args.positional:
        try:
            client.delete(f"/plugins/{name}", {"force": args.flag("force") or None})
            print(name)
        except EngineError as error:
            print(f"Error response from daemon: {error}", file=sys.stderr)
            status = 1
    return status


def _set(client: Client, args: Args) -> int:
    client.post(f"/plugins/{args.positional[0]}/set", None, args.positional[1:])
    return 0


def _push(client: Client, args: Args) -> int:
    name = args.positional[0]
    headers = registry_auth(name) or {"X-Registry-Auth": "e30="}
    show_progress(client.stream("POST", f"/plugins/{name}/push", headers=headers).lines(), sys.stdout)
    return 0


def _install(client: Client, args: Args) -> int:
    remote, *settings = args.positional
    local = args.text("alias") or remote
    _fetch(client, args, remote, "/plugins/pull", {"remote": remote, "name": local})
    if settings:
        client.post(f"/plugins/{local}/set", None, settings)
    if not args.flag("disable"):
        client.post(f"/plugins/{local}/enable", {"timeout": 0})
    print(f"Installed plugin {remote}")
    return 0


def _upgrade(client: Client, args: Args) -> int:
    name = args.positional[0]
    known = client.get(f"/plugins/{name}/json")
    if known["Enabled"]:
        raise ExitError("the plugin must be disabled before upgrading")
    remote = args.positional[1] if len(args.positional) > 1 else known.get("PluginReference") or name
    print(f"Upgrading plugin {name} from {known.get('PluginReference', '')} to {remote}")
    other = known.get("PluginReference", "").rpartition(":")[0] != remote.rpartition(":")[0]
    question = "Plugin images do not match, are you sure?"
    if other and not args.flag("skip-remote-check") and not confirmed(question, forced=False):
        raise ExitError("canceling upgrade request")
    _fetch(client, args, remote, f"/plugins/{name}/upgrade", {"remote": remote})
    print(f"Upgraded plugin {name} to {remote}")
    return 0


def _fetch(client: Client, args: Args, remote: str, path: str, query: dict[str, str]) -> None:
    """Ask for what the plugin wants, then have the daemon fetch it. Raises ExitError, EngineError."""
    headers = registry_auth(remote)
    answer = client.request("GET", "/plugins/privileges", {"remote": remote}, None, headers).read()
    privileges = json.loads(answer) or []
    if not confirmed(_wants(remote, privileges), args.flag("grant-all-permissions") or not privileges):
        raise ExitError("permission denied while installing plugin " + remote)
    response = client.stream("POST", path, query, privileges, headers)
    show_progress(response.lines(), sys.stdout)


def _wants(remote: str, privileges: list[dict[str, Any]]) -> str:
    lines = [f" - {each['Name']}: [{' '.join(each['Value'])}]" for each in privileges]
    return "\n".join([f'Plugin "{remote}" is requesting the following privileges:', *lines])


def _create(client: Client, args: Args) -> int:
    name, directory = args.positional
    for part, is_kind in (("config.json", os.path.isfile), ("rootfs", os.path.isdir)):
        if not is_kind(f"{directory}/{part}"):
            raise ExitError(f"plugin data directory {directory}: expected {part} in it")
    headers = {"Content-Type": "application/x-tar"}
    response = client.stream("POST", "/plugins/create", {"name": name}, _tar(directory, args), headers)
    response.read()
    print(name)
    return 0


def _tar(directory: str, args: Args) -> Iterator[bytes]:
    """config.json and rootfs as a tar, made in a temporary file."""
    import tarfile
    import tempfile

    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w:gz" if args.flag("compress") else "w") as tar:
            for part in ("config.json", "rootfs"):
                tar.add(f"{directory}/{part}", part)
        file.seek(0)
        while chunk := file.read(1 << 18):
            yield chunk


_GRANT = Flag("grant-all-permissions", "", "bool", "Grant all permissions necessary to run the plugin")
_TRUST = Flag("disable-content-trust", "", "bool", "Skip image verification (default true)", default=True)
_FORCE_DISABLE = Flag("force", "f", "bool", "Force the disable of an active plugin")

LIST = Command(
    "ls [OPTIONS]",
    "List plugins",
    _list,
    flags=[
        Flag("filter", "f", "list", 'Provide filter values (e.g. "enabled=true")', shown_kind="filter"),
        Flag("format", "", "string", listing.HELP),
        Flag("no-trunc", "", "bool", "Don't truncate output"),
        Flag("quiet", "q", "bool", "Only display plugin IDs"),
    ],
)
ENABLE = Command(
    "enable [OPTIONS] PLUGIN",
    "Enable a plugin",
    _enable,
    flags=[Flag("timeout", "", "int", "HTTP client timeout (in seconds) (default 30)", default=30)],
    min_args=1,
    max_args=1,
)
DISABLE = Command(
    "disable [OPTIONS] PLUGIN", "Disable a plugin", _disable, flags=[_FORCE_DISABLE], min_args=1, max_args=1
)
REMOVE = Command(
    "rm [OPTIONS] PLUGIN [PLUGIN...]",
    "Remove one or more plugins",
    _remove,
    flags=[Flag("force", "f", "bool", "Force the removal of an active plugin")],
    min_args=1,
    max_args=None,
)
SET = Command(
    "set PLUGIN KEY=VALUE [KEY=VALUE...]", "Change settings for a plugin", _set, min_args=2, max_args=None
)
PUSH = Command(
    "push [OPTIONS] PLUGIN[:TAG]", "Push a plugin to a registry", _push, flags=[_TRUST], min_args=1, max_args=1
)
INSTALL = Command(
    "install [OPTIONS] PLUGIN [KEY=VALUE...]",
    "Install a plugin",
    _install,
    flags=[
        Flag("alias", "", "string", "Local name for plugin"),
        Flag("disable", "", "bool", "Do not enable the plugin on install"),
        _TRUST,
        _GRANT,
    ],
    min_args=1,
    max_args=None,
)
UPGRADE = Command(
    "upgrade [OPTIONS] PLUGIN [REMOTE]",
    "Upgrade an existing plugin",
    _upgrade,
    flags=[
        _TRUST,
        _GRANT,
        Flag(
            "skip-remote-check",
            "",
            "bool",
            "Do not check if specified remote plugin matches existing plugin image",
        ),
    ],
    min_args=1,
    max_args=2,
)
CREATE = Command(
    "create [OPTIONS] PLUGIN PLUGIN-DATA-DIR",
    "Create a plugin from a rootfs and configuration. Plugin data directory must contain config.json and rootfs "
    "directory.",
    _create,
    flags=[Flag("compress", "", "bool", "Compress the context using gzip")],
    min_args=2,
    max_args=2,
)
