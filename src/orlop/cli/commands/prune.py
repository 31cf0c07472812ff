# SPDX-License-Identifier: Apache-2.0
"""Remove what is not used: containers, images, and everything at once."""

from typing import Any

from orlop.cli.command import Command
from orlop.cli.confirm import confirmed
from orlop.cli.errors import ExitError
from orlop.cli.flags import Args, Flag
from orlop.cli.format import parse_filters
from orlop.cli.units import human_size
from orlop.engine.client import Client

_CONTAINERS = "WARNING! This will remove all stopped containers."
_DANGLING = "WARNING! This will remove all dangling images."
_UNUSED = "WARNING! This will remove all images without at least one container associated to them."


class _Pruned:
    """What has been removed, and how much room that made."""

    def __init__(self) -> None:
        self.space = 0

    def show(self, answer: dict[str, Any], what: str, removed: list[str]) -> None:
        self.space += answer.get("SpaceReclaimed") or 0
        if removed:
            print(f"Deleted {what}:\n" + "\n".join(removed) + "\n")

    def total(self) -> None:
        print(f"Total reclaimed space: {human_size(self.space)}")


def _prune_containers(client: Client, args: Args) -> int:
    _filters(args.items("filter"))  # what is wrong with them is said before anything is asked
    if confirmed(_CONTAINERS, args.flag("force")):
        pruned = _Pruned()
        _containers(client, args.items("filter"), pruned)
        pruned.total()
    return 0


def _prune_images(client: Client, args: Args) -> int:
    everything = args.flag("all")
    _filters(args.items("filter"))
    if confirmed(_UNUSED if everything else _DANGLING, args.flag("force")):
        pruned = _Pruned()
        _images(client, args.items("filter"), everything, pruned)
        pruned.total()
    return 0


def _prune_system(client: Client, args: Args) -> int:
    filters, everything, volumes = args.items("filter"), args.flag("all"), args.flag("volumes")
    if volumes and any(text.partition("=")[0] == "until" for text in filters):
        raise ExitError('ERROR: The "until" filter is not supported with "--volumes"')
    _filters(filters)
    if not confirmed(_warning(filters, everything, volumes), args.flag("force")):
        return 0
    pruned = _Pruned()
    _containers(client, filters, pruned)
    answer = client.post("/networks/prune", {"filters": _filters(filters)})
    pruned.show(answer, "Networks", answer.get("NetworksDeleted") or [])
    if volumes:
        answer = client.post("/volumes/prune", {"filters": _filters(filters)})
        pruned.show(answer, "Volumes", answer.get("VolumesDeleted") or [])
    _images(client, filters, everything, pruned)
    answer = client.post("/build/prune", {"all": everything or None, "filters": _filters(filters)})
    pruned.show(answer, "build cache objects", answer.get("CachesDeleted") or [])
    pruned.total()
    return 0


def _containers(client: Client, filters: list[str], pruned: _Pruned) -> None:
    answer = client.post("/containers/prune", {"filters": _filters(filters)})
    pruned.show(answer, "Containers", answer.get("ContainersDeleted") or [])


def _images(client: Client, filters: list[str], everything: bool, pruned: _Pruned) -> None:
    wanted = [*filters, f"dangling={'false' if everything else 'true'}"]
    answer = client.post("/images/prune", {"filters": _filters(wanted)})
    removed = [
        f"{key.lower()}: {item[key]}"
        for item in answer.get("ImagesDeleted") or []
        for key in ("Untagged", "Deleted")
        if item.get(key)
    ]
    pruned.show(answer, "Images", removed)


def _filters(pairs: list[str]) -> str | None:
    return parse_filters(pairs, "--filter")


def _warning(filters: list[str], everything: bool, volumes: bool) -> str:
    lines = ["WARNING! This will remove:", "  - all stopped containers"]
    lines.append("  - all networks not used by at least one container")
    if volumes:
        lines.append("  - all anonymous volumes not used by at least one container")
    if everything:
        lines.append("  - all images without at least one container associated to them")
        lines.append("  - all build cache")
    else:
        lines.append("  - all dangling images")
        lines.append("  - unused build cache")
    if filters:
        lines += ["", "  Items to be pruned will be filtered with:", *(f"  - {text}" for text in sorted(filters))]
    return "\n".join(lines) + "\n"


def _filter(example: str) -> Flag:
    return Flag("filter", "", "list", f'Provide filter values (e.g. "{example}")', shown_kind="filter")


_FORCE = Flag("force", "f", "bool", "Do not prompt for confirmation")

CONTAINERS = Command(
    "prune [OPTIONS]",
    "Remove all stopped containers",
    _prune_containers,
    flags=[_filter("until=<timestamp>"), _FORCE],
)
IMAGES = Command(
    "prune [OPTIONS]",
    "Remove unused images",
    _prune_images,
    flags=[
        Flag("all", "a", "bool", "Remove all unused images, not just dangling ones"),
        _filter("until=<timestamp>"),
        _FORCE,
    ],
)
SYSTEM = Command(
    "prune [OPTIONS]",
    "Remove unused data",
    _prune_system,
    flags=[
        Flag("all", "a", "bool", "Remove all unused images not just dangling ones"),
        _filter("label=<key>=<value>"),
        _FORCE,
        Flag("volumes", "", "bool", "Prune anonymous volumes"),
    ],
)
