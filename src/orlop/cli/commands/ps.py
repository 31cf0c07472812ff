# SPDX-License-Identifier: Apache-2.0
"""`ps`: list containers."""

import time
from typing import Any

from orlop.cli import format as listing
from orlop.cli.command import Command
from orlop.cli.flags import Args, Flag
from orlop.cli.format import Column
from orlop.cli.table import shorten
from orlop.cli.units import ago, human_size
from orlop.engine.client import Client

_COLUMNS = [
    Column("ID", "CONTAINER ID"),
    Column("Image", "IMAGE"),
    Column("Command", "COMMAND"),
    Column("RunningFor", "CREATED"),
    Column("CreatedAt", "CREATED AT"),
    Column("Status", "STATUS"),
    Column("State", "STATE"),
    Column("Ports", "PORTS"),
    Column("Names", "NAMES"),
    Column("Size", "SIZE"),
    Column("Labels", "LABELS"),
    Column("Mounts", "MOUNTS"),
    Column("Networks", "NETWORKS"),
    Column("LocalVolumes", "LOCAL VOLUMES"),
    Column("Platform", "PLATFORM"),
]
_SHOWN = ["ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"]


def run(client: Client, args: Args) -> int:
    size = args.flag("size") or ".Size" in args.text("format")
    limit = 1 if args.flag("latest") else args.number("last")
    query = {
        "all": args.flag("all") or None,
        "limit": limit if limit > 0 else None,
        "size": size or None,
        "filters": listing.parse_filters(args.items("filter")),
    }
    containers = client.get("/containers/json", query)
    rows = [_row(container, full=args.flag("no-trunc")) for container in containers]
    shown = [*_SHOWN, "Size"] if args.flag("size") else _SHOWN
    quiet = "ID" if args.flag("quiet") else ""
    print(listing.render_rows(rows, args.text("format"), shown, _COLUMNS, quiet_field=quiet), end="")
    return 0


def _row(container: dict[str, Any], *, full: bool) -> dict[str, Any]:
    command = container["Command"]
    names = [name.lstrip("/") for name in container["Names"] or []]
    mounts = [mount.get("Name") or mount.get("Source", "") for mount in container.get("Mounts") or []]
    created = time.localtime(container["Created"])
    return {
        "ID": container["Id"] if full else container["Id"][:12],
        "Image": container["Image"] or "<no image>",
        "Command": f'"{command if full else shorten(command, 20)}"',
        "RunningFor": ago(container["Created"]),
        "CreatedAt": time.strftime("%Y-%m-%d %H:%M:%S %z %Z", created),
        "Status": container["Status"],
        "State": container["State"],
        "Ports": _ports(container.get("Ports") or []),
        "Names": ",".join(name for name in names if "/" not in name),
        "Size": _size(container),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted((container.get("Labels") or {}).items())),
        "Mounts": ",".join(mounts if full else [shorten(mount, 15) for mount in mounts]),
        "Networks": ",".join((container.get("NetworkSettings") or {}).get("Networks") or {}),
        "Platform": (container.get("ImageManifestDescriptor") or {}).get("platform"),
        "LocalVolumes": str(sum(m.get("Driver") == "local" for m in container.get("Mounts") or [])),
    }


def _size(container: dict[str, Any]) -> str:
    own = human_size(container.get("SizeRw") or 0)
    whole = container.get("SizeRootFs")
    return f"{own} (virtual {human_size(whole)})" if whole else own


def _ports(ports: list[dict[str, Any]]) -> str:
    """Published ports first as docker prints them, ranges of neighbours joined."""
    groups: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for port in sorted(ports, key=lambda p: (p["PrivatePort"], p.get("PublicPort") or 0, p.get("IP") or "")):
        address = port.get("IP") or ""
        if ":" in address:
            address = f"[{address}]"
        pair = (int(port["PrivatePort"]), int(port.get("PublicPort") or 0))
        groups.setdefault((address, port["Type"]), []).append(pair)
    texts: list[tuple[int, str]] = []
    for (address, kind), pairs in groups.items():
        for first, last in _runs(pairs):
            private = f"{first[0]}-{last[0]}" if first != last else str(first[0])
            public = f"{first[1]}-{last[1]}" if first != last else str(first[1])
            text = f"{address}:{public}->{private}/{kind}" if first[1] else f"{private}/{kind}"
            texts.append((first[0], text))
    return ", ".join(text for _, text in sorted(texts, key=lambda item: item[0]))


def _runs(pairs: list[tuple[int, int]]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    runs: list[tuple[tuple[int, int], tuple[int, int]]] = []
    for pair in pairs:
        if runs:
            first, last = runs[-1]
            public_follows = pair[1] == last[1] + 1 or pair[1] == last[1] == 0
            if pair[0] == last[0] + 1 and public_follows:
                runs[-1] = (first, pair)
                continue
        runs.append((pair, pair))
    return runs


PS = Command(
    "ps [OPTIONS]",
    "List containers",
    run,
    flags=[
        Flag("all", "a", "bool", "Show all containers (default shows just running)"),
        Flag("filter", "f", "list", "Filter output based on conditions provided", shown_kind="filter"),
        Flag("format", "", "string", listing.HELP),
        Flag("last", "n", "int", "Show n last created containers (includes all states)", default=-1),
        Flag("latest", "l", "bool", "Show the latest created container (includes all states)"),
        Flag("no-trunc", "", "bool", "Don't truncate output"),
        Flag("quiet", "q", "bool", "Only display container IDs"),
        Flag("size", "s", "bool", "Display total file sizes"),
    ],
)
