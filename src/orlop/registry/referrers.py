# SPDX-License-Identifier: Apache-2.0
"""Referrers (distribution specification 1.1): signatures and others that name an image as their `subject`."""

from typing import NamedTuple

import msgspec
from yarl import URL

from orlop.codec import decode, encode
from orlop.errdefs import InvalidArgumentError
from orlop.oci.image import MANIFEST_SIZE_MAX, OCI_INDEX, Descriptor, Index, Manifest, parse_document
from orlop.oci.reference import Reference
from orlop.registry.transport import Connection, Transport, read_document

PAGES_MAX = 100


class Referrer(NamedTuple):
    """A manifest or index as its subject's list names it."""

    subject: str
    descriptor: Descriptor


def referrers_tag(digest: str) -> str:
    """The tag under which registries without the API list the referrers of a digest: `sha256-…`."""
    algorithm, _, encoded = digest.partition(":")
    return f"{algorithm[:32]}-{encoded[:64]}"


def referrer_of(descriptor: Descriptor, raw: bytes) -> Referrer | None:
    """What a document is a referrer of; None if it names no subject."""
    document = parse_document(raw, descriptor.media_type)
    if document.subject is msgspec.UNSET:
        return None
    kind = "" if document.artifact_type is msgspec.UNSET else document.artifact_type
    if isinstance(document, Manifest):
        kind = kind or document.config.media_type
    annotations = {} if document.annotations is msgspec.UNSET else document.annotations
    listed = Descriptor(
        media_type=descriptor.media_type,
        digest=descriptor.digest,
        size=descriptor.size,
        artifact_type=kind,
        annotations=annotations,
    )
    return Referrer(document.subject.digest, listed)


def with_referrer(index: Index, referrer: Descriptor) -> bytes | None:
    """The bytes of an index with one more referrer; None if it has that already."""
    if any(item.digest == referrer.digest for item in index.manifests):
        return None
    return encode(msgspec.structs.replace(index, media_type=OCI_INDEX, manifests=[*index.manifests, referrer]))


async def find_referrers(
    transport: Transport, reference: Reference, digest: str, artifact_type: str, connection: Connection
) -> list[Descriptor]:
    """All referrers of a digest at one endpoint, by the API or else by the tag.

    Raises InvalidArgumentError for a malformed list or one without end.
    """
    found: list[Descriptor] = []
    path = f"/v2/{reference.path}/referrers/{digest}"
    if artifact_type:
        path = str(URL(path).with_query(artifactType=artifact_type))
    for _ in range(PAGES_MAX):
        async with transport.request(connection, "GET", path, reference, {"Accept": OCI_INDEX}) as response:
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
            if response.status == 404 or (response.status == 200 and media_type != OCI_INDEX):
                index = await tagged_index(transport, connection, reference, digest)
                return _of_type(index.manifests, artifact_type)
            await transport.check(reference, response, "GET", connection.address(path))
            found += decode(await read_document(response, MANIFEST_SIZE_MAX), Index).manifests
            link = response.links.get("next")
            following = link["url"] if link else None
        if following is None:
            return _of_type(found, artifact_type)
        path = str(following)
    raise InvalidArgumentError(f"referrers of {digest}: more than {PAGES_MAX} pages")


async def tagged_index(transport: Transport, connection: Connection, reference: Reference, digest: str) -> Index:
    """The index under a digest's tag; an empty one if there is none."""
    path = f"/v2/{reference.path}/manifests/{referrers_tag(digest)}"
    async with transport.request(connection, "GET", path, reference, {"Accept": OCI_INDEX}) as response:
        if response.status == 404:
            return Index(media_type=OCI_INDEX)
        await transport.check(reference, response, "GET", connection.address(path))
        raw = await read_document(response, MANIFEST_SIZE_MAX)
    document = parse_document(raw, OCI_INDEX)
    if not isinstance(document, Index):
        raise InvalidArgumentError(f"tag {referrers_tag(digest)}: expected an index of referrers")
    return document


def _of_type(found: list[Descriptor], artifact_type: str) -> list[Descriptor]:
    """Registries need not filter."""
    return [item for item in found if not artifact_type or item.artifact_type == artifact_type]
