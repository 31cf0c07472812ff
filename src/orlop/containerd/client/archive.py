# SPDX-License-Identifier: Apache-2.0
"""Images from archives into containerd: OCI layouts and docker-archives (`docker save`) as one tar.

Each blob goes into the content store as it passes; what names the images (index.json, else manifest.json) is
looked at last. `export` writes such archives.
"""

from __future__ import annotations

import posixpath
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from orlop.codec import decode, encode
from orlop.containerd.client.fetch import children_labels, ingestion, set_labels, store_small
from orlop.containerd.client.leases import leased
from orlop.containerd.client.tarstream import TarReader
from orlop.containerd.client.unpack import INDEX_DEPTH_MAX, ImageContent, read_image, unpack
from orlop.errdefs import (
    AlreadyExistsError,
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
)
from orlop.oci.image import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    INDEX_TYPES,
    MANIFEST_SIZE_MAX,
    MANIFEST_TYPES,
    OCI_INDEX,
    OCI_LAYER_ZSTD,
    Descriptor,
    Index,
    Manifest,
    Platform,
    check_digest,
    digest_of,
    parse_document,
    parse_image,
)
from orlop.oci.platforms import host_platform, platform_rank

if TYPE_CHECKING:
    from orlop.containerd.client.client import Client

ANNOTATION_REF_NAME = "org.opencontainers.image.ref.name"
ANNOTATION_IMAGE_NAME = "io.containerd.image.name"
MEMBERS_MAX = 50_000  # files and links of an archive; each is remembered until its documents are known
_BLOB = re.compile(r"blobs/([a-z0-9]+)/([0-9a-f]+)\Z")
_DOCUMENTS = ("index.json", "manifest.json")


class ImportedImage(NamedTuple):
    """An image from an archive: the reference that the archive gives it (empty: none), and what it is."""

    name: str
    target: Descriptor
    content: ImageContent | None
    """None if the archive has it for other platforms only in part."""


Name = Callable[[ImportedImage], Awaitable[None]]


class _ArchiveItem(msgspec.Struct, rename="pascal", kw_only=True):
    """One image of manifest.json."""

    config: str
    repo_tags: list[str] | None = None
    layers: list[str] = []


class _Stored(NamedTuple):
    """A member that went into the content store: digest, size in bytes, its first bytes."""

    digest: str
    size: int
    head: bytes


async def import_archive(
    client: Client,
    stream: AsyncIterator[bytes],
    name: Name,
    *,
    snapshotter: str = "overlayfs",
    platform: Platform | None = None,
    compress: bool = False,
    sync: bool = False,
) -> list[ImportedImage]:
    """Import all images of an archive; `name` is awaited for each, to name it before the lease ends.

    `compress`: plain layers of a docker-archive become gzip. `sync` unpacks to the disk.
    Images that run on `platform` (the host's) are unpacked (not if `snapshotter` is empty). Raises
    InvalidArgumentError for a malformed archive and DataLossError for a damaged one; then nothing is named.
    """
    async with leased(client) as work:
        archive = _Archive(work, compress)
        reader = TarReader(stream)
        try:
            await archive.read(reader)
        finally:
            await reader.close()
        images = await archive.images()
        imported = []
        for image_name, target in images:
            content = await _usable(work, target, platform or host_platform())
            if (
                content
                and snapshotter
                and platform_rank(platform or host_platform(), content.image.platform) is not None
            ):
                await unpack(work, content, snapshotter, sync=sync)
            imported.append(ImportedImage(image_name, target, content))
        for image in imported:
            await name(image)
        return imported


async def _usable(client: Client, target: Descriptor, platform: Platform) -> ImageContent | None:
    try:
        return await read_image(client, target, platform)
    except NotFoundError:
        return None


class _Archive:
    """What has been read of an archive: documents, members in the content store, links between members."""

    def __init__(self, client: Client, compress: bool) -> None:
        self._client = client
        self._compress = compress
        self._documents: dict[str, bytes] = {}
        self._stored: dict[str, _Stored] = {}
        self._links: dict[str, str] = {}
        self._labelled: set[str] = set()

    async def read(self, reader: TarReader) -> None:
        """Take every member in."""
        async for member in reader.members():
            if len(self._stored) + len(self._links) >= MEMBERS_MAX:
                raise InvalidArgumentError(f"archive has more than {MEMBERS_MAX} members")
            if member.kind == "link":
                self._links[member.path] = posixpath.normpath(
                    posixpath.join(posixpath.dirname(member.path), member.target)
                )
            elif member.kind != "file":
                continue
            elif member.path in _DOCUMENTS:
                self._documents[member.path] = await reader.whole(MANIFEST_SIZE_MAX)
            elif found := _BLOB.match(member.path):
                expected = check_digest(f"{found[1]}:{found[2]}")
                self._stored[member.path] = await self._store(reader, member.size, expected)
            elif member.path.endswith((".json", ".tar")):
                self._stored[member.path] = await self._store(reader, member.size, "")

    async def images(self) -> list[tuple[str, Descriptor]]:
        """Names and targets, every document labelled. Raises InvalidArgumentError if the archive names none."""
        if "index.json" in self._documents:
            index = _parse_index(self._documents["index.json"])
            found = [(_annotated_name(item), item) for item in index.manifests]
            for _, target in found:
                if target.media_type not in INDEX_TYPES | MANIFEST_TYPES:
                    raise InvalidArgumentError(f"index.json: unsupported media type {target.media_type!r}")
                if not await self._label(target):
                    raise InvalidArgumentError(f"archive lacks {target.digest}, which index.json names")
        elif "manifest.json" in self._documents:
            items = _parse_items(self._documents["manifest.json"])
            found = []
            for item in items:
                target = await self._docker_image(item)
                found += [(tag, target) for tag in item.repo_tags or [""]]
        else:
            raise InvalidArgumentError(
                "unrecognized image format: archive has neither index.json nor manifest.json"
            )
        return found

    async def _store(self, reader: TarReader, size: int, expected: str) -> _Stored:
        ref = f"import-{secrets.token_hex(8)}"
        head = b""
        try:
            async with ingestion(self._client, ref, size=size, expected=expected) as writer:
                # A blob that another namespace has is there already: the writer begins at its end.
                there = writer.offset
                async for chunk in reader.data():
                    head = head or chunk[:8]
                    if not there:
                        await writer.write(chunk)
                digest = await writer.commit(size=size, expected=expected)
        except AlreadyExistsError as error:
            # The blob was here before: what is left of the member is skipped.
            digest = expected or digest_in(str(error))
        except FailedPreconditionError as error:
            raise DataLossError(f"archive member {expected or ref} is damaged: {error}") from None
        if self._client.lease:
            await self._client.leases.add_resource(self._client.lease, "content", digest)
        return _Stored(digest, size, head)

    async def _label(self, target: Descriptor, depth: int = 0) -> bool:
        """Tie every document to its children; False if `target` itself is not here."""
        if target.digest in self._labelled:
            return True  # indexes may name one document many times, and each of those others again
        if depth > INDEX_DEPTH_MAX:
            raise InvalidArgumentError(f"index {target.digest}: nested deeper than {INDEX_DEPTH_MAX} levels")
        try:
            raw = await self._client.content.read_blob(target.digest, MANIFEST_SIZE_MAX)
        except NotFoundError:
            return False
        document = parse_document(raw, target.media_type)
        await set_labels(self._client, target.digest, children_labels(document))
        self._labelled.add(target.digest)
        if isinstance(document, Index):
            for child in document.manifests:
                if child.media_type in INDEX_TYPES | MANIFEST_TYPES:
                    await self._label(child, depth + 1)
        return True

    async def _docker_image(self, item: _ArchiveItem) -> Descriptor:
        """Write the manifest that a docker-archive lacks."""
        config = self._find(item.config)
        raw_config = await self._client.content.read_blob(config.digest, MANIFEST_SIZE_MAX)
        image = parse_image(raw_config)
        if len(image.rootfs.diff_ids) != len(item.layers):
            raise InvalidArgumentError(
                f"manifest.json: invalid manifest, layers length mismatch: expected {len(item.layers)}, "
                f"got {len(image.rootfs.diff_ids)}"
            )
        layers = [
            await self._layer(path, diff_id)
            for path, diff_id in zip(item.layers, image.rootfs.diff_ids, strict=True)
        ]
        manifest = Manifest(
            media_type=DOCKER_MANIFEST,
            config=Descriptor(media_type=DOCKER_CONFIG, digest=config.digest, size=config.size),
            layers=layers,
        )
        raw = encode(manifest)
        target = Descriptor(media_type=DOCKER_MANIFEST, digest=digest_of(raw), size=len(raw))
        await store_small(self._client, target, raw, children_labels(manifest))
        return target

    async def _layer(self, path: str, diff_id: str) -> Descriptor:
        stored = self._find(path)
        head = stored.head
        if not head and stored.size:
            async for chunk in self._client.content.read(stored.digest, 0, min(8, stored.size)):
                head += chunk
        media_type = DOCKER_LAYER
        if head.startswith(b"\x1f\x8b"):
            media_type = DOCKER_LAYER_GZIP
        elif head.startswith(b"\x28\xb5\x2f\xfd"):
            media_type = OCI_LAYER_ZSTD
        elif stored.digest != diff_id:
            raise DataLossError(f"archive layer {path} is {stored.digest}, the configuration says {diff_id}")
        layer = Descriptor(media_type=media_type, digest=stored.digest, size=stored.size)
        if not self._compress:
            return layer
        from orlop.containerd.client.recompress import Compression, recompressed

        return await recompressed(self._client, layer, diff_id, Compression.GZIP)

    def _find(self, path: str) -> _Stored:
        path = posixpath.normpath(path)
        for _ in range(16):  # links may lead to links, but not for ever
            if path in self._stored:
                return self._stored[path]
            if path not in self._links:
                break
            path = self._links[path]
        raise InvalidArgumentError(f"archive lacks {path}, which manifest.json names")


def _parse_index(raw: bytes) -> Index:
    try:
        index = parse_document(raw, OCI_INDEX)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"index.json: {error}") from None
    assert isinstance(index, Index)
    return index


def _parse_items(raw: bytes) -> list[_ArchiveItem]:
    try:
        return decode(raw, list[_ArchiveItem])
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"manifest.json: {error}") from None


def _annotated_name(item: Descriptor) -> str:
    name = item.annotations.get(ANNOTATION_IMAGE_NAME, "")
    if name:
        return name
    # A bare tag ("latest") names nothing; a whole reference does.
    short = item.annotations.get(ANNOTATION_REF_NAME, "")
    return short if ":" in short or "/" in short else ""


def digest_in(text: str) -> str:
    """The digest that an error of containerd names. Raises DataLossError where it names none."""
    found = re.search(r"sha256:[0-9a-f]{64}", text)
    if not found:
        raise DataLossError(f"containerd has an archive member already but does not say which: {text}")
    return found[0]
