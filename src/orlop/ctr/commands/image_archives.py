# SPDX-License-Identifier: Apache-2.0
"""ctr images import, export and convert."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from orlop.api.content_pb2 import Info
from orlop.api.images_pb2 import Image
from orlop.containerd.client import Client
from orlop.containerd.client.leases import leased
from orlop.ctr.commands.image_state import SNAPSHOTTER
from orlop.ctr.commands.image_transfers import (
    ALL_PLATFORMS,
    LABELS,
    LOCAL,
    PLATFORMS,
    SYNC_FS,
    contents_of,
    platforms_of,
    set_image,
)
from orlop.ctr.flags import Flag, Values
from orlop.ctr.labels import label_arguments
from orlop.ctr.main import Command
from orlop.errdefs import InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from orlop.containerd.client.archive import ImportedImage
    from orlop.containerd.client.erofs import Erofs
    from orlop.containerd.client.recompress import Compression
    from orlop.oci.image import Descriptor


async def _import(client: Client, values: Values) -> None:
    from orlop.containerd.client.archive import import_archive
    from orlop.containerd.client.unpack import to_proto

    (path,) = values.need("in")
    if values["no-unpack"] and values["discard-unpacked-layers"]:
        raise InvalidArgumentError("discard-unpacked-layers and no-unpack are incompatible options")
    labels = label_arguments(values["label"])

    async def hold(_image: ImportedImage) -> None:
        """Names come when all is here: the lease keeps it till then."""

    async with leased(client) as work:
        images = await import_archive(work, _chunks(path), hold, snapshotter="", compress=values["compress-blobs"])
        named = [(name, image.target) for image in images for name in imported_names(values, image)]
        if values["index-name"]:
            named.append((values["index-name"], await _store_index(work, [image.target for image in images])))
        if not values["no-unpack"]:
            for image in images:
                await _unpack(work, values, image.target)
        for name, target in named:
            await set_image(work, Image(name=name, target=to_proto(target), labels=labels))
            print(f"{name}: {target.digest}")


def imported_names(values: Values, image: ImportedImage) -> list[str]:
    """The names for an image of an archive: its own as far as `base-name` allows it, and one by its digest."""
    from orlop.containerd.client.archive import ANNOTATION_REF_NAME
    from orlop.oci import reference

    base = values["base-name"]
    prefix = base or time.strftime("import-%Y-%m-%d")
    names = []
    if image.name:
        try:  # a docker-archive has familiar names
            full = image.name if image.target.annotations else str(reference.parse(image.name).tagged())
        except InvalidArgumentError:
            full = image.name
        if not base or full == base or full.startswith((f"{base}:", f"{base}/", f"{base}@")):
            names.append(full)
    elif tag := image.target.annotations.get(ANNOTATION_REF_NAME):
        names.append(f"{prefix}:{tag}")
    if values["digests"] and not (names and values["skip-digest-for-named"]):
        names.append(f"{prefix}@{image.target.digest}")
    return names


async def _store_index(client: Client, targets: Sequence[Descriptor]) -> Descriptor:
    from orlop.codec import encode
    from orlop.containerd.client.fetch import children_labels, store_small
    from orlop.oci.image import OCI_INDEX, Descriptor, Index, digest_of

    index = Index(media_type=OCI_INDEX, manifests=list(targets))
    raw = encode(index)
    made = Descriptor(media_type=OCI_INDEX, digest=digest_of(raw), size=len(raw))
    await store_small(client, made, raw, children_labels(index))
    return made


async def _unpack(client: Client, values: Values, target: Descriptor) -> None:
    from orlop.containerd.client.unpack import unpack
    from orlop.oci.image import CONFIG_TYPES
    from orlop.oci.platforms import platform_rank

    platforms = platforms_of(values)
    try:
        contents = await contents_of(client, target, platforms)
    except NotFoundError:
        return  # the archive has a part of the image
    for content in contents:
        platform = content.image.platform
        if platforms and all(platform_rank(wanted, platform) is None for wanted in platforms):
            continue
        if content.config_descriptor.media_type in CONFIG_TYPES:
            await unpack(client, content, values["snapshotter"], sync=values["sync-fs"])
            if values["discard-unpacked-layers"]:
                await _let_go_of_layers(client, content.manifest_descriptor.digest, len(content.layers))


async def _let_go_of_layers(client: Client, manifest: str, count: int) -> None:
    """What is unpacked is in the snapshots: the collector may have the layers."""
    paths = [f"labels.containerd.io/gc.ref.content.l.{number}" for number in range(count)]
    await client.content.update(Info(digest=manifest), *paths)


async def _chunks(path: str) -> AsyncIterator[bytes]:
    file = sys.stdin.buffer if path == "-" else open(path, "rb")  # noqa: SIM115 - closed below unless it is stdin
    try:
        while data := file.read(1 << 20):
            yield data
    finally:
        if path != "-":
            file.close()


async def _export(client: Client, values: Values) -> None:
    from orlop.containerd.client.export import Selection, export_platforms
    from orlop.containerd.client.unpack import from_proto
    from orlop.oci.platforms import host_platform

    path, *_ = values.need("out", "image")
    selection = Selection(
        platforms_of(values), not values["skip-manifest-json"], not values["skip-non-distributable"]
    )
    images = {name: from_proto((await client.images.get(name)).target) for name in values.arguments[1:]}
    output = sys.stdout.buffer if path == "-" else open(path, "wb")  # noqa: SIM115 - closed below unless it is stdout
    try:
        async for data in export_platforms(client, images, host_platform(), selection):
            output.write(data)
    except BaseException:
        if path != "-":
            os.unlink(path)
        raise
    finally:
        output.flush()
        if path != "-":
            output.close()


async def _convert(client: Client, values: Values) -> None:
    from orlop.containerd.client.convert import Conversion, convert
    from orlop.containerd.client.unpack import from_proto, to_proto

    source, name = values.need("src image ref", "target image ref")
    image = await client.images.get(source)
    wanted = Conversion(platforms_of(values), _compression(values), values["oci"], _erofs(values))
    async with leased(client) as work:
        target = await convert(work, from_proto(image.target), wanted)
        await set_image(work, Image(name=name, target=to_proto(target), labels=image.labels))
    print(target.digest)


def _compression(values: Values) -> Compression | None:
    from orlop.containerd.client.recompress import Compression

    flags = {"uncompress": Compression.NONE, "gzip": Compression.GZIP, "zstd": Compression.ZSTD}
    asked = [name for name in flags if values[name]]
    if len(asked) > 1:
        raise InvalidArgumentError(f"{' and '.join(f'--{name}' for name in asked)} exclude each other")
    return flags[asked[0]] if asked else None


def _erofs(values: Values) -> Erofs | None:
    from orlop.containerd.client.erofs import Erofs

    if not values.given("erofs"):
        return None
    if values["erofs"] not in ("raw", "zstd"):
        raise InvalidArgumentError(f"erofs: expected raw or zstd, got {values['erofs']!r}")
    if _compression(values) is not None:
        raise InvalidArgumentError("--erofs excludes the compression of tars")
    return Erofs(values["erofs"] == "zstd", values["erofs-compressors"], values["erofs-mkfs-options"].split())


async def _build_erofs_cache(client: Client, values: Values) -> None:
    from orlop.containerd.client.erofs import Erofs, build_cache
    from orlop.containerd.client.unpack import from_proto, read_image
    from orlop.oci.platforms import host_platform, parse_platform

    name, directory = values.need("image ref", "cache dir")
    platform = parse_platform(values["platform"]) if values["platform"] else host_platform()
    image = await client.images.get(name)
    content = await read_image(client, from_proto(image.target), platform)
    layers = list(zip(content.layers, content.image.rootfs.diff_ids, strict=True))
    wanted = Erofs(False, values["compressors"], values["mkfs-options"].split())
    try:
        await build_cache(client, layers, directory, wanted, verity=values["dmverity"])
    except NotFoundError as error:
        raise NotFoundError(f"fetch the image's content first (ctr content fetch {name}): {error}") from None
    print(directory)


COMMANDS = {
    "build-erofs-cache": Command(
        _build_erofs_cache,
        "build an EROFS cache of an image's layers",
        "[flags] <image_ref> <cache_dir>",
        (
            Flag("compressors", help="compression of the blocks, such as lz4hc"),
            Flag("mkfs-options", help="further options of mkfs.erofs"),
            Flag("platform", help="the platform whose layers are meant; the host's by default"),
            Flag("dmverity", bool, help="add dm-verity's hashes to each file system"),
        ),
    ),
    "convert": Command(
        _convert,
        "convert an image",
        "[flags] <source_ref> <target_ref>",
        (
            Flag("uncompress", bool, help="convert compressed layers to uncompressed tar layers"),
            Flag("gzip", bool, help="compress layers with gzip"),
            Flag("zstd", bool, help="compress layers with zstd"),
            Flag("oci", bool, help="convert Docker media types to OCI media types"),
            Flag("erofs", help="convert layers to EROFS format: raw or zstd"),
            Flag("erofs-compressors", help="compression of the blocks of EROFS layers"),
            Flag("erofs-mkfs-options", help="further options of mkfs.erofs"),
            PLATFORMS,
            ALL_PLATFORMS,
        ),
    ),
    "export": Command(
        _export,
        "export images",
        "[flags] <out> <image> ...",
        (
            Flag("skip-manifest-json", bool, help="no manifest.json of Docker's in the archive"),
            Flag("skip-non-distributable", bool, help="no layers that may not be distributed, such as Windows'"),
            PLATFORMS,
            ALL_PLATFORMS,
            LOCAL,
        ),
    ),
    "import": Command(
        _import,
        "import images",
        "[flags] <in>",
        (
            Flag("base-name", help="only import images of that name, and give it to those that have a tag alone"),
            Flag("digests", bool, help="name images by their digests too"),
            Flag("skip-digest-for-named", bool, help="no --digests for images that the archive names"),
            Flag("index-name", help="keep the archive's index under this name"),
            LABELS,
            Flag("no-unpack", bool, help="skip unpacking the images"),
            Flag("compress-blobs", bool, help="compress the layers of an archive of docker save"),
            Flag("discard-unpacked-layers", bool, help="let layers be collected that have been unpacked"),
            LOCAL,
            PLATFORMS,
            ALL_PLATFORMS,
            SYNC_FS,
            SNAPSHOTTER,
        ),
    ),
}
