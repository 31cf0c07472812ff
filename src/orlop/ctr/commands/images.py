# SPDX-License-Identifier: Apache-2.0
"""ctr images."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from orlop.api.images_pb2 import Image
from orlop.containerd.client import Client
from orlop.ctr import table
from orlop.ctr.commands import image_archives, image_mounts, image_state, image_transfers
from orlop.ctr.commands.image_transfers import LOCAL, set_image
from orlop.ctr.flags import Flag, Values
from orlop.ctr.labels import label_arguments
from orlop.ctr.main import Command
from orlop.errdefs import InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
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
    if not values["skip-reference-check"]:
        from orlop.oci import reference

        for name in values.arguments[1:]:
            reference.parse(name)
    for name in values.arguments[1:]:
        made = Image(name=name, target=image.target, labels=image.labels)
        if values["force"]:
            await set_image(client, made)
        else:
            await client.images.create(made.name, made.target, made.labels)
        print(name)


async def _label(client: Client, values: Values) -> None:
    (name,) = values.need("name")
    labels = label_arguments(values.arguments[1:])
    paths = ["labels"] if values["replace-all"] else [f"labels.{key}" for key in labels]
    image = await client.images.update(Image(name=name, labels=labels), *paths)
    print(table.label_text(image.labels, ""))


COMMANDS = {
    **image_state.COMMANDS,
    **image_mounts.COMMANDS,
    **image_transfers.COMMANDS,
    **image_archives.COMMANDS,
    "delete": Command(
        _delete,
        "remove one or more images by reference",
        "[flags] <ref> [<ref>, ...]",
        (Flag("sync", bool, help="synchronously remove image and all associated resources"),),
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
    "tag": Command(
        _tag,
        "tag an image",
        "[flags] <source_ref> <target_ref> [<target_ref>, ...]",
        (
            Flag("force", bool, help="force target_ref to be created, regardless if it already exists"),
            Flag("skip-reference-check", bool, help="skip the strict check for reference names"),
            LOCAL,
        ),
    ),
}
