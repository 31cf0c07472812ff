# SPDX-License-Identifier: Apache-2.0
"""Images of the content store in another form: other compression, media types of OCI, fewer platforms."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from orlop.containerd.client.erofs import OS_FEATURE, Erofs, erofs_layer
from orlop.containerd.client.fetch import children_labels, store_small
from orlop.containerd.client.pull_platforms import Wanted, choose
from orlop.containerd.client.recompress import Compression, recompressed
from orlop.containerd.client.unpack import INDEX_DEPTH_MAX, check_layers
from orlop.errdefs import InvalidArgumentError, NotFoundError
from orlop.oci.image import (
    CONFIG_TYPES,
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER_ZSTD,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    INDEX_TYPES,
    MANIFEST_SIZE_MAX,
    MANIFEST_TYPES,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    Platform,
    digest_of,
    parse_document,
    parse_image,
)

if TYPE_CHECKING:
    from orlop.containerd.client.client import Client

_OCI_TYPES = {
    DOCKER_CONFIG: OCI_CONFIG,
    DOCKER_LAYER: OCI_LAYER,
    DOCKER_LAYER_GZIP: OCI_LAYER_GZIP,
    DOCKER_LAYER_ZSTD: OCI_LAYER_ZSTD,
    DOCKER_LIST: OCI_INDEX,
    DOCKER_MANIFEST: OCI_MANIFEST,
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": (
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    ),
}


class Conversion(NamedTuple):
    """What becomes of an image.

    `platforms`: none for all. `compression`: of all layers; None leaves them. `oci`: Docker's media types become
    OCI's. `erofs`: layers become file systems, and `os.features` of the image says so.
    """

    platforms: Sequence[Platform] = ()
    compression: Compression | None = None
    oci: bool = False
    erofs: Erofs | None = None


async def convert(client: Client, target: Descriptor, wanted: Conversion, depth: int = 0) -> Descriptor:
    """The image in its new form, in the content store under the client's lease; naming it is the caller's.

    What the documents say besides is kept. Raises NotFoundError for content or platforms that are not here,
    DataLossError and InvalidArgumentError for damaged ones.
    """
    if depth > INDEX_DEPTH_MAX:
        raise InvalidArgumentError(f"index {target.digest}: nested deeper than {INDEX_DEPTH_MAX} levels")
    raw = await client.content.read_blob(target.digest, MANIFEST_SIZE_MAX)
    document = parse_document(raw, target.media_type)
    fields: dict[str, Any] = json.loads(raw)
    if isinstance(document, Index):
        fields["manifests"] = await _children(client, document, fields["manifests"], wanted, depth)
    else:
        await _convert_image(client, document, fields, wanted)
    return await _store(client, target, fields, wanted)


async def _children(
    client: Client, index: Index, entries: list[dict[str, Any]], wanted: Conversion, depth: int
) -> list[dict[str, Any]]:
    known = [child for child in index.manifests if child.media_type in INDEX_TYPES | MANIFEST_TYPES]
    chosen = {child.digest: child for child in choose(known, Wanted(wanted.platforms))}
    if not chosen:
        raise NotFoundError(f"image has no manifest for {', '.join(map(str, wanted.platforms))}")
    made = {digest: await convert(client, child, wanted, depth + 1) for digest, child in chosen.items()}
    found = [_described(entry, made[entry["digest"]]) for entry in entries if entry["digest"] in made]
    if wanted.erofs:
        for entry in found:
            platform = entry.setdefault("platform", {})
            platform["os.features"] = _with_erofs(platform.get("os.features"))
    return found


def _with_erofs(features: Sequence[str] | None) -> list[str]:
    return sorted({*(features or ()), OS_FEATURE})


async def _convert_image(client: Client, manifest: Manifest, fields: dict[str, Any], wanted: Conversion) -> None:
    """Change the fields of a manifest. An artifact's layers, which are none of a file system, stay as they are."""
    if wanted.compression and manifest.config.media_type in CONFIG_TYPES:
        image = parse_image(await client.content.read_blob(manifest.config.digest, MANIFEST_SIZE_MAX))
        check_layers(manifest, image)
        pairs = zip(manifest.layers, image.rootfs.diff_ids, strict=True)
        made = [await recompressed(client, layer, diff_id, wanted.compression) for layer, diff_id in pairs]
        fields["layers"] = [_described(entry, new) for entry, new in zip(fields["layers"], made, strict=True)]
    if wanted.erofs and manifest.config.media_type in CONFIG_TYPES:
        await _to_erofs(client, manifest, fields, wanted.erofs)
    if wanted.oci:
        for entry in (fields["config"], *fields["layers"]):
            entry["mediaType"] = _OCI_TYPES.get(entry["mediaType"], entry["mediaType"])


async def _to_erofs(client: Client, manifest: Manifest, fields: dict[str, Any], wanted: Erofs) -> None:
    """Let an image consist of file systems: its manifest's layers, and its config, which names them."""
    raw = await client.content.read_blob(manifest.config.digest, MANIFEST_SIZE_MAX)
    image = parse_image(raw)
    check_layers(manifest, image)
    pairs = zip(manifest.layers, image.rootfs.diff_ids, strict=True)
    made = [await erofs_layer(client, layer, diff_id, wanted) for layer, diff_id in pairs]
    fields["layers"] = [_described(entry, new) for entry, (new, _) in zip(fields["layers"], made, strict=True)]
    config = json.loads(raw)
    config["rootfs"]["diff_ids"] = [plain for _, plain in made]
    config["os.features"] = _with_erofs(config.get("os.features"))
    raw = json.dumps(config, ensure_ascii=False, separators=(",", ":")).encode()
    described = Descriptor(media_type=manifest.config.media_type, digest=digest_of(raw), size=len(raw))
    await store_small(client, described, raw, {})
    fields["config"] = _described(fields["config"], described)


def _described(entry: dict[str, Any], descriptor: Descriptor) -> dict[str, Any]:
    """An entry of a document, about another blob."""
    return {**entry, "mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}


async def _store(client: Client, target: Descriptor, fields: dict[str, Any], wanted: Conversion) -> Descriptor:
    media_type = _OCI_TYPES.get(target.media_type, target.media_type) if wanted.oci else target.media_type
    fields["mediaType"] = media_type
    raw = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    made = Descriptor(media_type=media_type, digest=digest_of(raw), size=len(raw))
    await store_small(client, made, raw, children_labels(parse_document(raw, media_type)))
    return made
