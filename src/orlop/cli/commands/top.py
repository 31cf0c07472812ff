# SPDX-License-Identifier: Apache-2.0
"""`top`: the processes of a container."""

from orlop.cli.command import Command
from orlop.cli.flags import Args
from orlop.cli.table import render
from orlop.engine.client import Client


def run(client: Client, args: Args) -> int:
    name, *options = args.positional
    answer = client.get(f"/containers/{name}/top", {"ps_args": " ".join(options) or None})
    print(render([answer["Titles"], *(answer["Processes"] or [])], min_width=20), end="")
    return 0


TOP = Command(
    "top CONTAINER [ps OPTIONS]",
    "Display the running processes of a container",
    run,
    min_args=1,
    max_args=None,
    interspersed=False,
)
