# SPDX-License-Identifier: Apache-2.0
"""`pull`: download an image."""

import sys

from orlop.cli.command import Command
from orlop.cli.errors import ExitError
from orlop.cli.flags import Args, Flag
from orlop.cli.pulling import pull, split_reference
from orlop.engine.client import Client


def run(client: Client, args: Args) -> int:
    reference = args.positional[0]
    name, tag = split_reference(reference)
    quiet = args.flag("quiet")
    if args.flag("all-tags"):
        if reference != name:
            raise ExitError("tag can't be used with --all-tags/-a")
        pull(client, name, args.text("platform"), quiet=quiet, to=sys.stdout, all_tags=True)
        print(_canonical(name, "").removesuffix(":"))
        return 0
    if not quiet and tag == "latest" and not reference.endswith(":latest"):
        print("Using default tag: latest", flush=True)
    pull(client, reference, args.text("platform"), quiet=quiet, to=sys.stdout)
    print(_canonical(name, tag))
    return 0


def _canonical(name: str, tag: str) -> str:
    first, slash, _ = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif not any(c in first for c in ".:") and first != "localhost":
        name = f"docker.io/{name}"
    return f"{name}@{tag}" if ":" in tag else f"{name}:{tag}"


PULL = Command(
    "pull [OPTIONS] NAME[:TAG|@DIGEST]",
    "Download an image from a registry",
    run,
    flags=[
        Flag("all-tags", "a", "bool", "Download all tagged images in the repository"),
        Flag("disable-content-trust", "", "bool", "Skip image verification", default=True, hidden=True),
        Flag("platform", "", "string", "Set platform if server is multi-platform capable"),
        Flag("quiet", "q", "bool", "Suppress verbose output"),
    ],
    min_args=1,
    max_args=1,
)
