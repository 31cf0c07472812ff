# SPDX-License-Identifier: Apache-2.0
"""Tells how an image was made: `docker history`."""

from typing import Any

from orlop.dockerd import timestamps
from orlop.dockerd.images.list import created
from orlop.dockerd.images.sizes import LayerSizes
from orlop.dockerd.images.store import ImageStore
from orlop.errdefs import OrlopError
from orlop.oci.image import Platform


class ImageHistory:
    """An image's steps as the Engine API's HistoryResponseItem objects, the last first."""

    def __init__(self, store: ImageStore, sizes: LayerSizes) -> None:
        self._store = store
        self._sizes = sizes

    async def __call__(self, name: str, platform: Platform | None = None) -> list[dict[str, Any]]:
        """Raises NotFoundError, also for an image that is here for other platforms only."""
        record = await self._store.resolve(name, platform)
        sizes = iter(await self._sizes.of(record))
        items: list[dict[str, Any]] = []
        for step in record.config.history:
            items.append(
                {
                    "Id": "<missing>",
                    "Created": _seconds(step.created),
                    "CreatedBy": step.created_by,
                    "Tags": None,
                    "Size": 0 if step.empty_layer else next(sizes, 0),
                    "Comment": step.comment,
                }
            )
        if not items:  # a builder that wrote no history: the image as one step
            items.append(
                {
                    "Id": "<missing>",
                    "Created": created(record) // timestamps.SECOND,
                    "CreatedBy": "",
                    "Tags": None,
                    "Size": sum(sizes),
                    "Comment": record.config.comment,
                }
            )
        items[-1]["Id"] = record.id
        items[-1]["Tags"] = record.repo_tags or None
        return items[::-1]


def _seconds(text: str) -> int:
    try:
        return timestamps.parse(text) // timestamps.SECOND if text else 0
    except OrlopError:
        return 0
