# SPDX-License-Identifier: Apache-2.0
"""ctr images."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from orlop.api.images_pb2 import Image
from orlop.containerd.client import Client
from orlop.ctr import table
from orlop.ctr.commands import image_mounts, image_state
from orlop.ctr.commands.image_state import SNAPSHOTTER
from orlop.ctr.flags import Flag, Values
from orlop.ctr.labels import label_arguments
from orlop.ctr.main import Command
from orlop.ctr.registry import REGISTRY_FLAGS, registry_auth, registry_config
from orlop.errdefs import AlreadyExistsError, InvalidArgumentError, NotFoundError
from orlop.oci.image import OCI_MANIFEST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orlop.containerd.client.archive import ImportedImage
    from orlop.oci.image import Platform


async def _list(client: Client, values: Values) -> None:
    images = await client.images.list(*values.arguments)
    if values["quiet"]:
        print("".join(f"{image.name}\n" for image in images), end="")
        return
    rows = [("REF", "TYPE", "DIGEST", "SIZE", "PLATFORMS", "LABELS")]
    for image in images:
        size, platforms = await _describe(client, image)
        labels = table.label_text(image.labels)
        rows.append((image.name, image.target.media_type, image.target.digest, size, platforms, labels))
    print(table.lines(rows, padding=1, minimum=1), end="")


async def _describe(client: Client, image: Image) -> tuple[str, str]:
    """The size of what is here of an image for this machine, and the platforms it is for."""
    from orlop.codec import decode
    from orlop.containerd.client.unpack import from_proto, read_image
    from orlop.oci.image import INDEX_TYPES, Index
    from orlop.oci.platforms import host_platform

    try:
        content = await read_image(client, from_proto(image.target), host_platform())
        sizes = [content.manifest_descriptor.size, content.config_descriptor.size]
        size = table.size_text(sum(sizes) + sum(layer.size for layer in content.layers))
        if image.target.media_type not in INDEX_TYPES:
            return size, _platform_text(content.image.platform)
        index = decode(await client.content.read_blob(image.target.digest), Index)
    except (NotFoundError, InvalidArgumentError):
        return "-", "-"
    names = {_platform_text(each.platform) for each in index.manifests if each.platform is not None}
    return size, ",".join(sorted(names)) or "-"


def _platform_text(platform: Platform) -> str:
    return "/".join(part for part in (platform.os, platform.architecture, platform.variant) if part)


async def _pull(client: Client, values: Values) -> None:
    from orlop.containerd.client.pull import Puller
    from orlop.oci import reference
    from orlop.oci.image import chain_ids
    from orlop.oci.platforms import parse_platform

    (name,) = values.need("ref")
    ref = reference.parse(name)
    puller = Puller(client, registry_config(values, ref.domain), slots=values["max-concurrent-downloads"] or 3)
    image = await puller.pull(
        ref,
        platform=parse_platform(values["platform"]) if values["platform"] else None,
        auth=registry_auth(values, ref.domain),
        snapshotter=values["snapshotter"],
    )
    labels = label_arguments(values["label"])
    if labels:
        change = Image(name=image.name, labels=labels)
        await client.images.update(change, *(f"labels.{key}" for key in labels))
    print(f"{image.name}: {image.target.digest}")
    if values["print-chainid"]:
        print(f"image chain ID: {chain_ids(image.content.image.rootfs.diff_ids)[-1]}")


async def _import(client: Client, values: Values) -> None:
    from orlop.containerd.client.archive import import_archive
    from orlop.containerd.client.unpack import to_proto
    from orlop.oci.platforms import parse_platform

    (path,) = values.need("in")
    labels = label_arguments(values["label"])
    base = values["base-name"]

    async def name(image: ImportedImage) -> None:
        made = image.name or (f"{base}@{image.target.digest}" if base else "")
        if not made or (base and not made.startswith(base)):
            return
        await _set_image(client, Image(name=made, target=to_proto(image.target), labels=labels))
        print(f"{made}: {image.target.digest}")

    await import_archive(
        client,
        _chunks(path),
        name,
        snapshotter="" if values["no-unpack"] else values["snapshotter"],
        platform=parse_platform(values["platform"]) if values["platform"] else None,
    )


async def _chunks(path: str) -> AsyncIterator[bytes]:
    file = sys.stdin.buffer if path == "-" else open(path, "rb")  # noqa: SIM115 - closed below unless it is stdin
    try:
        while data := file.read(1 << 20):
            yield data
    finally:
        if path != "-":
            file.close()


async def _set_image(client: Client, image: Image) -> None:
    """Create the image, or make the name mean this one."""
    try:
        await client.images.create(image.name, image.target, image.labels)
    except AlreadyExistsError:
        await client.images.update(image, "target", *(f"labels.{key}" for key in image.labels))


async def _export(client: Client, values: Values) -> None:
    from orlop.containerd.client.export import ExportedImage, export_archive
    from orlop.containerd.client.unpack import from_proto, read_image
    from orlop.oci.platforms import host_platform, parse_platform
    from orlop.oci.reference import parse

    path, *_ = values.need("out", "image")
    platform = parse_platform(values["platform"]) if values["platform"] else host_platform()
    images = []
    for name in values.arguments[1:]:
        image = await client.images.get(name)
        content = await read_image(client, from_proto(image.target), platform)
        images.append(ExportedImage([(parse(name).familiar, name)], content))
    output = sys.stdout.buffer if path == "-" else open(path, "wb")  # noqa: SIM115 - closed below unless it is stdout
    try:
        async for data in export_archive(client, images):
            output.write(data)
    except BaseException:
        if path != "-":
            os.unlink(path)
        raise
    finally:
        output.flush()
        if path != "-":
            output.close()


async def _delete(client: Client, values: Values) -> None:
    values.need("ref")
    for number, name in enumerate(values.arguments, 1):
        try:
            await client.images.delete(name, sync=values["sync"] and number == len(values.arguments))
        except NotFoundError:
            print(f"ctr: {name}: image not found", file=sys.stderr)
            continue
        print(name)


async def _tag(client: Client, values: Values) -> None:
    source, _ = values.need("source ref", "target ref")
    image = await client.images.get(source)
    for name in values.arguments[1:]:
        made = Image(name=name, target=image.target, labels=image.labels)
        if values["force"]:
            await _set_image(client, made)
        else:
            await client.images.create(made.name, made.target, made.labels)
        print(name)


async def _label(client: Client, values: Values) -> None:
    (name,) = values.need("name")
    labels = label_arguments(values.arguments[1:])
    paths = ["labels"] if values["replace-all"] else [f"labels.{key}" for key in labels]
    image = await client.images.update(Image(name=name, labels=labels), *paths)
    print(table.label_text(image.labels, ""))


_LOCAL = Flag("local", bool, help="do the work here instead of in the daemon, as is always done")


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
        config=registry_config(values, ref.domain),
        slots=values["max-concurrent-uploaded-layers"] or 5,
        platforms=[parse_platform(each) for each in values["platform"]],
    )
    print(f"{remote}: {target.digest}")


COMMANDS = {
    **image_state.COMMANDS,
    **image_mounts.COMMANDS,
    "push": Command(
        _push,
        "push an image to a remote",
        "[flags] <remote> [<local>]",
        (
            *REGISTRY_FLAGS,
            Flag("manifest", help="digest of manifest"),
            Flag("manifest-type", str, OCI_MANIFEST, "media type of manifest digest"),
            Flag("platform", list, help="push content from a specific platform"),
            _LOCAL,
            Flag("max-concurrent-uploaded-layers", int, help="how many layers are uploaded at a time"),
        ),
    ),
    "delete": Command(
        _delete,
        "remove one or more images by reference",
        "[flags] <ref> [<ref>, ...]",
        (Flag("sync", bool, help="synchronously remove image and all associated resources"),),
    ),
    "export": Command(
        _export,
        "export images",
        "[flags] <out> <image> ...",
        (Flag("platform", help="export content of a specific platform"), _LOCAL),
    ),
    "import": Command(
        _import,
        "import images",
        "[flags] <in>",
        (
            Flag("base-name", help="only import images of that name, and give it to unnamed ones"),
            Flag("label", list, help="labels to attach to the image"),
            Flag("no-unpack", bool, help="skip unpacking the images"),
            _LOCAL,
            Flag("platform", help="unpack for a specific platform"),
            SNAPSHOTTER,
        ),
    ),
    "label": Command(
        _label,
        "set and clear labels for an image",
        "[flags] <name> [<key>=<value>, ...]",
        (Flag("replace-all r", bool, help="replace all labels"),),
    ),
    "list": Command(
        _list,
        "list images known to containerd",
        "[flags] [<filter>, ...]",
        (Flag("quiet q", bool, help="print only the image refs"),),
    ),
    "pull": Command(
        _pull,
        "pull an image from a remote",
        "[flags] <ref>",
        (
            *REGISTRY_FLAGS,
            Flag("platform", help="pull content from a specific platform"),
            Flag("max-concurrent-downloads", int, help="how many layers are downloaded at a time"),
            Flag("print-chainid", bool, help="print the resulting image's chain ID"),
            _LOCAL,
            Flag("label", list, help="labels to attach to the image"),
            SNAPSHOTTER,
        ),
    ),
    "tag": Command(
        _tag,
        "tag an image",
        "[flags] <source_ref> <target_ref> [<target_ref>, ...]",
        (Flag("force", bool, help="force target_ref to be created, regardless if it already exists"), _LOCAL),
    ),
}
