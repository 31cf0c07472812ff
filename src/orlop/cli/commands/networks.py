# SPDX-License-Identifier: Apache-2.0
"""Networks: list."""

from orlop.cli import format as listing
from orlop.cli.command import Command
from orlop.cli.flags import Args, Flag
from orlop.cli.format import Column
from orlop.engine.client import Client

_COLUMNS = [
    Column("ID", "NETWORK ID"),
    Column("Name", "NAME"),
    Column("Driver", "DRIVER"),
    Column("Scope", "SCOPE"),
]


def _list(client: Client, args: Args) -> int:
    networks = client.get("/networks", {"filters": listing.parse_filters(args.items("filter"))})
    full = args.flag("no-trunc")
    rows = [
        {
            "ID": network["Id"] if full else network["Id"][:12],
            "Name": network["Name"],
            "Driver": network["Driver"],
            "Scope": network["Scope"],
        }
        for network in sorted(networks, key=lambda network: network["Name"])
    ]
    quiet = "ID" if args.flag("quiet") else ""
    shown = ["ID", "Name", "Driver", "Scope"]
    print(listing.render_rows(rows, args.text("format"), shown, _COLUMNS, quiet_field=quiet), end="")
    return 0


LIST = Command(
    "ls [OPTIONS]",
    "List networks",
    _list,
    flags=[
        Flag("filter", "f", "list", 'Provide filter values (e.g. "driver=bridge")', shown_kind="filter"),
        Flag("format", "", "string", listing.HELP),
        Flag("no-trunc", "", "bool", "Do not truncate the output"),
        Flag("quiet", "q", "bool", "Only display network IDs"),
    ],
)
