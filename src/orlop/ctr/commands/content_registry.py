# SPDX-License-Identifier: Apache-2.0
"""ctr content fetch, fetch-object, fetch-blob and push-object: content of registries."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from orlop.containerd.client import Client
from orlop.containerd.client.leases import leased
from orlop.ctr.commands.image_transfers import (
    ALL_PLATFORMS,
    LABELS,
    METADATA_FLAGS,
    PLATFORMS,
    fetch_image,
    platforms_of,
)
from orlop.ctr.flags import Flag, Values
from orlop.ctr.main import Command
from orlop.ctr.registry import REGISTRY_FLAGS, registry_auth, registry_config
from orlop.errdefs import NotFoundError
from orlop.oci.image import INDEX_TYPES, MANIFEST_TYPES

if TYPE_CHECKING:
    from orlop.oci.image import Descriptor
    from orlop.oci.reference import Reference
    from orlop.registry import RegistryClient


async def _fetch(client: Client, values: Values) -> None:
    """As `images pull`, but nothing is unpacked."""
    from orlop.containerd.client.pull_platforms import Wanted

    every = values["metadata-only"] or not values["skip-metadata"]
    wanted = Wanted(platforms_of(values), all_metadata=every, layers=not values["metadata-only"])
    async with leased(client) as work:
        await fetch_image(work, values, wanted)


def _registry(values: Values, name: str) -> tuple[Reference, RegistryClient]:
    from orlop.oci import reference
    from orlop.registry import RegistryClient

    ref = reference.parse(name)
    return ref, RegistryClient(registry_config(values), registry_auth(values, ref.domain))


async def _fetch_object(_client: Client, values: Values) -> None:
    (name,) = values.need("remote")
    ref, registry = _registry(values, name)
    async with registry:
        sys.stdout.buffer.write(await registry.document(ref, await registry.resolve(ref)))
    sys.stdout.flush()


async def _fetch_blob(_client: Client, values: Values) -> None:
    name, *_ = values.need("remote", "digest")
    ref, registry = _registry(values, name)
    async with registry:
        if values["media-type"] in MANIFEST_TYPES | INDEX_TYPES:
            for digest in values.arguments[1:]:
                manifest = ref.with_digest(digest)
                sys.stdout.buffer.write(await registry.document(manifest, await registry.resolve(manifest)))
            sys.stdout.flush()
            return
        known = await _blobs_of(registry, ref, await registry.resolve(ref))
        for digest in values.arguments[1:]:
            if digest not in known:
                raise NotFoundError(f"{name} names no blob {digest}")
            async for data in registry.blob(ref, known[digest]):
                sys.stdout.buffer.write(data)
    sys.stdout.flush()


async def _blobs_of(registry: RegistryClient, ref: Reference, target: Descriptor) -> dict[str, Descriptor]:
    """Every blob that an image names, over all of its platforms, by digest."""
    from orlop.oci.image import Index, parse_document

    document = parse_document(await registry.document(ref, target), target.media_type)
    if not isinstance(document, Index):
        return {blob.digest: blob for blob in (document.config, *document.layers)}
    found: dict[str, Descriptor] = {}
    for child in document.manifests:
        found |= await _blobs_of(registry, ref, child)
    return found


async def _push_object(client: Client, values: Values) -> None:
    from orlop.containerd.client.push import push
    from orlop.oci import reference
    from orlop.oci.image import Descriptor

    name, digest, media_type = values.need("remote", "object", "type")
    ref = reference.parse(name)
    info = await client.content.info(digest)
    target = Descriptor(media_type=media_type, digest=digest, size=info.size)
    config, auth = registry_config(values), registry_auth(values, ref.domain)
    await push(client, ref, target, auth=auth, config=config)
    print(f"pushed {digest}")


COMMANDS = {
    "fetch": Command(
        _fetch,
        "fetch all content for an image into containerd",
        "[flags] <remote> <object>",
        (
            *REGISTRY_FLAGS,
            LABELS,
            PLATFORMS,
            ALL_PLATFORMS,
            *METADATA_FLAGS,
            Flag("metadata-only", bool, help="only manifests and configurations, of all platforms"),
        ),
    ),
    "fetch-blob": Command(
        _fetch_blob,
        "retrieve blobs from a remote",
        "[flags] <remote> [<digest>, ...]",
        (*REGISTRY_FLAGS, Flag("media-type", help="what the digests are of, where it is a manifest or an index")),
    ),
    "fetch-object": Command(_fetch_object, "retrieve objects from a remote", "[flags] <remote>", REGISTRY_FLAGS),
    "push-object": Command(
        _push_object,
        "push a manifest with what it names to a remote",
        "[flags] <remote> <object> <type>",
        REGISTRY_FLAGS,
    ),
}
