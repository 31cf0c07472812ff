# SPDX-License-Identifier: Apache-2.0
"""Gives names to images and takes them away, so that no image vanishes by losing its name to another."""

from orlop.api.images_pb2 import Image
from orlop.containerd.client.unpack import to_proto
from orlop.dockerd.images.store import DANGLING, ImageStore
from orlop.errdefs import AlreadyExistsError, NotFoundError
from orlop.oci.image import Descriptor


def dangling_name(target: Descriptor) -> str:
    """The name of an image without a tag."""
    return f"{DANGLING}@{target.digest}"


async def set_name(store: ImageStore, name: str, target: Descriptor) -> bool:
    """Let `name` mean `target`; False if it did already. The image that it meant before stays, dangling."""
    images = store.client.images
    message = to_proto(target)
    try:
        known = await images.get(name)
    except NotFoundError:
        known = None
    if known is not None:
        if known.target.digest == target.digest:
            return False
        await keep_dangling(
            store,
            name,
            Descriptor(media_type=known.target.media_type, digest=known.target.digest, size=known.target.size),
        )
        await images.update(Image(name=name, target=message), "target")
    else:
        try:
            await images.create(name, message)
        except AlreadyExistsError:  # another client was faster: its image is not ours to keep
            await images.update(Image(name=name, target=message), "target")
    store.changed(name)
    if name != dangling_name(target):
        await drop_dangling(store, target)
    return True


async def keep_dangling(store: ImageStore, name: str, target: Descriptor) -> None:
    """Give `target` a dangling name if `name` is its only one."""
    others = [
        image for image in await store.client.images.list(f"target.digest=={target.digest}") if image.name != name
    ]
    if others:
        return
    try:
        await store.client.images.create(dangling_name(target), to_proto(target))
    except AlreadyExistsError:
        pass
    store.changed(dangling_name(target))


async def drop_dangling(store: ImageStore, target: Descriptor) -> None:
    """Take the dangling name from an image that has a real one now."""
    await remove_name(store, dangling_name(target))


async def remove_name(store: ImageStore, name: str, *, collect: bool = False) -> None:
    """Take a name away, and with `collect` wait until what it alone kept is gone; no such name is as good."""
    try:
        await store.client.images.delete(name, sync=collect)
    except NotFoundError:
        pass
    store.changed(name)
