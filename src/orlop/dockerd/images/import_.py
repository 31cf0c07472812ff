# SPDX-License-Identifier: Apache-2.0
"""Makes an image of one layer from a tar of a root filesystem: `docker import`."""

import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence

from isal import isal_zlib

from orlop.codec import encode
from orlop.containerd.client import Client
from orlop.containerd.client.fetch import children_labels, ingestion, store_small
from orlop.containerd.client.leases import leased
from orlop.containerd.client.tarstream import decompressed
from orlop.containerd.client.unpack import ImageContent, unpack
from orlop.dockerd.images.changes import apply_changes
from orlop.dockerd.images.names import dangling_name, set_name
from orlop.dockerd.images.ports import PublishImageEvent
from orlop.dockerd.images.store import ImageStore
from orlop.errdefs import AlreadyExistsError, InvalidArgumentError
from orlop.oci.image import (
    OCI_CONFIG,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    History,
    Image,
    ImageConfig,
    Manifest,
    Platform,
    RootFS,
    digest_of,
)
from orlop.oci.platforms import host_platform
from orlop.oci.reference import Reference


class ImportImage:
    """Takes the tar of a root filesystem, plain or compressed."""

    def __init__(self, store: ImageStore, publish: PublishImageEvent) -> None:
        self._store = store
        self._publish = publish

    async def __call__(
        self,
        tar: AsyncIterator[bytes],
        *,
        reference: Reference | None = None,
        message: str = "",
        changes: Sequence[str] = (),
        platform: Platform | None = None,
    ) -> str:
        """The new image's ID. Raises InvalidArgumentError for a malformed change or tar."""
        config = apply_changes(ImageConfig(), changes)
        platform = platform or host_platform()
        async with leased(self._store.client) as client:
            layer, diff_id = await store_layer(client, tar)
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            image = Image(
                created=now,
                architecture=platform.architecture,
                os=platform.os,
                variant=platform.variant,
                config=config,
                rootfs=RootFS(diff_ids=[diff_id]),
                history=[History(created=now, comment=message)],
                comment=message,
            )
            content = await write_image(client, image, [layer])
            await unpack(client, content, self._store.snapshotter)
            name = str(reference.tagged()) if reference else dangling_name(content.target)
            await set_name(self._store, name, content.target)
        image_id = content.config_descriptor.digest
        self._publish("import", image_id, {"name": reference.tagged().familiar if reference else image_id})
        return image_id


async def store_layer(client: Client, tar: AsyncIterator[bytes]) -> tuple[Descriptor, str]:
    """Store a tar, plain or compressed, as a layer, compressed; its diff ID. Raises InvalidArgumentError."""
    plain, stored = hashlib.sha256(), hashlib.sha256()
    compressor = isal_zlib.compressobj(level=isal_zlib.ISAL_DEFAULT_COMPRESSION, wbits=31)
    read = size = 0
    try:
        async with ingestion(client, f"layer-{secrets.token_hex(8)}") as writer:
            async for chunk in decompressed(tar):
                plain.update(chunk)
                read += len(chunk)
                if data := compressor.compress(chunk):
                    stored.update(data)
                    size += len(data)
                    await writer.write(data)
            if not read:
                raise InvalidArgumentError("archive is empty")
            data = compressor.flush()
            stored.update(data)
            size += len(data)
            await writer.write(data)
            await writer.commit(size=size)
    except AlreadyExistsError:
        await client.leases.add_resource(client.lease, "content", f"sha256:{stored.hexdigest()}")
    layer = Descriptor(media_type=OCI_LAYER_GZIP, digest=f"sha256:{stored.hexdigest()}", size=size)
    return layer, f"sha256:{plain.hexdigest()}"


async def write_image(
    client: Client, image: Image, layers: list[Descriptor], labels: Mapping[str, str] | None = None
) -> ImageContent:
    """Write configuration and manifest of an image whose layers are in the content store."""
    raw_config = encode(image)
    config = Descriptor(media_type=OCI_CONFIG, digest=digest_of(raw_config), size=len(raw_config))
    manifest = Manifest(media_type=OCI_MANIFEST, config=config, layers=layers)
    raw = encode(manifest)
    target = Descriptor(media_type=OCI_MANIFEST, digest=digest_of(raw), size=len(raw))
    await store_small(client, config, raw_config, {})
    await store_small(client, target, raw, {**children_labels(manifest), **(labels or {})})
    return ImageContent(target, target, config, layers, image)
