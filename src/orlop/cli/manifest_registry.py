# SPDX-License-Identifier: Apache-2.0
"""What `manifest` asks of registries, which it speaks to itself: reading manifests, pushing lists of them."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from orlop.cli.errors import ExitError
from orlop.cli.manifest_store import StoredManifest
from orlop.codec import encode
from orlop.engine.credentials import lookup, registry_of
from orlop.oci.distribution import AuthConfig
from orlop.oci.image import (
    CONFIG_TYPES,
    DOCKER_LIST,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    Platform,
    digest_of,
    parse_document,
    parse_image,
)
from orlop.oci.reference import Reference
from orlop.registry import RegistryClient, RegistryConfig
from orlop.registry.upload import RegistryUploads


class Access(NamedTuple):
    """How a registry is spoken to."""

    config: RegistryConfig
    auth: AuthConfig | None


def access(reference: Reference, *, insecure: bool) -> Access:
    """The user's credentials for a reference's registry, and whether that may be without a valid certificate."""
    found = lookup(registry_of(reference.familiar_name))
    config = RegistryConfig(insecure=[reference.domain] if insecure else [])
    return Access(config, msgspec.convert(found, AuthConfig) if found else None)


async def document(reference: Reference, where: Access) -> tuple[Descriptor, bytes]:
    """A manifest or list as the registry has it. Raises NotFoundError, UnavailableError, UnauthorizedError."""
    async with RegistryClient(*where) as registry:
        target = await registry.resolve(reference)
        return target, await registry.document(reference, target)


async def manifest(reference: Reference, where: Access) -> StoredManifest:
    """An image's manifest with its platform. Raises ExitError for a list."""
    async with RegistryClient(*where) as registry:
        target = await registry.resolve(reference)
        raw = await registry.document(reference, target)
        parsed = parse_document(raw, target.media_type)
        if not isinstance(parsed, Manifest):
            raise ExitError(f"{reference} is a manifest list")
        platform = Platform()
        if parsed.config.media_type in CONFIG_TYPES:
            platform = parse_image(await registry.small_blob(reference, parsed.config)).platform
    return StoredManifest(reference, msgspec.structs.replace(target, platform=platform), raw)


async def members(reference: Reference, where: Access) -> list[StoredManifest]:
    """The manifests of a list, or the one that the reference means."""
    async with RegistryClient(*where) as registry:
        target = await registry.resolve(reference)
        parsed = parse_document(await registry.document(reference, target), target.media_type)
        if isinstance(parsed, Manifest):
            return [await manifest(reference, where)]
        found = []
        for child in parsed.manifests:
            raw = await registry.document(reference, child)
            found.append(StoredManifest(reference.with_digest(child.digest), child, raw))
        return found


def index_of(manifests: Sequence[StoredManifest]) -> tuple[Descriptor, bytes]:
    """The list of manifests: OCI's where all of them are, Docker's else."""
    oci = all(one.descriptor.media_type == OCI_MANIFEST for one in manifests)
    index = Index(media_type=OCI_INDEX if oci else DOCKER_LIST, manifests=[one.descriptor for one in manifests])
    raw = encode(index)
    return Descriptor(media_type=index.media_type, digest=digest_of(raw), size=len(raw)), raw


async def push(name: Reference, manifests: Sequence[StoredManifest], where: Access) -> str:
    """Push a list: the blobs and manifests of other repositories first. Its digest; raises ExitError."""
    async with RegistryUploads(*where) as uploads, RegistryClient(*where) as registry:
        for one in manifests:
            source = one.reference
            parsed = parse_document(one.raw, one.descriptor.media_type)
            if not isinstance(parsed, Manifest):
                raise ExitError(f"{source} is a manifest list")
            if source.path != name.path:
                for blob in {each.digest: each for each in (parsed.config, *parsed.layers)}.values():
                    await _take_over(uploads, registry, name, source, blob)
                await uploads.put_document(name, one.descriptor, one.raw)
            print(
                f"Pushed ref {name.name}@{one.descriptor.digest} with digest: {one.descriptor.digest}", flush=True
            )
        target, raw = index_of(manifests)
        await uploads.put_document(name, target, raw, name.tag)
        return target.digest


async def _take_over(
    uploads: RegistryUploads, registry: RegistryClient, name: Reference, source: Reference, blob: Descriptor
) -> None:
    if await uploads.has_blob(name, blob.digest) or await uploads.mount(name, blob, source.path):
        return
    await uploads.upload(name, blob, functools.partial(registry.blob, source, blob))
