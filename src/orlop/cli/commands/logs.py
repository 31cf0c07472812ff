# SPDX-License-Identifier: Apache-2.0
"""`logs`: what a container has written."""

from orlop.cli.command import Command
from orlop.cli.flags import Args, Flag
from orlop.cli.streams import demultiplex
from orlop.cli.timestamps import api_time
from orlop.engine.client import Client, EngineError

MULTIPLEXED = "application/vnd.docker.multiplexed-stream"


def run(client: Client, args: Args) -> int:
    container = args.positional[0]
    query: dict[str, str | int | bool | None] = {
        "stdout": True,
        "stderr": True,
        "follow": args.flag("follow"),
        "timestamps": args.flag("timestamps"),
        "details": args.flag("details"),
        "tail": args.text("tail"),
        "since": api_time(args.text("since")),
        "until": api_time(args.text("until")),
        "previous": args.flag("previous"),
    }
    multiplexed = _multiplexed(client, container)
    response = client.stream("GET", f"/containers/{container}/logs", query)
    if multiplexed is None:
        multiplexed = response.headers.get("content-type") == MULTIPLEXED
    demultiplex(response.stream(), multiplexed=multiplexed)
    return 0


def _multiplexed(client: Client, container: str) -> bool | None:
    """By the container's terminal, since old engines call everything a raw stream; None: a log outlived it."""
    try:
        return not client.get(f"/containers/{container}/json")["Config"]["Tty"]
    except EngineError as error:
        if error.status == 404:
            return None
        raise


_TIME = 'timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)'

LOGS = Command(
    "logs [OPTIONS] CONTAINER",
    "Fetch the logs of a container",
    run,
    flags=[
        Flag("details", "", "bool", "Show extra details provided to logs"),
        Flag("follow", "f", "bool", "Follow log output"),
        Flag("previous", "p", "bool", "Show what the run before the latest has written"),
        Flag("since", "", "string", f"Show logs since {_TIME}"),
        Flag("tail", "n", "string", "Number of lines to show from the end of the logs", default="all"),
        Flag("timestamps", "t", "bool", "Show timestamps"),
        Flag("until", "", "string", f"Show logs before a {_TIME}"),
    ],
    min_args=1,
    max_args=1,
)
