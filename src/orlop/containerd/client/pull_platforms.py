# SPDX-License-Identifier: Apache-2.0
"""Fetches an image for any number of platforms from a registry, unpacking those that are asked for.

What the Transfer service does for a pull; naming the image is the caller's. `pull` is for one platform, and named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from orlop.containerd.client.fetch import (
    DISTRIBUTION_SOURCE,
    Downloads,
    Progress,
    Report,
    children_labels,
    is_present,
    store_small,
)
from orlop.containerd.client.pull import ImagePull, together
from orlop.containerd.client.unpack import INDEX_DEPTH_MAX, ImageContent, KeyedLocks, check_layers
from orlop.errdefs import InvalidArgumentError, NotFoundError
from orlop.oci.image import (
    CONFIG_TYPES,
    INDEX_TYPES,
    MANIFEST_SIZE_MAX,
    MANIFEST_TYPES,
    Descriptor,
    Index,
    Manifest,
    Platform,
    parse_document,
    parse_image,
)
from orlop.oci.platforms import platform_rank

if TYPE_CHECKING:
    from orlop.containerd.client.client import Client
    from orlop.oci.reference import Reference
    from orlop.registry import RegistryClient

MANIFESTS_MAX = 1000
"""Manifests of one image, over all levels of its indexes; more are refused before they are fetched."""

Family = Callable[[Descriptor, Sequence[Descriptor]], None]


class Wanted(NamedTuple):
    """What is wanted of an image.

    `platforms`: none for all. `unpack`: platform and snapshotter of what is unpacked, for each platform wanted.
    `all_metadata`: manifests and configurations of the other platforms too. `limit`: manifests at most of each
    index, the best first; 0 for no limit. `layers`: what the manifests name too, not only their configurations.
    """

    platforms: Sequence[Platform] = ()
    unpack: Sequence[tuple[Platform, str]] = ()
    all_metadata: bool = False
    limit: int = 0
    layers: bool = True


class PlatformsPull:
    """One such pull. `downloads` and `locks` are shared by pulls at the same time."""

    def __init__(
        self,
        client: Client,
        registry: RegistryClient,
        reference: Reference,
        downloads: Downloads,
        locks: KeyedLocks,
        report: Report,
        family: Family,
    ) -> None:
        """`client` has a lease; `family` is told what each document is made of."""
        self._client = client
        self._registry = registry
        self._reference = reference
        self._downloads = downloads
        self._locks = locks
        self._report = report
        self._family = family
        self._source = {DISTRIBUTION_SOURCE + reference.domain: reference.path}
        self._seen: set[str] = set()

    async def run(self, target: Descriptor, wanted: Wanted) -> None:
        """Fetch all that is wanted of `target`.

        Raises NotFoundError if it has nothing for a platform, InvalidArgumentError for a malformed image,
        DataLossError, UnavailableError, UnauthorizedError.
        """
        found = await self._walk(target, wanted, 0)
        if not found and wanted.platforms:
            names = ", ".join(map(str, wanted.platforms))
            raise NotFoundError(f"no match for platform in manifest: image {target.digest} has none for {names}")
        for descriptor, manifest in found:
            await self._image(target, descriptor, manifest, wanted)

    async def _walk(self, target: Descriptor, wanted: Wanted, depth: int) -> list[tuple[Descriptor, Manifest]]:
        """The manifests that are wanted; they, and the documents above them, are in the store afterwards."""
        if depth > INDEX_DEPTH_MAX:
            raise InvalidArgumentError(f"index {target.digest}: nested deeper than {INDEX_DEPTH_MAX} levels")
        if target.digest in self._seen:
            return []  # an index may name one thing many times
        self._seen.add(target.digest)
        document = await self._document(target)
        if isinstance(document, Manifest):
            return [(target, document)]
        known = [child for child in document.manifests if child.media_type in INDEX_TYPES | MANIFEST_TYPES]
        chosen = choose(known, wanted)
        fetched = known if wanted.all_metadata else chosen
        if len(self._seen | {child.digest for child in fetched}) > MANIFESTS_MAX:
            raise InvalidArgumentError(f"image has more than {MANIFESTS_MAX} manifests")
        self._family(target, fetched)
        found = []
        for child in chosen:
            found += await self._walk(child, wanted, depth + 1)
        if wanted.all_metadata:
            for child in known:
                for _, manifest in await self._walk(child, Wanted(), depth + 1):
                    await self._config(manifest)
        return found

    async def _document(self, descriptor: Descriptor) -> Manifest | Index:
        self._report(Progress("fetching", descriptor, 0, descriptor.size))
        if await is_present(self._client, descriptor, {}):
            raw = await self._client.content.read_blob(descriptor.digest, MANIFEST_SIZE_MAX)
            step = "exists"
        else:
            raw = await self._registry.document(self._reference, descriptor)
            step = "downloaded"
        document = parse_document(raw, descriptor.media_type)
        await store_small(self._client, descriptor, raw, {**children_labels(document), **self._source})
        self._report(Progress(step, descriptor, descriptor.size, descriptor.size))
        return document

    async def _config(self, manifest: Manifest) -> None:
        config = manifest.config
        if config.digest not in self._seen:
            self._seen.add(config.digest)
            await self._blob(config)

    async def _blob(self, blob: Descriptor) -> None:
        self._report(Progress("fetching", blob, 0, blob.size))
        source = partial(self._registry.blob, self._reference, blob)
        if not await self._downloads.fetch(self._client, blob, source, self._source, self._report):
            self._report(Progress("exists", blob, blob.size, blob.size))

    async def _image(self, target: Descriptor, descriptor: Descriptor, manifest: Manifest, wanted: Wanted) -> None:
        """Fetch what a manifest names, and unpack it for each platform of `unpack` that it serves."""
        self._family(descriptor, [manifest.config, *manifest.layers])
        await self._config(manifest)
        if not wanted.layers:
            return
        snapshotters = await self._snapshotters(descriptor, manifest, wanted)
        if not snapshotters:
            blobs = {layer.digest: layer for layer in manifest.layers}
            await together(*(self._blob(blob) for blob in blobs.values()))
            return
        raw = await self._client.content.read_blob(manifest.config.digest, MANIFEST_SIZE_MAX)
        image = parse_image(raw)
        check_layers(manifest, image)
        content = ImageContent(target, descriptor, manifest.config, manifest.layers, image)
        for snapshotter in snapshotters:
            one = ImagePull(
                self._client, self._registry, self._reference, image.platform, snapshotter, self._report
            )
            await one.layers(content, self._downloads, self._locks)

    async def _snapshotters(self, descriptor: Descriptor, manifest: Manifest, wanted: Wanted) -> list[str]:
        if not wanted.unpack or manifest.config.media_type not in CONFIG_TYPES:
            return []  # an artifact has nothing to unpack
        platform = descriptor.platform
        if platform is None:
            raw = await self._client.content.read_blob(manifest.config.digest, MANIFEST_SIZE_MAX)
            platform = parse_image(raw).platform
        return [name for asked, name in wanted.unpack if platform_rank(asked, platform) is not None]


def choose(children: Sequence[Descriptor], wanted: Wanted) -> list[Descriptor]:
    """The children of an index that are wanted: for each platform the best one, the first of equals."""
    if not wanted.platforms:
        return list(children[: wanted.limit or None])
    chosen: list[Descriptor] = []
    for platform in wanted.platforms:
        best = min(children, key=partial(_rank, platform), default=None)
        if best is not None and _rank(platform, best) < _UNFIT and best not in chosen:
            chosen.append(best)
    return chosen[: wanted.limit or None]


_UNFIT = 1000


def _rank(wanted: Platform, child: Descriptor) -> int:
    if child.annotations.get("vnd.docker.reference.type"):
        return _UNFIT  # an attestation of BuildKit
    if child.platform is None:
        return _UNFIT - 1
    rank = platform_rank(wanted, child.platform)
    return _UNFIT if rank is None else rank
