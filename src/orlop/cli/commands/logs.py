# SPDX-License-Identifier: Apache-2.0
"""`logs`: what a container has written."""

from orlop.cli.command import Command
from orlop.cli.flags import Args, Flag
from orlop.cli.streams import demultiplex
from orlop.cli.timestamps import api_time
from orlop.engine.client import Client


def run(client: Client, args: Args) -> int:
    container = args.positional[0]
    tty = client.get(f"/containers/{container}/json")["Config"]["Tty"]
    query: dict[str, str | int | bool | None] = {
        "stdout": True,
        "stderr": True,
        "follow": args.flag("follow"),
        "timestamps": args.flag("timestamps"),
        "details": args.flag("details"),
        "tail": args.text("tail"),
        "since": api_time(args.text("since")),
        "until": api_time(args.text("until")),
    }
    response = client.stream("GET", f"/containers/{container}/logs", query)
    demultiplex(response.stream(), multiplexed=not tty)
    return 0


_TIME = 'timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)'

LOGS = Command(
    "logs [OPTIONS] CONTAINER",
    "Fetch the logs of a container",
    run,
    flags=[
        Flag("details", "", "bool", "Show extra details provided to logs"),
        Flag("follow", "f", "bool", "Follow log output"),
        Flag("since", "", "string", f"Show logs since {_TIME}"),
        Flag("tail", "n", "string", "Number of lines to show from the end of the logs", default="all"),
        Flag("timestamps", "t", "bool", "Show timestamps"),
        Flag("until", "", "string", f"Show logs before a {_TIME}"),
    ],
    min_args=1,
    max_args=1,
)
