# SPDX-License-Identifier: Apache-2.0
"""`history`: the steps that made an image."""

import time

from orlop.cli import format as listing
from orlop.cli.command import Command
from orlop.cli.flags import Args, Flag
from orlop.cli.format import Column
from orlop.cli.platforms import as_json
from orlop.cli.table import shorten
from orlop.cli.units import human_size, since
from orlop.engine.client import Client

_COLUMNS = [
    Column("ID", "IMAGE"),
    Column("CreatedAt", "CREATED AT"),
    Column("CreatedSince", "CREATED"),
    Column("CreatedBy", "CREATED BY"),
    Column("Size", "SIZE"),
    Column("Comment", "COMMENT"),
]


def run(client: Client, args: Args) -> int:
    query = {"platform": as_json(args.text("platform"))}
    steps = client.get(f"/images/{args.positional[0]}/history", query)
    full, human = args.flag("no-trunc"), args.flag("human")
    rows = []
    for step in steps:
        command = step["CreatedBy"].replace("\t", " ")
        created = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(step["Created"]))
        created = (
            created.removesuffix("+0000") + "Z" if created.endswith("+0000") else f"{created[:-2]}:{created[-2:]}"
        )
        rows.append(
            {
                "ID": step["Id"] if full else step["Id"].removeprefix("sha256:")[:12],
                "CreatedAt": created,
                "CreatedSince": since(step["Created"]) if human else created,
                "CreatedBy": command if full else shorten(command, 45),
                "Size": human_size(step["Size"]) if human else str(step["Size"]),
                "Comment": step["Comment"],
            }
        )
    shown = ["ID", "CreatedSince" if human else "CreatedAt", "CreatedBy", "Size", "Comment"]
    quiet = "ID" if args.flag("quiet") else ""
    print(listing.render_rows(rows, args.text("format"), shown, _COLUMNS, quiet_field=quiet), end="")
    return 0


HISTORY = Command(
    "history [OPTIONS] IMAGE",
    "Show the history of an image",
    run,
    flags=[
        Flag("format", "", "string", listing.HELP),
        Flag("human", "H", "bool", "Print sizes and dates in human readable format (default true)", default=True),
        Flag("no-trunc", "", "bool", "Don't truncate output"),
        Flag(
            "platform",
            "",
            "string",
            'Show history for the given platform. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")',
        ),
        Flag("quiet", "q", "bool", "Only show image IDs"),
    ],
    min_args=1,
    max_args=1,
)
