# SPDX-License-Identifier: Apache-2.0
"""Images out of containerd into an archive that is both an OCI layout and a docker-archive."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from orlop.codec import encode
from orlop.containerd.client.archive import ANNOTATION_IMAGE_NAME, ANNOTATION_REF_NAME
from orlop.containerd.client.pull_platforms import Wanted, choose
from orlop.containerd.client.tarstream import END, member_header, padding
from orlop.containerd.client.unpack import INDEX_DEPTH_MAX, ImageContent, read_image
from orlop.errdefs import InvalidArgumentError, NotFoundError
from orlop.oci.image import (
    CONFIG_TYPES,
    INDEX_TYPES,
    MANIFEST_SIZE_MAX,
    MANIFEST_TYPES,
    OCI_INDEX,
    Descriptor,
    Index,
    Manifest,
    Platform,
    parse_document,
)
from orlop.oci.reference import parse

if TYPE_CHECKING:
    from orlop.containerd.client.client import Client


class Selection(NamedTuple):
    """What is written of an index.

    `platforms`: none for all. `docker`: a manifest.json beside the index (`export_platforms`). `foreign`: layers
    that registries may not distribute too.
    """

    platforms: Sequence[Platform] = ()
    docker: bool = True
    foreign: bool = True


class ExportedImage(NamedTuple):
    """An image to write: its references (familiar form for Docker's part, full for OCI's), and what it is.

    With `selection` it is the whole target, an index, with those of its manifests; without, the one manifest.
    """

    names: Sequence[tuple[str, str]]
    content: ImageContent
    selection: Selection | None = None


async def export_archive(client: Client, images: Sequence[ExportedImage]) -> AsyncIterator[bytes]:
    """The archive of images, in pieces. Raises NotFoundError before the first piece if content is missing."""
    blobs: dict[str, int] = {}
    top: list[Descriptor] = []
    items = []
    for image in images:
        target = image.content.manifest_descriptor if image.selection is None else image.content.target
        await _select(client, target, image.selection or Selection(), blobs, 0)
        top += _top_entries(target, image.names)
        items.append(_docker_item(image.content, [familiar for familiar, _ in image.names]))
    async for data in _archive(client, blobs, top, items):
        yield data


async def export_platforms(
    client: Client, images: Mapping[str, Descriptor], host: Platform, selection: Selection
) -> AsyncIterator[bytes]:
    """The archive of images by name, indexes whole with those of their manifests that are selected.

    manifest.json tells of the manifest for `host` or, if that is not selected, of the first one. Raises
    NotFoundError before the first piece if selected content is missing.
    """
    blobs: dict[str, int] = {}
    top: list[Descriptor] = []
    items = []
    for name, target in images.items():
        selected = await _select(client, target, selection, blobs, 0)
        if not selected:
            raise NotFoundError(f"image {name} has no manifest for {', '.join(map(str, selection.platforms))}")
        top += _top_entries(target, [(name, name)])
        if selection.docker:
            preferred = selection.platforms[0] if selection.platforms else host
            content = await read_image(client, target, preferred)
            if content.config_descriptor.media_type in CONFIG_TYPES:
                items.append(_docker_item(content, [_familiar(name)]))
    async for data in _archive(client, blobs, top, items):
        yield data


async def _select(
    client: Client, target: Descriptor, selection: Selection, blobs: dict[str, int], depth: int
) -> bool:
    """Collect the blobs of a document; whether there is a manifest among them."""
    if depth > INDEX_DEPTH_MAX:
        raise InvalidArgumentError(f"index {target.digest}: nested deeper than {INDEX_DEPTH_MAX} levels")
    raw = await client.content.read_blob(target.digest, MANIFEST_SIZE_MAX)
    document = parse_document(raw, target.media_type)
    blobs[target.digest] = len(raw)
    if isinstance(document, Manifest):
        for blob in (document.config, *document.layers):
            if selection.foreign or not is_foreign(blob):
                blobs[blob.digest] = (await client.content.info(blob.digest)).size
        return True
    known = [child for child in document.manifests if child.media_type in INDEX_TYPES | MANIFEST_TYPES]
    found = False
    for child in choose(known, Wanted(selection.platforms)):
        found |= child.digest in blobs or await _select(client, child, selection, blobs, depth + 1)
    return found


def is_foreign(blob: Descriptor) -> bool:
    """Whether it is a layer that registries may not distribute, such as Windows' base."""
    return "nondistributable" in blob.media_type or ".foreign." in blob.media_type


async def _archive(
    client: Client, blobs: Mapping[str, int], top: list[Descriptor], items: Sequence[object]
) -> AsyncIterator[bytes]:
    for digest, size in blobs.items():
        yield member_header(_path(digest), size)
        async for chunk in client.content.read(digest):
            yield chunk
        yield padding(size)
    documents = {"index.json": encode(Index(media_type=OCI_INDEX, manifests=top))}
    if items:
        documents["manifest.json"] = json.dumps(items).encode()
    documents["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    for path, raw_document in documents.items():
        yield member_header(path, len(raw_document)) + raw_document + padding(len(raw_document))
    yield END


def _familiar(name: str) -> str:
    try:
        return parse(name).familiar
    except InvalidArgumentError:
        return name  # containerd's names need not be references


def _docker_item(content: ImageContent, tags: list[str]) -> dict[str, object]:
    return {
        "Config": _path(content.config_descriptor.digest),
        "RepoTags": tags or None,
        "Layers": [_path(layer.digest) for layer in content.layers],
    }


def _top_entries(target: Descriptor, names: Sequence[tuple[str, str]]) -> list[Descriptor]:
    plain = Descriptor(
        media_type=target.media_type, digest=target.digest, size=target.size, platform=target.platform
    )
    if not names:
        return [plain]
    return [
        msgspec.structs.replace(
            plain,
            annotations={ANNOTATION_IMAGE_NAME: full, ANNOTATION_REF_NAME: full.rpartition(":")[2]},
        )
        for _, full in names
    ]


def _path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")
