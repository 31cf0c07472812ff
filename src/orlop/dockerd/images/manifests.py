# SPDX-License-Identifier: Apache-2.0
"""What an image consists of, platform by platform: the `Manifests` of list and inspect."""

from typing import Any

import msgspec

from orlop.dockerd.images.inspect import identity_of
from orlop.dockerd.images.ports import ContainerUses
from orlop.dockerd.images.sizes import LayerSizes
from orlop.dockerd.images.store import ImageRecord, ImageStore
from orlop.errdefs import InvalidArgumentError, NotFoundError
from orlop.oci.image import MANIFEST_SIZE_MAX, Descriptor, Index, Manifest, parse_document

_REFERENCE_TYPE = "vnd.docker.reference.type"
_REFERENCE_DIGEST = "vnd.docker.reference.digest"
View = dict[str, Any]


class ImageManifests:
    """The use case: ImageManifestSummary objects of the Engine API."""

    def __init__(self, store: ImageStore, sizes: LayerSizes, uses: ContainerUses) -> None:
        self._store = store
        self._sizes = sizes
        self._uses = uses

    async def __call__(self, record: ImageRecord, *, identity: bool = False) -> list[View]:
        """One for each manifest of the index that the image's first name means, or for the one that it means.

        With `identity`, each tells where it was pulled from.
        """
        try:
            document = await self._document(record.target)
        except NotFoundError:
            return []  # being removed
        if isinstance(document, Index):
            views = [await self._view(record, child) for child in document.manifests]
        else:
            alone = msgspec.structs.replace(record.target, platform=record.config.platform)
            views = [await self._view(record, alone)]
        for view in views if identity else ():
            if "ImageData" in view and (known := await identity_of(self._store, view["ID"])):
                view["ImageData"]["Identity"] = known
        return views

    async def _view(self, record: ImageRecord, descriptor: Descriptor) -> View:
        size, available = await self._content(descriptor)
        view: View = {
            "ID": descriptor.digest,
            "Descriptor": msgspec.to_builtins(descriptor),
            "Available": available,
            "Kind": "unknown",
        }
        unpacked = 0
        if descriptor.annotations.get(_REFERENCE_TYPE) == "attestation-manifest":
            view["Kind"] = "attestation"
            view["AttestationData"] = {"For": descriptor.annotations.get(_REFERENCE_DIGEST, "")}
        elif descriptor.platform is not None:
            image = await self._image(record, descriptor) if available else None
            unpacked = await self._sizes.total(image) if image else 0
            view["Kind"] = "image"
            view["ImageData"] = {
                "Platform": msgspec.to_builtins(descriptor.platform),
                "Size": {"Unpacked": unpacked},
                "Containers": [user.id for user in self._uses(image.id)] if image else [],
            }
        view["Size"] = {"Content": size, "Total": size + unpacked}
        return view

    async def _image(self, record: ImageRecord, descriptor: Descriptor) -> ImageRecord | None:
        """The image that a manifest is of; None for an artifact."""
        if descriptor.digest == record.manifest.digest:
            return record
        try:
            return await self._store.of_manifest(descriptor)
        except (NotFoundError, InvalidArgumentError):
            return None

    async def _content(self, descriptor: Descriptor) -> tuple[int, bool]:
        """Bytes of it in the content store, and whether nothing is missing."""
        try:
            document = await self._document(descriptor)
        except (NotFoundError, InvalidArgumentError):
            return 0, False
        parts = [document.config, *document.layers] if isinstance(document, Manifest) else document.manifests
        here = [part.size for part in parts if await self._present(part)]
        return descriptor.size + sum(here), len(here) == len(parts)

    async def _present(self, descriptor: Descriptor) -> bool:
        try:
            await self._store.client.content.info(descriptor.digest)
        except NotFoundError:
            return False
        return True

    async def _document(self, descriptor: Descriptor) -> Manifest | Index:
        raw = await self._store.client.content.read_blob(descriptor.digest, MANIFEST_SIZE_MAX)
        return parse_document(raw, descriptor.media_type)
