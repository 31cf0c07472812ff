# SPDX-License-Identifier: Apache-2.0
"""`diff` and `commit`: what a container has changed, and an image of it."""

from orlop.cli.command import Command
from orlop.cli.errors import ExitError
from orlop.cli.flags import Args, Flag
from orlop.cli.pulling import split_tag
from orlop.engine.client import Client

_KINDS = ("C", "A", "D")


def _diff(client: Client, args: Args) -> int:
    if not args.positional[0]:
        raise ExitError("container name cannot be empty")
    for change in client.get(f"/containers/{args.positional[0]}/changes") or []:
        print(_KINDS[change["Kind"]], change["Path"])
    return 0


def _commit(client: Client, args: Args) -> int:
    container, *names = args.positional
    repository, tag = split_tag(names[0]) if names else ("", "")
    query = {
        "container": container,
        "repo": repository or None,
        "tag": tag or None,
        "comment": args.text("message") or None,
        "author": args.text("author") or None,
        "changes": args.items("change") or None,
        "pause": None if args.flag("pause") and not args.flag("no-pause") else False,
    }
    print(client.post("/commit", query)["Id"])
    return 0


DIFF = Command(
    "diff CONTAINER",
    "Inspect changes to files or directories on a container's filesystem",
    _diff,
    min_args=1,
    max_args=1,
)
COMMIT = Command(
    "commit [OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    "Create a new image from a container's changes",
    _commit,
    flags=[
        Flag("author", "a", "string", 'Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")'),
        Flag("change", "c", "list", "Apply Dockerfile instruction to the created image"),
        Flag("message", "m", "string", "Commit message"),
        Flag("no-pause", "", "bool", "Do not pause container during commit"),
        Flag("pause", "p", "bool", "Pause container during commit (default true)", default=True),
    ],
    min_args=1,
    max_args=2,
)
