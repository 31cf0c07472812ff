# SPDX-License-Identifier: Apache-2.0
"""Transfers between an archive that a stream carries and the image store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from orlop.codec import encode
from orlop.containerd.client.archive import ANNOTATION_IMAGE_NAME, ImportedImage, import_archive
from orlop.containerd.client.export import Selection, export_platforms
from orlop.containerd.client.fetch import children_labels, store_small
from orlop.containerd.client.leases import leased
from orlop.containerd.client.streams import receive_bytes, send_bytes
from orlop.containerd.client.unpack import from_proto, read_image, unpack
from orlop.containerd.plugins.transfer.images import platforms_of, store_names
from orlop.containerd.plugins.transfer.names import has_prefix, names_of_member, names_of_target
from orlop.errdefs import InvalidArgumentError, NotFoundError
from orlop.oci import reference as references
from orlop.oci.image import OCI_INDEX, Descriptor, Index, digest_of
from orlop.oci.platforms import host_platform, platform_rank

if TYPE_CHECKING:
    from orlop.api.transfer_types_pb2 import ImageExportStream, ImageImportStream, ImageStore
    from orlop.containerd.client import Client
    from orlop.containerd.client.streams import Stream
    from orlop.containerd.plugins.transfer.progress import ProgressReporter


async def import_images(
    client: Client,
    archive: ImageImportStream,
    stream: Stream,
    store: ImageStore,
    progress: ProgressReporter,
    default_snapshotter: str,
) -> None:
    """From an archive into the image store: its images under the names that the store's message allows, and its
    index under the store's own name.

    Raises what `import_archive` raises.
    """
    progress.say("Importing")
    async with leased(client) as work:

        async def hold(_image: ImportedImage) -> None:
            """Names come when all is here: the lease keeps it till then."""

        images = await import_archive(
            work, receive_bytes(stream), hold, snapshotter="", compress=archive.force_compress
        )
        for image in images:
            await _unpack(work, image.target, store, default_snapshotter)
        await _name_index(work, [image.target for image in images], store, progress)
        for image in images:
            annotations = image.target.annotations or _annotations(image.name)
            names = names_of_member(store, annotations, image.target.digest)
            if names:
                await store_names(work, names, image.target)
            for name in names:
                progress.say("saved", name.name, image.target)
    progress.say("Completed import")


def _annotations(name: str) -> dict[str, str]:
    """What an OCI layout would say of an image that a docker-archive names."""
    if not name:
        return {}
    return {ANNOTATION_IMAGE_NAME: str(references.parse(name).tagged())}


async def _unpack(client: Client, target: Descriptor, store: ImageStore, default_snapshotter: str) -> None:
    for item in store.unpacks:
        (platform,) = platforms_of([item.platform])
        try:
            content = await read_image(client, target, platform)
        except NotFoundError:
            continue  # the archive has the image for other platforms
        if platform_rank(platform, content.image.platform) is not None:
            await unpack(client, content, item.snapshotter or default_snapshotter)


async def _name_index(
    client: Client, targets: Sequence[Descriptor], store: ImageStore, progress: ProgressReporter
) -> None:
    index = Index(media_type=OCI_INDEX, manifests=list(targets))
    raw = encode(index)
    descriptor = Descriptor(media_type=OCI_INDEX, digest=digest_of(raw), size=len(raw))
    names = [name for name in names_of_target(store, descriptor.digest) if name.name == store.name]
    if names:
        await store_small(client, descriptor, raw, children_labels(index))
        await store_names(client, names, descriptor)
        progress.say("saved", store.name, descriptor)


async def export_images(
    client: Client, store: ImageStore, archive: ImageExportStream, stream: Stream, progress: ProgressReporter
) -> None:
    """From the image store into an archive. Raises NotFoundError, and what `export_platforms` raises."""
    progress.say("Exporting")
    async with leased(client) as work:
        images = await _looked_up(work, store)
        platforms = [] if archive.all_platforms else platforms_of(archive.platforms) or [host_platform()]
        selection = Selection(
            platforms, not archive.skip_compatibility_manifest, not archive.skip_non_distributable
        )
        await send_bytes(stream, export_platforms(work, images, host_platform(), selection))
    progress.say("Completed export")


async def _looked_up(client: Client, store: ImageStore) -> Mapping[str, Descriptor]:
    """The images by their names, and those whose names begin with a prefix, in the order of the names."""
    names = [store.name] if store.name else []
    names += [reference.name for reference in store.extra_references if not reference.is_prefix]
    prefixes = [reference.name for reference in store.extra_references if reference.is_prefix]
    if not names and not prefixes:
        raise InvalidArgumentError("an export needs the name of an image")
    found = {name: from_proto((await client.images.get(name)).target) for name in names}
    known = await client.images.list() if prefixes else []
    for prefix in prefixes:
        below = {each.name: from_proto(each.target) for each in known if has_prefix(each.name, prefix)}
        if not below:
            raise NotFoundError(f"no image has a name that begins with {prefix}")
        found |= below
    return found


async def echo(source: Stream, destination: Stream) -> None:
    """From one stream to another, as it is."""
    await send_bytes(destination, receive_bytes(source))
