# SPDX-License-Identifier: Apache-2.0
"""Removes images that nobody needs: `docker image prune`."""

import asyncio
from typing import Any

from orlop.dockerd.filters import Filters
from orlop.dockerd.images.list import is_dangling, select
from orlop.dockerd.images.ports import ContainerUses
from orlop.dockerd.images.remove import Removed, RemoveImage
from orlop.dockerd.images.sizes import LayerSizes
from orlop.dockerd.images.store import ImageStore
from orlop.errdefs import ConflictError
from orlop.oci.image import chain_ids

ACCEPTED_FILTERS = ("dangling", "label", "label!", "until")


class PruneImages:
    """Removes dangling images, or with the filter `dangling=false` all that no container was made from."""

    def __init__(self, store: ImageStore, sizes: LayerSizes, uses: ContainerUses, remove: RemoveImage) -> None:
        self._store = store
        self._sizes = sizes
        self._uses = uses
        self._remove = remove
        self._running = asyncio.Lock()

    async def __call__(self, filters: Filters) -> dict[str, Any]:
        """The Engine API's report: what went and how many bytes. Raises ConflictError while another prune runs."""
        filters.validate(ACCEPTED_FILTERS)
        if self._running.locked():
            raise ConflictError("a prune operation is already running")
        async with self._running:
            dangling_only = filters.flag("dangling", True)
            others = Filters({name: filters.get(name) for name in filters.names() if name != "dangling"})
            removed: Removed = []
            space = 0
            for record in await select(self._store, others):
                if (dangling_only and not is_dangling(record)) or self._uses(record.id):
                    continue
                sizes = dict(
                    zip(chain_ids(record.config.rootfs.diff_ids), await self._sizes.of(record), strict=True)
                )
                try:
                    items = await self._remove(record.id, force=True)
                except ConflictError:
                    continue  # a container of it has just been started
                removed += items
                space += sum(sizes.get(item.get("Deleted", ""), 0) for item in items)
            return {"ImagesDeleted": removed or None, "SpaceReclaimed": space}
