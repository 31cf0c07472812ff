# SPDX-License-Identifier: Apache-2.0
"""Disk space of images: the unpacked size of each layer, asked for once."""

from collections.abc import Iterable

from orlop.dockerd.images.store import ImageRecord, ImageStore
from orlop.errdefs import NotFoundError
from orlop.oci.image import chain_ids


class LayerSizes:
    """Sizes of layers in bytes by chain ID. A committed snapshot never changes, so neither does its size."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store
        self._known: dict[str, int] = {}

    async def of(self, record: ImageRecord) -> list[int]:
        """The size of each layer, the lowest first; 0 for one that is not unpacked."""
        return [await self._size(chain) for chain in chain_ids(record.config.rootfs.diff_ids)]

    async def total(self, record: ImageRecord) -> int:
        """The size of the whole image."""
        return sum(await self.of(record))

    async def shared(self, records: Iterable[ImageRecord]) -> dict[str, int]:
        """By image ID, how much of it lies in layers that another image has too."""
        chains = {record.id: chain_ids(record.config.rootfs.diff_ids) for record in records}
        users: dict[str, int] = {}
        for layers in chains.values():
            for chain in layers:
                users[chain] = users.get(chain, 0) + 1
        return {
            image_id: sum([await self._size(chain) for chain in layers if users[chain] > 1])
            for image_id, layers in chains.items()
        }

    async def _size(self, chain_id: str) -> int:
        if chain_id not in self._known:
            try:
                usage = await self._store.client.snapshots(self._store.snapshotter).usage(chain_id)
            except NotFoundError:
                return 0
            self._known[chain_id] = usage.size
        return self._known[chain_id]
