# SPDX-License-Identifier: Apache-2.0
"""orlop-ctr, the debugging client of containerd: finds the command, loads its module, runs it."""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import TYPE_CHECKING, NamedTuple

from orlop.ctr.flags import Flag, Values, duration, parse, usage
from orlop.errdefs import OrlopError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from orlop.containerd.client import Client

DEFAULT_ADDRESS = "/run/orlop/containerd/containerd.sock"


class Command(NamedTuple):
    """One command: what runs it, its flags, the form of its arguments and its help."""

    run: Callable[[Client, Values], Awaitable[int | None]]
    summary: str
    arguments: str = ""
    flags: Sequence[Flag] = ()


# Group -> module; the commands of a group by name are `COMMANDS` in its module, those without one stand under "".
_GROUPS = {
    "containers": "containers",
    "content": "content",
    "deprecations": "deprecations",
    "events": "events",
    "images": "images",
    "info": "info",
    "install": "install",
    "leases": "leases",
    "namespaces": "namespaces",
    "oci": "oci",
    "plugins": "plugins",
    "pprof": "pprof",
    "run": "run",
    "sandboxes": "sandboxes",
    "shim": "shim",
    "snapshots": "snapshots",
    "tasks": "tasks",
    "version": "version",
}
_GROUP_ALIASES = {
    "c": "containers",
    "container": "containers",
    "event": "events",
    "i": "images",
    "image": "images",
    "lease": "leases",
    "namespace": "namespaces",
    "ns": "namespaces",
    "plugin": "plugins",
    "s": "sandboxes",
    "sandbox": "sandboxes",
    "sb": "sandboxes",
    "snapshot": "snapshots",
    "t": "tasks",
    "task": "tasks",
}
_ALIASES = {"ls": "list", "rm": "delete", "del": "delete", "remove": "delete"}

_GLOBAL = (
    Flag("debug", bool, help="enable debug output in logs"),
    Flag("address a", str, DEFAULT_ADDRESS, "address of containerd's GRPC server", "CONTAINERD_ADDRESS"),
    Flag("timeout", duration, 0.0, "total timeout for ctr commands"),
    Flag("connect-timeout", duration, 0.0, "timeout for connecting to containerd"),
    Flag("namespace n", str, "default", "namespace to use with commands", "CONTAINERD_NAMESPACE"),
    Flag("help h", bool, help="show help"),
    Flag("version v", bool, help="print the version"),
)
_SNAPSHOTTER_LABEL = "containerd.io/defaults/snapshotter"
_HELP = Flag("help h", bool, help="show help")


def main(words: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status."""
    try:
        return _run(sys.argv[1:] if words is None else words)
    except OrlopError as error:
        print(f"ctr: {error}", file=sys.stderr)
    except OSError as error:
        print(f"ctr: {f'{error.filename}: ' if error.filename else ''}{error.strerror}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 1


def _run(words: Sequence[str]) -> int:
    options = parse(_GLOBAL, words)
    if options["version"]:
        from orlop import __version__

        print(f"ctr orlop {__version__}")
        return 0
    if options["help"] or not options.arguments:
        print(_overview())
        return 0
    group, *rest = options.arguments
    group = _GROUP_ALIASES.get(group, group)
    if group not in _GROUPS:
        return _unknown(group)
    commands: dict[str, Command] = importlib.import_module(f"orlop.ctr.commands.{_GROUPS[group]}").COMMANDS
    shared: Sequence[Flag] = ()
    title = f"ctr {group}"
    if "" in commands:
        command = commands[""]
    else:
        shared = getattr(sys.modules[f"orlop.ctr.commands.{_GROUPS[group]}"], "FLAGS", ())
        before = parse((*shared, _HELP), rest)
        if before["help"] or not before.arguments:
            print(_group_overview(group, commands))
            return 0
        name, *rest = before.arguments
        name = name if name in commands else _ALIASES.get(name, name)
        if rest and f"{name} {rest[0]}" in commands:
            name = f"{name} {rest.pop(0)}"
        if name not in commands:
            return _unknown(name)
        command = commands[name]
        title += f" {name}"
        # Flags of the group may stand before the command's name or behind it.
        rest = [f"--{flag.names.split()[0]}={before[flag.names.split()[0]]}" for flag in shared] + rest
    values = parse((*command.flags, *shared, _HELP), rest)
    if values["help"]:
        print(usage(title, command.arguments, command.flags, command.summary))
        return 0
    return asyncio.run(_call(command, values, options))


def _unknown(name: str) -> int:
    print(f"No help topic for '{name}'", file=sys.stderr)
    return 3


async def _call(command: Command, values: Values, options: Values) -> int:
    from orlop.containerd.client import Client

    async with Client(options["address"], options["namespace"], owner="orlop-ctr") as client:
        if options["connect-timeout"]:
            await client.connect(options["connect-timeout"])
        async with asyncio.timeout(options["timeout"] or None):
            if values.has("snapshotter") and not values["snapshotter"]:
                values.set("snapshotter", await _default_snapshotter(client))
            return await command.run(client, values) or 0


async def _default_snapshotter(client: Client) -> str:
    """What a label of the namespace says, else containerd's own choice."""
    from orlop.containerd.client import DEFAULT_SNAPSHOTTER
    from orlop.errdefs import NotFoundError

    try:
        namespace = await client.namespaces.get(client.namespace)
    except NotFoundError:
        return DEFAULT_SNAPSHOTTER  # the first object in a namespace makes it
    return namespace.labels.get(_SNAPSHOTTER_LABEL) or DEFAULT_SNAPSHOTTER


def _overview() -> str:
    names = "\n".join(f"   {name}" for name in _GROUPS)
    return usage("ctr", "[global options] command [command options]", _GLOBAL, "a client of containerd") + (
        f"\nCOMMANDS:\n{names}\n"
    )


def _group_overview(group: str, commands: dict[str, Command]) -> str:
    width = max(map(len, commands))
    rows = "\n".join(f"   {name:{width}}  {command.summary}" for name, command in commands.items())
    return f"USAGE:\n   ctr {group} command [command options]\n\nCOMMANDS:\n{rows}\n"


if __name__ == "__main__":
    sys.exit(main())
