# SPDX-License-Identifier: Apache-2.0
"""containerd.services.images.v1: translation to the image store."""

from concurrent.futures import Executor
from typing import Any

from google.protobuf.empty_pb2 import Empty

from orlop.api import images_pb2 as pb
from orlop.api import types_pb2
from orlop.api.images_pb2_grpc import ImagesServicer
from orlop.containerd.core.images import Image, Target
from orlop.containerd.core.namespaces import scope_of
from orlop.containerd.metadata.content import MetadataContent
from orlop.containerd.metadata.gc import GarbageCollector
from orlop.containerd.metadata.images import BoundImages, MetadataImages
from orlop.containerd.services.times import from_timestamp, to_timestamp


class ImagesService(ImagesServicer):
    """Images of the caller's namespace.

    An image that is listed is whole, also after a power cut: before it is recorded, what it names is on the disk.
    """

    def __init__(
        self, images: MetadataImages, gc: GarbageCollector, content: MetadataContent, workers: Executor
    ) -> None:
        self._images = images
        self._gc = gc
        self._content = content
        self._workers = workers

    def Get(self, request: pb.GetImageRequest, context: Any) -> pb.GetImageResponse:
        """One image."""
        return pb.GetImageResponse(image=_message(self._bind(context).get(request.name)))

    def List(self, request: pb.ListImagesRequest, context: Any) -> pb.ListImagesResponse:
        """The images that match."""
        images = self._bind(context).list(tuple(request.filters))
        return pb.ListImagesResponse(images=[_message(image) for image in images])

    async def Create(self, request: pb.CreateImageRequest, context: Any) -> pb.CreateImageResponse:
        """Add an image."""
        await self._content.sync_names(self._workers)
        return pb.CreateImageResponse(
            image=_message(self._bind(context).create(_image(request.image), _epoch(request)))
        )

    async def Update(self, request: pb.UpdateImageRequest, context: Any) -> pb.UpdateImageResponse:
        """Change an image."""
        await self._content.sync_names(self._workers)
        updated = self._bind(context).update(
            _image(request.image), tuple(request.update_mask.paths), _epoch(request)
        )
        return pb.UpdateImageResponse(image=_message(updated))

    async def Delete(self, request: pb.DeleteImageRequest, context: Any) -> Empty:
        """Remove an image; with `sync` what only it held is collected before the answer."""
        digest = request.target.digest if request.HasField("target") else ""
        self._bind(context).delete(request.name, digest)
        if request.sync:
            await self._gc.collect_and_wait()
        return Empty()

    def _bind(self, context: Any) -> BoundImages:
        return self._images.bind(scope_of(context.invocation_metadata()))


def _epoch(request: pb.CreateImageRequest | pb.UpdateImageRequest) -> int | None:
    return from_timestamp(request.source_date_epoch) if request.HasField("source_date_epoch") else None


def _message(image: Image) -> pb.Image:
    target = image.target
    return pb.Image(
        name=image.name,
        labels=image.labels,
        target=types_pb2.Descriptor(
            media_type=target.media_type, digest=target.digest, size=target.size, annotations=target.annotations
        ),
        created_at=to_timestamp(image.created),
        updated_at=to_timestamp(image.updated),
    )


def _image(message: pb.Image) -> Image:
    target = message.target
    return Image(
        message.name,
        Target(target.media_type, target.digest, target.size, dict(target.annotations)),
        dict(message.labels),
    )
