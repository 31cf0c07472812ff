# SPDX-License-Identifier: Apache-2.0
"""ctr images pull and push, and what the commands that transfer images share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.api.images_pb2 import Image
from orlop.containerd.client import Client
from orlop.containerd.client.leases import leased
from orlop.ctr.commands.image_state import SNAPSHOTTER
from orlop.ctr.flags import Flag, Values
from orlop.ctr.labels import label_arguments
from orlop.ctr.main import Command
from orlop.ctr.registry import REGISTRY_FLAGS, registry_auth, registry_config
from orlop.errdefs import AlreadyExistsError
from orlop.oci.image import OCI_MANIFEST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.containerd.client.pull_platforms import Wanted
    from orlop.containerd.client.unpack import ImageContent
    from orlop.oci.image import Descriptor, Platform

PLATFORMS = Flag("platform", list, help="content of a specific platform")
ALL_PLATFORMS = Flag("all-platforms", bool, help="content of all platforms")
SYNC_FS = Flag("sync-fs", bool, help="synchronize the underlying filesystem when unpacking images")
LABELS = Flag("label", list, help="labels to attach to the image")
METADATA_FLAGS = (
    Flag("skip-metadata", bool, help="skip the documents of platforms that are not wanted"),
    Flag("all-metadata", bool, help="as without skip-metadata (deprecated)"),
)
LOCAL = Flag("local", bool, help="do the work here instead of in the daemon, as is always done")


def platforms_of(values: Values) -> list[Platform]:
    """The platforms that the flags ask for, the host's if none; an empty list for all."""
    from orlop.oci.platforms import host_platform, parse_platform

    if values["all-platforms"]:
        return []
    return [parse_platform(each) for each in values["platform"]] or [host_platform()]


async def contents_of(client: Client, target: Descriptor, platforms: Sequence[Platform]) -> list[ImageContent]:
    """The images for these platforms (none: for all) whose documents are here. Raises NotFoundError."""
    from orlop.containerd.client.pull_platforms import Wanted, choose
    from orlop.containerd.client.unpack import read_image
    from orlop.oci.image import INDEX_TYPES, MANIFEST_SIZE_MAX, MANIFEST_TYPES, Index, parse_document
    from orlop.oci.platforms import host_platform

    if target.media_type not in INDEX_TYPES:
        return [await read_image(client, target, host_platform())]
    raw = await client.content.read_blob(target.digest, MANIFEST_SIZE_MAX)
    document = parse_document(raw, target.media_type)
    assert isinstance(document, Index)
    known = [
        child
        for child in document.manifests
        if child.media_type in MANIFEST_TYPES and not child.annotations.get("vnd.docker.reference.type")
    ]
    return [await read_image(client, child, host_platform()) for child in choose(known, Wanted(platforms))]


async def set_image(client: Client, image: Image) -> None:
    """Create the image, or make the name mean this one."""
    try:
        await client.images.create(image.name, image.target, image.labels)
    except AlreadyExistsError:
        await client.images.update(image, "target", *(f"labels.{key}" for key in image.labels))


async def fetch_image(work: Client, values: Values, wanted: Wanted, slots: int = 0) -> tuple[str, Descriptor]:
    """Fetch what is wanted of the image that the first argument names, and name it. `work` has a lease."""
    from orlop.containerd.client.fetch import Downloads
    from orlop.containerd.client.pull_platforms import PlatformsPull
    from orlop.containerd.client.unpack import KeyedLocks, to_proto
    from orlop.oci import reference
    from orlop.registry import RegistryClient

    (name,) = values.need("ref")
    ref = reference.parse(name).canonical()
    async with RegistryClient(registry_config(values), registry_auth(values, ref.domain)) as registry:
        target = await registry.resolve(ref)
        downloads, locks = Downloads(slots or 3), KeyedLocks()
        one = PlatformsPull(work, registry, ref, downloads, locks, lambda _: None, lambda *_: None)
        await one.run(target, wanted)
    labels = label_arguments(values["label"])
    await set_image(work, Image(name=str(ref), target=to_proto(target), labels=labels))
    return str(ref), target


async def _pull(client: Client, values: Values) -> None:
    from orlop.containerd.client.pull_platforms import Wanted
    from orlop.containerd.client.unpack import unpack
    from orlop.oci.image import chain_ids

    platforms = platforms_of(values)
    snapshotter = values["snapshotter"]
    # What is synchronized, and what is for platforms that nobody knows before, is unpacked when all is here.
    at_once = [] if values["sync-fs"] else [(platform, snapshotter) for platform in platforms]
    wanted = Wanted(platforms, at_once, all_metadata=not values["skip-metadata"])
    async with leased(client) as work:
        name, target = await fetch_image(work, values, wanted, values["max-concurrent-downloads"])
        contents = await contents_of(work, target, platforms)
        for content in contents:
            await unpack(work, content, snapshotter, sync=values["sync-fs"])
    print(f"{name}: {target.digest}")
    if values["print-chainid"]:
        for content in contents:
            print(f"image chain ID: {chain_ids(content.image.rootfs.diff_ids)[-1]}")


async def _push(client: Client, values: Values) -> None:
    from orlop.containerd.client.push import push
    from orlop.containerd.client.unpack import from_proto
    from orlop.oci import reference
    from orlop.oci.image import Descriptor
    from orlop.oci.platforms import parse_platform

    (remote,) = values.need("remote")
    ref = reference.parse(remote)
    if values["manifest"]:
        info = await client.content.info(values["manifest"])
        target = Descriptor(media_type=values["manifest-type"], digest=info.digest, size=info.size)
    else:
        local = values.arguments[1] if len(values.arguments) > 1 else remote
        target = from_proto((await client.images.get(local)).target)
    await push(
        client,
        ref,
        target,
        auth=registry_auth(values, ref.domain),
        config=registry_config(values),
        slots=values["max-concurrent-uploaded-layers"] or 5,
        platforms=[parse_platform(each) for each in values["platform"]],
        foreign=values["allow-non-distributable-blobs"],
    )
    print(f"{remote}: {target.digest}")


COMMANDS = {
    "pull": Command(
        _pull,
        "pull an image from a remote",
        "[flags] <ref>",
        (
            *REGISTRY_FLAGS,
            PLATFORMS,
            ALL_PLATFORMS,
            *METADATA_FLAGS,
            Flag("max-concurrent-downloads", int, help="how many layers are downloaded at a time"),
            Flag("print-chainid", bool, help="print the resulting image's chain ID"),
            SYNC_FS,
            LOCAL,
            LABELS,
            SNAPSHOTTER,
        ),
    ),
    "push": Command(
        _push,
        "push an image to a remote",
        "[flags] <remote> [<local>]",
        (
            *REGISTRY_FLAGS,
            Flag("manifest", help="digest of manifest"),
            Flag("manifest-type", str, OCI_MANIFEST, "media type of manifest digest"),
            PLATFORMS,
            LOCAL,
            Flag("max-concurrent-uploaded-layers", int, help="how many layers are uploaded at a time"),
            Flag("allow-non-distributable-blobs", bool, help="push non-distributable layers too"),
        ),
    ),
}
