# SPDX-License-Identifier: Apache-2.0
"""`checkpoint`: keep the state of a container's processes, list and remove what was kept."""

from orlop.cli.command import Command
from orlop.cli.flags import Args, Flag
from orlop.cli.table import render
from orlop.engine.client import Client, quote

_DIRECTORY = Flag("checkpoint-dir", "", "string", "Use a custom checkpoint storage directory")


def _create(client: Client, args: Args) -> int:
    container, name = args.positional
    body = {
        "CheckpointID": name,
        "CheckpointDir": args.text("checkpoint-dir"),
        "Exit": not args.flag("leave-running"),
    }
    client.post(f"/containers/{container}/checkpoints", None, body)
    print(name)
    return 0


def _list(client: Client, args: Args) -> int:
    query = {"dir": args.text("checkpoint-dir") or None}
    found = client.get(f"/containers/{args.positional[0]}/checkpoints", query) or []
    print(render([["CHECKPOINT NAME"], *([each["Name"]] for each in found)]), end="")
    return 0


def _remove(client: Client, args: Args) -> int:
    container, name = args.positional
    query = {"dir": args.text("checkpoint-dir") or None}
    client.delete(f"/containers/{container}/checkpoints/{quote(name)}", query)
    return 0


CREATE = Command(
    "create [OPTIONS] CONTAINER CHECKPOINT",
    "Create a checkpoint from a running container",
    _create,
    flags=[_DIRECTORY, Flag("leave-running", "", "bool", "Leave the container running after checkpoint")],
    min_args=2,
    max_args=2,
)
LIST = Command(
    "ls [OPTIONS] CONTAINER", "List checkpoints for a container", _list, flags=[_DIRECTORY], min_args=1, max_args=1
)
REMOVE = Command(
    "rm [OPTIONS] CONTAINER CHECKPOINT",
    "Remove a checkpoint",
    _remove,
    flags=[_DIRECTORY],
    min_args=2,
    max_args=2,
)
