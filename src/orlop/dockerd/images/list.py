# SPDX-License-Identifier: Apache-2.0
"""Lists images, filtered: `docker images`."""

import re
from typing import Any

import msgspec

from orlop.dockerd import timestamps
from orlop.dockerd.filters import Filters
from orlop.dockerd.images.ports import ContainerUses
from orlop.dockerd.images.sizes import LayerSizes
from orlop.dockerd.images.store import ImageRecord, ImageStore
from orlop.errdefs import OrlopError
from orlop.oci.reference import Reference

ACCEPTED_FILTERS = ("dangling", "label", "label!", "before", "since", "reference", "until")


class ListImages:
    """The images as the Engine API's ImageSummary objects, the newest first."""

    def __init__(self, store: ImageStore, sizes: LayerSizes, uses: ContainerUses) -> None:
        self._store = store
        self._sizes = sizes
        self._uses = uses

    async def __call__(self, filters: Filters, *, shared_size: bool = False) -> list[dict[str, Any]]:
        """Raises InvalidArgumentError for an unknown filter, NotFoundError for `before` or `since` of no image."""
        filters.validate(ACCEPTED_FILTERS)
        selection = await select(self._store, filters)
        shared = await self._sizes.shared(await self._store.records()) if shared_size else {}
        summaries = []
        for record in selection:
            tags, digests = matching_names(record, filters.get("reference"))
            summaries.append(
                {
                    "Containers": len(self._uses(record.id)),
                    "Created": created(record) // timestamps.SECOND,
                    "Id": record.id,
                    "Labels": record.config.config.labels,
                    "ParentId": "",
                    "Descriptor": msgspec.to_builtins(record.target),
                    "RepoDigests": digests,
                    "RepoTags": tags,
                    "SharedSize": shared.get(record.id, -1),
                    "Size": await self._sizes.total(record),
                }
            )
        return sorted(summaries, key=lambda summary: -int(str(summary["Created"])))


async def select(store: ImageStore, filters: Filters) -> list[ImageRecord]:
    """The images that pass the filters (all but `reference`'s choice of names, which `matching_names` makes)."""
    before = [created(await store.resolve(name)) for name in filters.get("before")]
    since = [created(await store.resolve(name)) for name in filters.get("since")]
    until = [timestamps.parse(text, name="until") for text in filters.get("until")]
    dangling = filters.flag("dangling", False) if "dangling" in filters else None
    chosen = []
    for record in await store.records():
        made = created(record)
        labels = record.config.config.labels
        if (
            (dangling is not None and dangling != is_dangling(record))
            or not filters.labels("label", labels)
            or ("label!" in filters and filters.labels("label!", labels))
            or any(made >= limit for limit in before)
            or any(made <= limit for limit in since)
            or any(made >= limit for limit in until)
        ):
            continue
        patterns = filters.get("reference")
        if patterns and not any(matching_names(record, patterns)):
            continue
        chosen.append(record)
    return chosen


def is_dangling(record: ImageRecord) -> bool:
    """Whether nobody knows it by a name."""
    return not record.references


def created(record: ImageRecord) -> int:
    """When it was built, in nanoseconds; 0 if it does not say."""
    if not record.config.created:
        return 0
    try:
        return timestamps.parse(record.config.created)
    except OrlopError:
        return 0  # a foreign builder's nonsense must not hide all images


def matching_names(record: ImageRecord, patterns: list[str]) -> tuple[list[str], list[str]]:
    """RepoTags and RepoDigests, those only that match a pattern of the filter `reference`."""
    if not patterns:
        return record.repo_tags, record.repo_digests
    wanted = [ref for ref in record.references if any(_familiar_match(pattern, ref) for pattern in patterns)]
    repositories = {ref.familiar_name for ref in wanted}
    tags = sorted({ref.familiar for ref in wanted if ref.tag})
    return tags, [digest for digest in record.repo_digests if digest.partition("@")[0] in repositories]


def _familiar_match(pattern: str, ref: Reference) -> bool:
    glob = _glob(pattern)
    return glob.fullmatch(ref.familiar) is not None or glob.fullmatch(ref.familiar_name) is not None


def _glob(pattern: str) -> re.Pattern[str]:
    """A shell pattern in which `*` and `?` do not match a slash, as Go's path.Match has it."""
    parts = []
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character == "*":
            parts.append("[^/]*")
        elif character == "?":
            parts.append("[^/]")
        elif character == "[" and (end := pattern.find("]", position + 1)) > 0:
            inside = pattern[position:end].replace("\\", "\\\\")
            parts.append("[" + inside + "]")
            position = end + 1
        else:
            parts.append(re.escape(character))
    try:
        return re.compile("".join(parts))
    except re.error:
        return re.compile(re.escape(pattern))
