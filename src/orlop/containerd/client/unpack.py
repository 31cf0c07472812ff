# SPDX-License-Identifier: Apache-2.0
"""Reads an image out of the content store and unpacks its layers into a snapshotter."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from orlop.api import content_pb2, types_pb2
from orlop.containerd.client.leases import HALF_MADE, leased
from orlop.errdefs import AlreadyExistsError, DataLossError, InvalidArgumentError, NotFoundError, OrlopError
from orlop.oci.image import (
    MANIFEST_SIZE_MAX,
    Descriptor,
    Image,
    Index,
    Manifest,
    Platform,
    chain_ids,
    is_layer_type,
    parse_document,
    parse_image,
)
from orlop.oci.platforms import platform_rank

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orlop.containerd.client.client import Client

INDEX_DEPTH_MAX = 3
LABEL_SNAPSHOT = "containerd.io/gc.ref.snapshot."
LABEL_UNCOMPRESSED = "containerd.io/uncompressed"


class ImageContent(NamedTuple):
    """One image for one platform, read from the content store: its documents and what names them."""

    target: Descriptor
    manifest_descriptor: Descriptor
    config_descriptor: Descriptor
    layers: list[Descriptor]
    image: Image


def to_proto(descriptor: Descriptor) -> types_pb2.Descriptor:
    """A descriptor as containerd's message (which has no platform and no URLs)."""
    return types_pb2.Descriptor(
        media_type=descriptor.media_type,
        digest=descriptor.digest,
        size=descriptor.size,
        annotations=descriptor.annotations,
    )


def from_proto(message: types_pb2.Descriptor) -> Descriptor:
    """containerd's message as a descriptor."""
    return Descriptor(
        media_type=message.media_type,
        digest=message.digest,
        size=message.size,
        annotations=dict(message.annotations),
    )


async def read_image(client: Client, target: Descriptor, platform: Platform) -> ImageContent:
    """The image that serves `platform` best among those whose documents are in the content store.

    An index may hold only some of its manifests here; where none is for `platform`, any that is here will do.
    Raises NotFoundError if none is, InvalidArgumentError for malformed documents.
    """
    manifest_descriptor, manifest = await _present_manifest(client, target, platform, INDEX_DEPTH_MAX, set())
    image = parse_image(await client.content.read_blob(manifest.config.digest, MANIFEST_SIZE_MAX))
    check_layers(manifest, image)
    return ImageContent(target, manifest_descriptor, manifest.config, manifest.layers, image)


def check_layers(manifest: Manifest, image: Image) -> None:
    """Raise InvalidArgumentError unless manifest and configuration speak of the same layers, all unpackable."""
    if len(manifest.layers) != len(image.rootfs.diff_ids):
        raise InvalidArgumentError(
            f"image has {len(manifest.layers)} layers but rootfs.diff_ids names {len(image.rootfs.diff_ids)}"
        )
    for layer in manifest.layers:
        if not is_layer_type(layer.media_type):
            raise InvalidArgumentError(f"layer {layer.digest}: unsupported media type {layer.media_type!r}")


async def _present_manifest(
    client: Client, target: Descriptor, platform: Platform, depth: int, absent: set[str]
) -> tuple[Descriptor, Manifest]:
    """`absent`: what was looked for in vain; an index may name one thing many times."""
    document = parse_document(await client.content.read_blob(target.digest, MANIFEST_SIZE_MAX), target.media_type)
    if isinstance(document, Manifest):
        return target, document
    if depth == 0:
        raise InvalidArgumentError(f"index {target.digest}: nested deeper than {INDEX_DEPTH_MAX} levels")
    for child in by_preference(document, platform):
        if child.digest in absent:
            continue
        try:
            return await _present_manifest(client, child, platform, depth - 1, absent)
        except NotFoundError:
            absent.add(child.digest)  # pulled for other platforms only
    raise NotFoundError(f"content of image {target.digest} for {platform} not found")


def by_preference(index: Index, platform: Platform) -> list[Descriptor]:
    """The manifests of an index, the best for a platform first, attestations left out."""

    def rank(descriptor: Descriptor) -> int:
        if descriptor.platform is None:
            return 100
        found = platform_rank(platform, descriptor.platform)
        return 1000 if found is None else found

    usable = [
        item
        for item in index.manifests
        if not item.annotations.get("vnd.docker.reference.type")
        and not (item.platform and item.platform.os == "unknown")
    ]
    return sorted(usable, key=rank)


class KeyedLocks:
    """One lock a key, kept only while somebody holds it or waits for it."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[None]:
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, users - 1)


async def unpack(client: Client, content: ImageContent, snapshotter: str, *, sync: bool = False) -> None:
    """Unpack every layer that is not yet a committed snapshot, and tie the top one to the configuration's life.

    With `sync` the file system is on the disk before the next layer's turn.
    Raises NotFoundError for missing content, DataLossError for a layer that is not what the configuration says.
    """
    async with leased(client) as work:
        diff_ids = content.image.rootfs.diff_ids
        for chain_id, parent, layer, diff_id in layer_steps(content.layers, diff_ids):
            await unpack_layer(work, snapshotter, chain_id, parent, layer, diff_id, sync=sync)
        await label_config(work, content.config_descriptor, snapshotter, diff_ids)


class LayerStep(NamedTuple):
    """One layer to unpack: the snapshot to make, the one below it (empty: none), the layer and its diff ID."""

    chain_id: str
    parent: str
    layer: Descriptor
    diff_id: str


def layer_steps(layers: list[Descriptor], diff_ids: list[str]) -> list[LayerStep]:
    """What `unpack_layer` has to do for an image, the lowest layer first."""
    chains = chain_ids(diff_ids)
    return [
        LayerStep(chain, parent, layer, diff_id)
        for chain, parent, layer, diff_id in zip(chains, ["", *chains], layers, diff_ids, strict=False)
    ]


async def unpack_layer(
    client: Client,
    snapshotter: str,
    chain_id: str,
    parent: str,
    layer: Descriptor,
    diff_id: str,
    starting: Callable[[], None] | None = None,
    *,
    sync: bool = False,
) -> bool:
    """Make the committed snapshot `chain_id` of a layer on top of `parent`; False if it was there already.

    `starting` is called when there is work to do. On any failure the half-made snapshot is removed.
    """
    snapshots = client.snapshots(snapshotter)
    if await _is_committed(client, snapshotter, chain_id):
        return False
    if starting:
        starting()
    key = f"{HALF_MADE}{secrets.token_hex(6)} {chain_id}"
    try:
        mounts = await snapshots.prepare(key, parent, {"containerd.io/snapshot.ref": chain_id})
    except AlreadyExistsError:
        return False  # a remote snapshotter has the layer by itself
    committed = False
    try:
        applied = await client.diff.apply(to_proto(layer), mounts, sync=sync)
        if applied.digest != diff_id:
            raise DataLossError(f"layer {layer.digest} unpacks to {applied.digest}, the image says {diff_id}")
        try:
            await snapshots.commit(chain_id, key, {"containerd.io/snapshot.ref": chain_id})
            committed = True
        except AlreadyExistsError:
            return False  # another client was faster
    finally:
        if not committed:
            await _discard(client, snapshotter, key)
    info = content_pb2.Info(digest=layer.digest, labels={LABEL_UNCOMPRESSED: diff_id})
    await client.content.update(info, f"labels.{LABEL_UNCOMPRESSED}")
    return True


async def label_config(client: Client, config: Descriptor, snapshotter: str, diff_ids: list[str]) -> None:
    """Let the collector keep the top snapshot as long as the configuration is kept."""
    if diff_ids:
        label = LABEL_SNAPSHOT + snapshotter
        info = content_pb2.Info(digest=config.digest, labels={label: chain_ids(diff_ids)[-1]})
        await client.content.update(info, f"labels.{label}")


async def _is_committed(client: Client, snapshotter: str, chain_id: str) -> bool:
    """Whether the snapshot is there; under a lease, it is then kept by that too."""
    try:
        await client.snapshots(snapshotter).stat(chain_id)
    except NotFoundError:
        return False
    if client.lease:
        await client.leases.add_resource(client.lease, f"snapshots/{snapshotter}", chain_id)
        try:  # it may have been collected between the two calls
            await client.snapshots(snapshotter).stat(chain_id)
        except NotFoundError:
            return False
    return True


async def _discard(client: Client, snapshotter: str, key: str) -> None:
    """Remove a half-made snapshot, also when the caller is being cancelled."""

    async def remove() -> None:
        try:
            await client.snapshots(snapshotter).remove(key)
        except OrlopError:
            pass  # the error that brought us here matters more; the lease's end lets the collector have it

    await asyncio.shield(asyncio.ensure_future(remove()))


__all__ = [
    "ImageContent",
    "KeyedLocks",
    "LayerStep",
    "by_preference",
    "check_layers",
    "from_proto",
    "label_config",
    "layer_steps",
    "read_image",
    "to_proto",
    "unpack",
    "unpack_layer",
]
