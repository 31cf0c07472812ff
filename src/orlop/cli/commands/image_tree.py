# SPDX-License-Identifier: Apache-2.0
"""`images --tree`: each image with the platforms that are here below it."""

import sys
from typing import Any

from orlop.cli.units import human_size
from orlop.engine.client import Client, Query

_HEADINGS = ("IMAGE", "ID", "DISK USAGE", "CONTENT SIZE", "EXTRA")
Row = tuple[str, str, str, str, str]


def show(client: Client, query: Query) -> int:
    """Print the tree. Raises EngineError."""
    images = client.get("/images/json", {**query, "manifests": 1})
    print("WARNING: This is an experimental feature. The output may change and shouldn't be depended on.")
    rows: list[Row] = []
    for image in sorted(images, key=lambda image: -image["Created"]):
        rows += _rows(image)
    print(f"{'Info ->  U In Use':>{_width(rows)}}\n")
    for row in [_HEADINGS, *rows]:
        sys.stdout.write(_line(row, rows) + "\n")
    return 0


def _rows(image: dict[str, Any]) -> list[Row]:
    """The names of an image, the last with what all of them are, and its platforms."""
    shown = [each for each in image.get("Manifests") or [] if each["Kind"] == "image" and each["Available"]]
    names = image.get("RepoTags") or ["<untagged>"]
    used = image["Containers"] > 0 or any(each["ImageData"]["Containers"] for each in shown)
    content = sum(each["Size"]["Content"] for each in image.get("Manifests") or [])
    last = (names[-1], _short(image["Id"]), human_size(image["Size"]), human_size(content), _in_use(used))
    rows: list[Row] = [*((name, "", "", "", "") for name in names[:-1]), last]
    for number, each in enumerate(shown, 1):
        branch = "└─" if number == len(shown) else "├─"
        sizes = human_size(each["Size"]["Total"]), human_size(each["Size"]["Content"])
        platform = each["ImageData"]["Platform"]
        name = "/".join(platform[key] for key in ("os", "architecture", "variant") if platform.get(key))
        rows.append(
            (f"{branch} {name}", _short(each["ID"]), *sizes, _in_use(bool(each["ImageData"]["Containers"])))
        )
    return rows


def _in_use(used: bool) -> str:
    return "U" if used else ""


def _short(digest: str) -> str:
    return digest.partition(":")[2][:12]


def _name_width(rows: list[Row]) -> int:
    return max(len(row[0]) for row in [_HEADINGS, *rows]) + 3


def _width(rows: list[Row]) -> int:
    return len(_line(_HEADINGS, rows))


def _line(row: Row, rows: list[Row]) -> str:
    name, identity, disk, content, extra = row
    return f"{name:<{_name_width(rows)}}{identity:<15}{disk:>10}   {content:>12}   {extra:<5}".rstrip()
