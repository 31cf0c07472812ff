# SPDX-License-Identifier: Apache-2.0
"""Pushes images: from containerd's content store into a registry, what is there already left out."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from orlop.containerd.client.export import is_foreign
from orlop.containerd.client.fetch import DISTRIBUTION_SOURCE, Progress, Report
from orlop.containerd.client.pull import together
from orlop.containerd.client.pull_platforms import Wanted, choose
from orlop.errdefs import NotFoundError
from orlop.oci.image import MANIFEST_SIZE_MAX, Descriptor, Index, Manifest, Platform, parse_document
from orlop.registry.upload import RegistryUploads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from orlop.containerd.client.client import Client
    from orlop.oci.distribution import AuthConfig
    from orlop.oci.reference import Reference
    from orlop.registry import RegistryConfig

MOUNTS_MAX = 3  # repositories that a blob is looked for in before it is sent


async def push(
    client: Client,
    reference: Reference,
    target: Descriptor,
    *,
    auth: AuthConfig | None = None,
    config: RegistryConfig | None = None,
    slots: int = 5,
    progress: Report | None = None,
    platforms: Sequence[Platform] = (),
    foreign: bool = True,
) -> None:
    """Push a manifest, or an index with all of its manifests, and give it the reference's tag last.

    With `platforms`, of an index only the manifests for those, which a registry may refuse. Layers that registries
    may not distribute are left out where not `foreign`.

    Progress steps are preparing, uploading, uploaded, mounted, exists.
    Raises NotFoundError for content that is not here, UnauthorizedError, PermissionDeniedError, UnavailableError.
    """
    async with RegistryUploads(config, auth) as uploads:
        one = _Push(client, uploads, reference, slots, progress or (lambda _: None), platforms, foreign)
        await one.document(target, reference.tag)


async def is_complete(client: Client, target: Descriptor) -> bool:
    """Whether all of an image is in the content store, for every platform of an index."""
    try:
        document = parse_document(
            await client.content.read_blob(target.digest, MANIFEST_SIZE_MAX), target.media_type
        )
        if isinstance(document, Index):
            return all([await is_complete(client, child) for child in document.manifests])
        for blob in (document.config, *document.layers):
            await client.content.info(blob.digest)
    except NotFoundError:
        return False
    return True


class _Push:
    """One push."""

    def __init__(
        self,
        client: Client,
        uploads: RegistryUploads,
        reference: Reference,
        slots: int,
        report: Report,
        platforms: Sequence[Platform],
        foreign: bool,
    ) -> None:
        self._client = client
        self._uploads = uploads
        self._reference = reference
        self._slots = asyncio.Semaphore(slots)
        self._report = report
        self._platforms = platforms
        self._foreign = foreign

    async def document(self, target: Descriptor, name: str = "") -> None:
        """Push what a document refers to, then the document itself: a registry refuses it before."""
        raw = await self._client.content.read_blob(target.digest, MANIFEST_SIZE_MAX)
        document = parse_document(raw, target.media_type)
        if isinstance(document, Manifest):
            await self._blobs(document)
        else:
            for child in choose(document.manifests, Wanted(self._platforms)):
                await self.document(child)
        await self._uploads.put_document(self._reference, target, raw, name)

    async def _blobs(self, manifest: Manifest) -> None:
        layers = {layer.digest: layer for layer in manifest.layers if self._foreign or not is_foreign(layer)}
        for layer in layers.values():
            self._report(Progress("preparing", layer, 0, layer.size))
        await together(
            self._blob(manifest.config, lambda _: None),
            *(self._blob(layer, self._report) for layer in layers.values()),
        )

    async def _blob(self, blob: Descriptor, report: Report) -> None:
        async with self._slots:
            if await self._uploads.has_blob(self._reference, blob.digest):
                report(Progress("exists", blob, blob.size, blob.size))
                return
            for source in await self._sources(blob):
                if await self._uploads.mount(self._reference, blob, source):
                    report(Progress("mounted", blob, blob.size, blob.size, source))
                    return
            await self._uploads.upload(self._reference, blob, partial(self._read, blob, report))
        report(Progress("uploaded", blob, blob.size, blob.size))

    async def _sources(self, blob: Descriptor) -> list[str]:
        """Repositories of the same registry that a blob came from."""
        info = await self._client.content.info(blob.digest)
        known = info.labels.get(DISTRIBUTION_SOURCE + self._reference.domain, "").split(",")
        return [name for name in known if name and name != self._reference.path][:MOUNTS_MAX]

    async def _read(self, blob: Descriptor, report: Report) -> AsyncIterator[bytes]:
        done = 0
        async for chunk in self._client.content.read(blob.digest):
            done += len(chunk)
            report(Progress("uploading", blob, done, blob.size))
            yield chunk
