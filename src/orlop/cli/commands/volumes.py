# SPDX-License-Identifier: Apache-2.0
"""Volumes: create, list, remove, prune."""

import sys

from orlop.cli import format as listing
from orlop.cli.command import Command
from orlop.cli.commands.lifecycle import each
from orlop.cli.container_options import key_values
from orlop.cli.errors import ExitError
from orlop.cli.flags import Args, Flag
from orlop.cli.format import Column
from orlop.cli.gotemplate import to_json
from orlop.cli.units import human_size
from orlop.engine.client import Client

_COLUMNS = [
    Column("Driver", "DRIVER"),
    Column("Name", "VOLUME NAME"),
    Column("Scope", "SCOPE"),
    Column("Mountpoint", "MOUNTPOINT"),
    Column("Labels", "LABELS"),
    Column("Links", "LINKS"),
    Column("Size", "SIZE"),
    Column("Availability", "AVAILABILITY"),
    Column("Group", "GROUP"),
    Column("Status", "STATUS"),
]
_NOT_ASKED = ("Links", "Size", "Availability", "Group", "Status")
"""Of `system df` and of a swarm's volumes: Docker prints N/A in lists."""


def _create(client: Client, args: Args) -> int:
    if args.positional and args.text("name"):
        raise ExitError(
            "conflicting options: cannot specify a volume name through both --name and as a positional arg"
        )
    body = {
        "Name": args.positional[0] if args.positional else args.text("name"),
        "Driver": args.text("driver"),
        "DriverOpts": key_values(args.items("opt")),
        "Labels": key_values(args.items("label")),
    }
    print(client.post("/volumes/create", None, body)["Name"])
    return 0


def _list(client: Client, args: Args) -> int:
    answer = client.get("/volumes", {"filters": listing.parse_filters(args.items("filter"))})
    rows = [
        {
            "Driver": volume["Driver"],
            "Name": volume["Name"],
            "Scope": volume["Scope"],
            "Mountpoint": volume["Mountpoint"],
            "Labels": ",".join(f"{k}={v}" for k, v in sorted((volume.get("Labels") or {}).items())),
            **dict.fromkeys(_NOT_ASKED, "N/A"),
        }
        for volume in sorted(answer["Volumes"] or [], key=lambda volume: volume["Name"])
    ]
    quiet = "Name" if args.flag("quiet") else ""
    print(listing.render_rows(rows, args.text("format"), ["Driver", "Name"], _COLUMNS, quiet_field=quiet), end="")
    return 0


def _remove(client: Client, args: Args, name: str) -> str:
    client.delete(f"/volumes/{name}", {"force": args.flag("force") or None})
    return name


def _prune(client: Client, args: Args) -> int:
    if not args.flag("force"):
        what = "all local volumes" if args.flag("all") else "anonymous local volumes"
        print(f"WARNING! This will remove {what} not used by at least one container.")
        print("Are you sure you want to continue? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return 0
    filters = [*args.items("filter"), *(["all=true"] if args.flag("all") else [])]
    answer = client.post("/volumes/prune", {"filters": listing.parse_filters(filters) or to_json({})})
    removed = answer.get("VolumesDeleted") or []
    if removed:
        print("Deleted Volumes:\n" + "\n".join(removed) + "\n")
    print(f"Total reclaimed space: {human_size(answer.get('SpaceReclaimed') or 0)}")
    return 0


CREATE = Command(
    "create [OPTIONS] [VOLUME]",
    "Create a volume",
    _create,
    flags=[
        Flag("driver", "d", "string", "Specify volume driver name", default="local"),
        Flag("label", "", "list", "Set metadata for a volume"),
        Flag("name", "", "string", "Specify volume name", hidden=True),
        Flag("opt", "o", "map", "Set driver specific options"),
    ],
    max_args=1,
)
LIST = Command(
    "ls [OPTIONS]",
    "List volumes",
    _list,
    flags=[
        Flag("filter", "f", "list", 'Provide filter values (e.g. "dangling=true")', shown_kind="filter"),
        Flag("format", "", "string", listing.HELP),
        Flag("quiet", "q", "bool", "Only display volume names"),
    ],
)
REMOVE = Command(
    "rm [OPTIONS] VOLUME [VOLUME...]",
    "Remove one or more volumes",
    each(_remove),
    flags=[Flag("force", "f", "bool", "Force the removal of one or more volumes")],
    min_args=1,
    max_args=None,
)
PRUNE = Command(
    "prune [OPTIONS]",
    "Remove unused local volumes",
    _prune,
    flags=[
        Flag("all", "a", "bool", "Remove all unused volumes, not just anonymous ones"),
        Flag("filter", "", "list", 'Provide filter values (e.g. "label=<label>")', shown_kind="filter"),
        Flag("force", "f", "bool", "Do not prompt for confirmation"),
    ],
)
