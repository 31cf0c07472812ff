# SPDX-License-Identifier: Apache-2.0
"""`system df`: the disk space that images, containers and volumes take."""

from typing import Any

from orlop.cli import format as listing
from orlop.cli.command import Command
from orlop.cli.errors import ExitError
from orlop.cli.flags import Args, Flag
from orlop.cli.format import Column
from orlop.cli.pulling import split_reference
from orlop.cli.table import render, shorten
from orlop.cli.units import ago, human_size, human_size4
from orlop.engine.client import Client

_COLUMNS = [
    Column("Type", "TYPE"),
    Column("TotalCount", "TOTAL"),
    Column("Active", "ACTIVE"),
    Column("Size", "SIZE"),
    Column("Reclaimable", "RECLAIMABLE"),
]
_SHOWN = ["Type", "TotalCount", "Active", "Size", "Reclaimable"]

Json = dict[str, Any]


def run(client: Client, args: Args) -> int:
    usage = client.get("/system/df")
    if args.flag("verbose"):
        if args.text("format") not in ("", "table"):
            raise ExitError("the verbose and the format option are not supported together")
        print(_verbose(usage), end="")
        return 0
    rows = [_images(usage), _containers(usage), _volumes(usage), _build_cache(usage)]
    print(listing.render_rows(rows, args.text("format"), _SHOWN, _COLUMNS), end="")
    return 0


def _row(
    name: str, objects: list[Json], active: int, size: int, free: int, *, percent: bool = True
) -> dict[str, str]:
    share = f" ({int(free * 100 / size)}%)" if percent and size > 0 else ""
    return {
        "Type": name,
        "TotalCount": str(len(objects)),
        "Active": str(active),
        "Size": human_size4(size),
        "Reclaimable": human_size4(free) + share,
    }


def _images(usage: Json) -> dict[str, str]:
    images = usage.get("Images") or []
    used = [image for image in images if image["Containers"] > 0]
    size = usage.get("LayersSize") or 0
    kept = sum(image["Size"] - max(image["SharedSize"], 0) for image in used if image["Size"] != -1)
    return _row("Images", images, len(used), size, size - kept)


def _containers(usage: Json) -> dict[str, str]:
    containers = usage.get("Containers") or []
    active = [one for one in containers if one["State"] in ("running", "paused", "restarting")]
    size = sum(one.get("SizeRw") or 0 for one in containers)
    free = size - sum(one.get("SizeRw") or 0 for one in active)
    return _row("Containers", containers, len(active), size, free)


def _volumes(usage: Json) -> dict[str, str]:
    volumes = usage.get("Volumes") or []
    sizes = [(volume.get("UsageData") or {"Size": 0, "RefCount": 0}) for volume in volumes]
    size = sum(max(data["Size"], 0) for data in sizes)
    free = sum(max(data["Size"], 0) for data in sizes if data["RefCount"] == 0)
    return _row("Local Volumes", volumes, sum(data["RefCount"] > 0 for data in sizes), size, free)


def _build_cache(usage: Json) -> dict[str, str]:
    caches = usage.get("BuildCache") or []
    own = [cache for cache in caches if not cache.get("Shared")]
    free = sum(cache["Size"] for cache in own if not cache.get("InUse"))
    used = sum(bool(cache.get("InUse")) for cache in caches)
    return _row("Build Cache", caches, used, sum(cache["Size"] for cache in own), free, percent=False)


# -- every object


def _verbose(usage: Json) -> str:
    images = [["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE", "SHARED SIZE", "UNIQUE SIZE", "CONTAINERS"]]
    for image in usage.get("Images") or []:
        names = [split_reference(tag) for tag in image.get("RepoTags") or []] or [("<none>", "<none>")]
        shared = max(image["SharedSize"], 0)
        images += [
            [
                *name,
                image["Id"].partition(":")[2][:12],
                ago(image["Created"]),
                human_size(image["Size"]),
                human_size4(shared),
                human_size4(image["Size"] - shared),
                str(max(image["Containers"], 0)),
            ]
            for name in names
        ]
    containers = [["CONTAINER ID", "IMAGE", "COMMAND", "LOCAL VOLUMES", "SIZE", "CREATED", "STATUS", "NAMES"]]
    for one in usage.get("Containers") or []:
        containers.append(
            [
                one["Id"][:12],
                one["Image"],
                f'"{shorten(one["Command"], 20)}"',
                str(sum(mount.get("Driver") == "local" for mount in one.get("Mounts") or [])),
                human_size(one.get("SizeRw") or 0),
                ago(one["Created"]),
                one["Status"],
                ",".join(name.lstrip("/") for name in one["Names"]),
            ]
        )
    volumes = [["VOLUME NAME", "LINKS", "SIZE"]]
    for volume in usage.get("Volumes") or []:
        data = volume.get("UsageData") or {"Size": 0, "RefCount": 0}
        volumes.append([volume["Name"], str(data["RefCount"]), human_size(max(data["Size"], 0))])
    caches = [["CACHE ID", "CACHE TYPE", "SIZE", "CREATED", "LAST USED", "USAGE", "SHARED"]]
    total = human_size(sum(cache["Size"] for cache in usage.get("BuildCache") or [] if not cache.get("Shared")))
    return (
        f"Images space usage:\n\n{render(images)}"
        f"\nContainers space usage:\n\n{render(containers)}"
        f"\nLocal Volumes space usage:\n\n{render(volumes)}"
        f"\nBuild cache usage: {total}\n\n{render(caches)}"
    )


DF = Command(
    "df [OPTIONS]",
    "Show docker disk usage",
    run,
    flags=[
        Flag("format", "", "string", listing.HELP),
        Flag("verbose", "v", "bool", "Show detailed information on space usage"),
    ],
)
