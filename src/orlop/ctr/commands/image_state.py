# SPDX-License-Identifier: Apache-2.0
"""ctr images check, usage, inspect and prune: what is here of images, and what of it is of use."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

from orlop.containerd.client import Client
from orlop.ctr import table
from orlop.ctr.flags import Flag, Values
from orlop.ctr.main import Command
from orlop.errdefs import NotFoundError, OrlopError

if TYPE_CHECKING:
    from orlop.api.images_pb2 import Image
    from orlop.containerd.client.unpack import ImageContent
    from orlop.oci.image import Descriptor, Index, Manifest

SNAPSHOTTER = Flag(
    "snapshotter", help="snapshotter name; empty stands for the default", env="CONTAINERD_SNAPSHOTTER"
)


class _State(NamedTuple):
    """What of an image for this machine is here; `content` is None when not even its documents are."""

    content: ImageContent | None
    present: list[Descriptor]
    required: list[Descriptor]
    unpacked: bool

    @property
    def complete(self) -> bool:
        return self.content is not None and len(self.present) == len(self.required)


async def _state_of(client: Client, image: Image, snapshotter: str) -> _State:
    from orlop.containerd.client.unpack import from_proto, read_image
    from orlop.oci.platforms import host_platform

    try:
        content = await read_image(client, from_proto(image.target), host_platform())
    except NotFoundError:
        return _State(None, [], [], False)
    required = [content.config_descriptor, *content.layers]
    present = [blob for blob in required if await _is_here(client, blob)]
    return _State(content, present, required, await _is_unpacked(client, content, snapshotter))


async def _is_here(client: Client, blob: Descriptor) -> bool:
    try:
        await client.content.info(blob.digest)
    except NotFoundError:
        return False
    return True


async def _is_unpacked(client: Client, content: ImageContent, snapshotter: str) -> bool:
    try:
        await client.snapshots(snapshotter).stat(_chain_id(content))
    except NotFoundError:
        return False
    return True


def _chain_id(content: ImageContent) -> str:
    from orlop.oci.image import chain_ids

    return chain_ids(content.image.rootfs.diff_ids)[-1]


async def _check(client: Client, values: Values) -> None:
    rows: list[tuple[str, ...]] = [("REF", "TYPE", "DIGEST", "STATUS", "SIZE", "UNPACKED", "")]
    for image in await client.images.list(*values.arguments):
        state = await _state_of(client, image, values["snapshotter"])
        if values["quiet"]:
            if state.complete and state.unpacked:
                print(image.name)
            continue
        status, size = "unavailable (0/?)", "0/?"
        if state.content is not None:
            word = "complete" if state.complete else "incomplete"
            status = f"{word} ({len(state.present)}/{len(state.required)})"
            size = "/".join(table.size_text(sum(blob.size for blob in each)) for each in state[1:3])
        unpacked = str(state.unpacked).lower()
        rows.append((image.name, image.target.media_type, image.target.digest, status, size, unpacked))
    if not values["quiet"]:
        print(table.lines(rows, padding=1, minimum=1, trail=False), end="")


async def _usage(client: Client, values: Values) -> None:
    (name,) = values.need("image ref")
    state = await _state_of(client, await client.images.get(name), values["snapshotter"])
    if state.content is None:
        raise NotFoundError(f"content of image {name} not found")
    snapshots = client.snapshots(values["snapshotter"])
    rows = [("Key", "Size", "Inodes")]
    key = _chain_id(state.content)
    while key:
        usage = await snapshots.usage(key)
        rows.append((key, table.size_text(usage.size), str(usage.inodes)))
        key = (await snapshots.stat(key)).parent
    print(table.lines(rows, padding=1, minimum=1), end="")


async def _inspect(client: Client, values: Values) -> None:
    from orlop.containerd.client.unpack import from_proto

    (name,) = values.need("image ref")
    image = await client.images.get(name)
    print(image.name)
    await _print_tree(client, from_proto(image.target), "", last=True, content=values["content"])


async def _print_tree(client: Client, blob: Descriptor, indent: str, *, last: bool, content: bool) -> None:
    print(f"{indent}{'└──' if last else '├──'} {blob.media_type} @{blob.digest} ({blob.size} bytes)")
    below = indent + ("    " if last else "│   ")
    if blob.platform is not None:
        parts = (blob.platform.os, blob.platform.architecture, blob.platform.variant)
        print(f"{below}Platform: {'/'.join(part for part in parts if part)}")
    document, raw = await _document(client, blob)
    if content and raw:
        print("".join(f"{below}{line}\n" for line in raw.decode(errors="replace").splitlines()), end="")
    children = [] if document is None else _children(document)
    for number, child in enumerate(children, 1):
        await _print_tree(client, child, below, last=number == len(children), content=content)


async def _document(client: Client, blob: Descriptor) -> tuple[Manifest | Index | None, bytes]:
    """A manifest or index parsed, and the bytes of any document; nothing for layers and what is not here."""
    from orlop.oci.image import CONFIG_TYPES, INDEX_TYPES, MANIFEST_SIZE_MAX, MANIFEST_TYPES, parse_document

    if blob.media_type not in (*MANIFEST_TYPES, *INDEX_TYPES, *CONFIG_TYPES):
        return None, b""
    try:
        raw = await client.content.read_blob(blob.digest, MANIFEST_SIZE_MAX)
    except NotFoundError:
        return None, b""
    return None if blob.media_type in CONFIG_TYPES else parse_document(raw, blob.media_type), raw


def _children(document: Manifest | Index) -> list[Descriptor]:
    from orlop.oci.image import Index

    return list(document.manifests) if isinstance(document, Index) else [document.config, *document.layers]


async def _prune(client: Client, values: Values) -> None:
    if not values["all"]:
        print("ctr: no images pruned: `ctr images prune` requires --all to be specified", file=sys.stderr)
        return
    used = {container.image for container in await client.containers.list()}
    for image in await client.images.list():
        if image.name not in used:
            try:
                await client.images.delete(image.name)
            except OrlopError as error:
                print(f"ctr: failed to delete image {image.name}: {error}", file=sys.stderr)


_INSPECT = Command(
    _inspect, "inspect an image", "<image> [flags]", (Flag("content", bool, help="show JSON content"),)
)
COMMANDS = {
    "check": Command(
        _check,
        "check existing images to ensure all content is available locally",
        "[flags] [<filter>, ...]",
        (
            Flag("quiet q", bool, help="print only the ready image refs (fully downloaded and unpacked)"),
            SNAPSHOTTER,
        ),
    ),
    "i": _INSPECT,
    "inspect": _INSPECT,
    "prune": Command(
        _prune,
        "remove unused images",
        "[flags]",
        (Flag("all", bool, help="remove all images that no container uses"),),
    ),
    "usage": Command(_usage, "display usage of snapshots for a given image ref", "[flags] <ref>", (SNAPSHOTTER,)),
}
