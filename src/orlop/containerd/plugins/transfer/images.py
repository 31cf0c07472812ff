# SPDX-License-Identifier: Apache-2.0
"""The image store as the destination of a transfer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.api.images_pb2 import Image
from orlop.containerd.client.unpack import to_proto
from orlop.errdefs import AlreadyExistsError, NotFoundError
from orlop.oci.image import Platform

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orlop.api.types_pb2 import Platform as PlatformMessage
    from orlop.containerd.client import Client
    from orlop.containerd.plugins.transfer.names import Name
    from orlop.oci.image import Descriptor


def platforms_of(messages: Iterable[PlatformMessage]) -> list[Platform]:
    """The platforms that a client's message names."""
    return [
        Platform(
            os=message.os,
            architecture=message.architecture,
            variant=message.variant,
            os_version=message.os_version,
            os_features=tuple(message.os_features),
        )
        for message in messages
    ]


async def store_names(client: Client, names: Sequence[Name], target: Descriptor) -> None:
    """Let each name mean `target`, whatever it meant before. Raises NotFoundError if there is no name."""
    if not names:
        raise NotFoundError("no image name found")
    for name in names:
        await _store(client, Image(name=name.name, target=to_proto(target), labels=name.labels))


async def _store(client: Client, image: Image) -> None:
    while True:
        try:
            await client.images.create(image.name, image.target, image.labels)
            return
        except AlreadyExistsError:
            pass
        try:
            await client.images.update(image)
            return
        except NotFoundError:
            continue  # removed between the two calls
