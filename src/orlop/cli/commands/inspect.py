# SPDX-License-Identifier: Apache-2.0
"""`inspect` of containers, images, volumes, networks and plugins, together or by kind."""

import sys
from collections.abc import Callable
from typing import Any

from orlop.cli import format as listing
from orlop.cli.command import Command
from orlop.cli.errors import ExitError
from orlop.cli.flags import Args, Flag
from orlop.cli.platforms import as_json
from orlop.engine.client import Client, EngineError, Query

# kind → path of the object with that name
_PATHS: dict[str, str] = {
    "container": "/containers/{}/json",
    "image": "/images/{}/json",
    "network": "/networks/{}",
    "volume": "/volumes/{}",
    "plugin": "/plugins/{}/json",
}


def _run_for(kinds: tuple[str, ...]) -> Callable[[Client, Args], int]:
    def run(client: Client, args: Args) -> int:
        wanted: tuple[str, ...] = kinds
        if len(kinds) > 1 and (kind := args.text("type")):
            if kind not in _PATHS:
                raise ExitError(f'unknown type: "{kind}"')
            wanted = (kind,)
        queries: dict[str, Query] = {
            "container": {"size": True if _given(args, "size") else None},
            "network": {"verbose": True if _given(args, "verbose") else None},
            "image": {"platform": as_json(args.text("platform"))} if kinds == ("image",) else {},
        }
        found, missing = [], []
        for name in args.positional:
            try:
                found.append(_find(client, name, wanted, queries))
            except (EngineError, ExitError) as error:
                prefix = "Error response from daemon: " if isinstance(error, EngineError) else ""
                missing.append(f"{prefix}{error}")
        listing.print_objects(found, args.text("format"))
        for message in missing:
            print(message, file=sys.stderr)
        return 1 if missing else 0

    return run


def _given(args: Args, flag: str) -> bool:
    return flag in args.given and args.flag(flag)


def _find(client: Client, name: str, kinds: tuple[str, ...], queries: dict[str, Query]) -> Any:
    for kind in kinds:
        try:
            return client.get(_PATHS[kind].format(name), queries.get(kind))
        except EngineError as error:
            if error.status != 404 or len(kinds) == 1:
                raise
    raise ExitError(f"error: no such object: {name}")


_FORMAT = Flag("format", "f", "string", "Format output using a custom template: 'json' or a Go template")
_PLATFORM = Flag(
    "platform",
    "",
    "string",
    "Inspect a specific platform of the multi-platform image. If the image or the server is not multi-platform "
    "capable, the command will error out if the platform does not match. 'os[/arch[/variant]]': Explicit platform "
    "(eg. linux/amd64)",
)
_SIZE = Flag("size", "s", "bool", "Display total file sizes if the type is container")


def _command(use: str, short: str, kinds: tuple[str, ...], flags: list[Flag]) -> Command:
    return Command(use, short, _run_for(kinds), flags=flags, min_args=1, max_args=None)


INSPECT = _command(
    "inspect [OPTIONS] NAME|ID [NAME|ID...]",
    "Return low-level information on Docker objects",
    ("container", "image", "network", "volume", "plugin"),
    [_FORMAT, _SIZE, Flag("type", "", "string", "Only inspect objects of the given type")],
)
CONTAINER_INSPECT = _command(
    "inspect [OPTIONS] CONTAINER [CONTAINER...]",
    "Display detailed information on one or more containers",
    ("container",),
    [_FORMAT, _SIZE],
)
IMAGE_INSPECT = _command(
    "inspect [OPTIONS] IMAGE [IMAGE...]",
    "Display detailed information on one or more images",
    ("image",),
    [_FORMAT, _PLATFORM],
)
NETWORK_INSPECT = _command(
    "inspect [OPTIONS] NETWORK [NETWORK...]",
    "Display detailed information on one or more networks",
    ("network",),
    [_FORMAT, Flag("verbose", "v", "bool", "Verbose output for diagnostics")],
)
PLUGIN_INSPECT = _command(
    "inspect [OPTIONS] PLUGIN [PLUGIN...]",
    "Display detailed information on one or more plugins",
    ("plugin",),
    [_FORMAT],
)
VOLUME_INSPECT = _command(
    "inspect [OPTIONS] VOLUME [VOLUME...]",
    "Display detailed information on one or more volumes",
    ("volume",),
    [_FORMAT],
)
