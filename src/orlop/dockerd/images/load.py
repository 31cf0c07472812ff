# SPDX-License-Identifier: Apache-2.0
"""Loads images from an archive: `docker load`."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from orlop.containerd.client.archive import ImportedImage, import_archive
from orlop.containerd.client.unpack import read_image
from orlop.dockerd.images.names import dangling_name, set_name
from orlop.dockerd.images.ports import PublishImageEvent
from orlop.dockerd.images.store import ImageStore
from orlop.errdefs import InvalidArgumentError, NotFoundError
from orlop.oci import reference
from orlop.oci.image import Platform
from orlop.oci.platforms import platform_rank

Send = Callable[[dict[str, Any]], Awaitable[None]]


class LoadImages:
    """Takes an OCI layout or a docker-archive as one tar, plain or compressed."""

    def __init__(self, store: ImageStore, publish: PublishImageEvent) -> None:
        self._store = store
        self._publish = publish

    async def __call__(
        self, archive: AsyncIterator[bytes], send: Send, *, platforms: Sequence[Platform] = ()
    ) -> None:
        """Load, telling each image's name; each must have all of `platforms`, the first of which is unpacked.

        Raises InvalidArgumentError, DataLossError, NotFoundError; then nothing is named.
        """

        async def name(image: ImportedImage) -> None:
            await self._check(image, platforms)
            await send({"stream": await self._name(image) + "\n"})

        snapshotter = self._store.snapshotter
        platform = platforms[0] if platforms else None
        await import_archive(self._store.client, archive, name, snapshotter=snapshotter, platform=platform)

    async def _check(self, image: ImportedImage, platforms: Sequence[Platform]) -> None:
        for platform in platforms:
            try:
                found = (await read_image(self._store.client, image.target, platform)).image.platform
            except NotFoundError:
                found = None
            if found is None or platform_rank(platform, found) is None:
                raise NotFoundError(f"requested platform ({platform}) not found in the archive")

    async def _name(self, image: ImportedImage) -> str:
        """Name an image as the archive does, and say so."""
        image_id = image.content.config_descriptor.digest if image.content else image.target.digest
        labels = image.content.image.config.labels if image.content else {}
        try:
            ref = reference.parse(image.name).tagged() if image.name else None
        except InvalidArgumentError:
            ref = None
        await set_name(self._store, str(ref) if ref else dangling_name(image.target), image.target)
        self._store.changed()
        self._publish("load", image_id, {**labels, "name": image_id})
        return f"Loaded image: {ref.familiar}" if ref else f"Loaded image ID: {image_id}"
