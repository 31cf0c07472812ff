# SPDX-License-Identifier: Apache-2.0
"""Images: list, tag, remove."""

import sys
import time
from typing import Any

from orlop.cli import format as listing
from orlop.cli.command import Command
from orlop.cli.errors import ExitError
from orlop.cli.flags import Args, Flag
from orlop.cli.format import Column
from orlop.cli.platforms import as_json
from orlop.cli.pulling import split_reference
from orlop.cli.units import human_size, human_size4, since
from orlop.engine.client import Client, EngineError, Query

_COLUMNS = [
    Column("Repository", "REPOSITORY"),
    Column("Tag", "TAG"),
    Column("Digest", "DIGEST"),
    Column("ID", "IMAGE ID"),
    Column("CreatedSince", "CREATED"),
    Column("CreatedAt", "CREATED AT"),
    Column("Size", "SIZE"),
    Column("VirtualSize", "SIZE"),
    Column("Containers", "CONTAINERS"),
    Column("SharedSize", "SHARED SIZE"),
    Column("UniqueSize", "UNIQUE SIZE"),
]
_SHOWN = ["Repository", "Tag", "ID", "CreatedSince", "Size"]


def _list(client: Client, args: Args) -> int:
    filters = list(args.items("filter"))
    if args.positional:
        filters.append(f"reference={args.positional[0]}")
    query = {"all": args.flag("all") or None, "filters": listing.parse_filters(filters)}
    if args.flag("tree"):
        return _tree(client, args, query)
    images = client.get("/images/json", query)
    digests = args.flag("digests")
    told = digests or ".Digest" in args.text("format")
    rows = [
        row
        for image in sorted(images, key=lambda image: -image["Created"])
        for row in _rows(image, full=args.flag("no-trunc"), digests=told)
    ]
    shown = ["Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"] if digests else _SHOWN
    quiet = "ID" if args.flag("quiet") else ""
    print(listing.render_rows(rows, args.text("format"), shown, _COLUMNS, quiet_field=quiet), end="")
    return 0


def _tree(client: Client, args: Args, query: Query) -> int:
    for flag in ("quiet", "no-trunc", "digests", "format"):
        if flag in args.given:
            raise ExitError(f"--{flag} is not yet supported with --tree")
    from orlop.cli.commands.image_tree import show

    return show(client, query)


def _rows(image: dict[str, Any], *, full: bool, digests: bool) -> list[dict[str, str]]:
    base = {
        "ID": image["Id"] if full else image["Id"].partition(":")[2][:12],
        "CreatedSince": since(image["Created"]),
        "CreatedAt": time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(image["Created"])),
        "Size": human_size(image["Size"]),
        "VirtualSize": human_size4(image["Size"]),
        "Containers": "N/A" if image.get("Containers", -1) == -1 else str(image["Containers"]),
        "SharedSize": "N/A",
        "UniqueSize": "N/A",
        "Digest": "<none>",
    }
    by_repository = dict(split_reference(text) for text in image.get("RepoDigests") or [])
    rows = []
    for text in image.get("RepoTags") or []:
        repository, tag = split_reference(text)
        digest = by_repository.get(repository, "<none>") if digests else "<none>"
        rows.append({**base, "Repository": repository, "Tag": tag, "Digest": digest})
    if rows:
        return rows
    names = by_repository or {"<none>": "<none>"}
    return [
        {**base, "Repository": name, "Tag": "<none>", "Digest": digest if digests else "<none>"}
        for name, digest in names.items()
    ]


def _tag(client: Client, args: Args) -> int:
    source, target = args.positional
    repository, tag = split_reference(target)
    client.post(f"/images/{source}/tag", {"repo": repository, "tag": tag})
    return 0


def _remove(client: Client, args: Args) -> int:
    status = 0
    platforms = [as_json(each) for text in args.items("platform") for each in text.split(",")]
    query: Query = {
        "force": args.flag("force") or None,
        "noprune": args.flag("no-prune") or None,
        "platforms": [platform for platform in platforms if platform],
    }
    for name in args.positional:
        try:
            for item in client.delete(f"/images/{name}", query) or []:
                for key in ("Deleted", "Untagged"):
                    if item.get(key):
                        print(f"{key}: {item[key]}")
        except EngineError as error:
            print(f"Error response from daemon: {error}", file=sys.stderr)
            status = 1
    return status


LIST = Command(
    "images [OPTIONS] [REPOSITORY[:TAG]]",
    "List images",
    _list,
    flags=[
        Flag("all", "a", "bool", "Show all images (default hides intermediate and dangling images)"),
        Flag("digests", "", "bool", "Show digests"),
        Flag("filter", "f", "list", "Filter output based on conditions provided", shown_kind="filter"),
        Flag("format", "", "string", listing.HELP),
        Flag("no-trunc", "", "bool", "Don't truncate output"),
        Flag("quiet", "q", "bool", "Only show image IDs"),
        Flag("tree", "", "bool", "List multi-platform images as a tree (EXPERIMENTAL)"),
    ],
    max_args=1,
)
TAG = Command(
    "tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
    _tag,
    min_args=2,
    max_args=2,
)
REMOVE = Command(
    "rmi [OPTIONS] IMAGE [IMAGE...]",
    "Remove one or more images",
    _remove,
    flags=[
        Flag("force", "f", "bool", "Force removal of the image"),
        Flag("no-prune", "", "bool", "Do not delete untagged parents"),
        Flag(
            "platform",
            "",
            "list",
            'Remove only the given platform variant. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")',
            shown_kind="strings",
        ),
    ],
    min_args=1,
    max_args=None,
)
