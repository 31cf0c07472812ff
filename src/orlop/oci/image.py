# SPDX-License-Identifier: Apache-2.0
"""The OCI image specification's documents as types: descriptors, manifests, indexes and image configurations.

The documents of Docker's schema 2 (image manifest and manifest list) have the same shape and are read into the
same types; `media_type` tells them apart.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from orlop.codec import decode
from orlop.errdefs import InvalidArgumentError

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_LIST})
CONFIG_TYPES = frozenset({OCI_CONFIG, DOCKER_CONFIG})

MANIFEST_SIZE_MAX = 4 * 1024 * 1024
"""Bytes; a manifest, index or configuration above it is refused (4 MiB by the distribution specification)."""

SIZE_MAX = (1 << 63) - 1
"""Bytes; what the API's messages can say."""

_DIGEST = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[a-zA-Z0-9=_-]+\Z")
_HEX_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}


class _Struct(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """Base: camel-case JSON names; what equals its default is left out of the JSON."""


class Platform(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True, frozen=True):
    """What an image runs on; `str()` is Docker's text, as `linux/arm/v7`."""

    architecture: str = ""
    os: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: tuple[str, ...] = msgspec.field(default=(), name="os.features")
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os or "unknown", self.architecture, self.variant) if part)


class Descriptor(_Struct):
    """What a document points at; `size` in bytes."""

    media_type: str = ""
    digest: str = ""
    size: int = 0
    urls: list[str] = []
    annotations: dict[str, str] = {}
    data: str = ""
    platform: Platform | None = None
    artifact_type: str = ""


class _Document(_Struct, omit_defaults=False):
    schema_version: int = 2
    media_type: str = ""


class Manifest(_Document, kw_only=True):
    """One image for one platform: its configuration and its layers, the lowest first."""

    config: Descriptor
    layers: list[Descriptor] = []
    annotations: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    artifact_type: str | msgspec.UnsetType = msgspec.UNSET
    subject: Descriptor | msgspec.UnsetType = msgspec.UNSET


class Index(_Document):
    """The manifests of one image for several platforms."""

    manifests: list[Descriptor] = []
    annotations: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    artifact_type: str | msgspec.UnsetType = msgspec.UNSET
    subject: Descriptor | msgspec.UnsetType = msgspec.UNSET


class HealthConfig(msgspec.Struct, rename="pascal", omit_defaults=True, kw_only=True):
    """Docker's extension of the image configuration; durations in nanoseconds."""

    test: list[str] = []
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ImageConfig(msgspec.Struct, rename="pascal", omit_defaults=True, kw_only=True):
    """The `config` section: defaults for the containers made from the image, with Docker's extensions."""

    user: str = ""
    exposed_ports: dict[str, Any] = {}
    env: list[str] = []
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    volumes: dict[str, Any] = {}
    working_dir: str = ""
    labels: dict[str, str] = {}
    stop_signal: str = ""
    args_escaped: bool = False
    healthcheck: HealthConfig | None = None
    on_build: list[str] | None = None
    shell: list[str] | None = None
    # What old builders of Docker left in the section.
    hostname: str = ""
    domainname: str = ""


class RootFS(msgspec.Struct, kw_only=True):
    """`diff_ids`: digests of the uncompressed layers, the lowest first."""

    type: str = "layers"
    diff_ids: list[str] = []


class History(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One step of an image's making; `created` in RFC 3339."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class Image(msgspec.Struct, omit_defaults=True, kw_only=True):
    """An image's configuration document; its digest is the image ID. `created` in RFC 3339."""

    created: str = ""
    author: str = ""
    architecture: str = ""
    os: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: list[str] = msgspec.field(default_factory=list, name="os.features")
    variant: str = ""
    config: ImageConfig = msgspec.field(default_factory=ImageConfig)
    rootfs: RootFS = msgspec.field(default_factory=RootFS)
    history: list[History] = []
    # Docker's additions
    comment: str = ""
    docker_version: str = ""

    @property
    def platform(self) -> Platform:
        return Platform(
            os=self.os,
            architecture=self.architecture,
            variant=self.variant,
            os_version=self.os_version,
            os_features=tuple(self.os_features),
        )


def parse_document(raw: bytes, media_type: str) -> Manifest | Index:
    """Read a manifest or index that was served, or stored, as `media_type`.

    Raises InvalidArgumentError for what is neither, for one that holds both manifests and layers (the attack of
    CVE-2021-41190, where two readers see two images), and for descriptors without a proper digest.
    """
    if len(raw) > MANIFEST_SIZE_MAX:
        raise InvalidArgumentError(f"manifest of {len(raw)} bytes is larger than {MANIFEST_SIZE_MAX}")
    fields = decode(raw, dict[str, Any])
    declared = fields.get("mediaType") or ""
    kind = media_type or declared
    if declared and media_type and declared != media_type:
        raise InvalidArgumentError(f"manifest served as {media_type} says it is {declared}")
    if fields.get("schemaVersion") == 1 or "fsLayers" in fields:
        raise InvalidArgumentError(
            "manifest of schema version 1 is not supported; push the image again as schema 2"
        )
    has_index = bool(fields.get("manifests"))
    has_image = bool(fields.get("layers")) or "config" in fields
    if kind in INDEX_TYPES:
        if has_image:
            raise InvalidArgumentError("index with layers or config: refusing an ambiguous document")
        index = decode(raw, Index)
        _check_descriptors(index.manifests)
        return index
    if kind in MANIFEST_TYPES:
        if has_index:
            raise InvalidArgumentError("manifest with manifests: refusing an ambiguous document")
        manifest = decode(raw, Manifest)
        _check_descriptors([manifest.config, *manifest.layers])
        return manifest
    raise InvalidArgumentError(f"unsupported manifest media type {kind!r}")


def parse_image(raw: bytes) -> Image:
    """Read an image configuration. Raises InvalidArgumentError that names the field."""
    image = decode(raw, Image)
    for diff_id in image.rootfs.diff_ids:
        check_digest(diff_id)
    return image


def _check_descriptors(descriptors: Sequence[Descriptor]) -> None:
    for descriptor in descriptors:
        check_digest(descriptor.digest)
        if descriptor.size < 0:
            raise InvalidArgumentError(f"descriptor {descriptor.digest}: negative size {descriptor.size}")
        if descriptor.size > SIZE_MAX:
            raise InvalidArgumentError(f"descriptor {descriptor.digest}: size is beyond {SIZE_MAX}")


def check_digest(digest: str) -> str:
    """Return `digest` if it is well formed and of a known algorithm; else raise InvalidArgumentError."""
    if not _DIGEST.match(digest):
        raise InvalidArgumentError(f"invalid checksum digest format: {digest!r}")
    algorithm, _, encoded = digest.partition(":")
    if algorithm not in _HEX_LENGTHS:
        raise InvalidArgumentError(f"unsupported digest algorithm: {digest!r}")
    if len(encoded) != _HEX_LENGTHS[algorithm] or encoded.strip("0123456789abcdef"):
        raise InvalidArgumentError(f"invalid checksum digest length: {digest!r}")
    return digest


def digest_of(data: bytes) -> str:
    """The sha256 digest of some bytes, as `sha256:…`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """The chain ID of each layer: what names the file system of that layer on top of those below it.

    ChainID(L₀) = DiffID(L₀); ChainID(L₀…Lₙ) = sha256(ChainID(L₀…Lₙ₋₁) + " " + DiffID(Lₙ)) (image-spec, config.md).
    """
    chains: list[str] = []
    for diff_id in diff_ids:
        chains.append(digest_of(f"{chains[-1]} {diff_id}".encode()) if chains else diff_id)
    return chains


def is_layer_type(media_type: str) -> bool:
    """Whether containerd can unpack it: a layer of either family, in any compression, not a foreign artifact."""
    return media_type.startswith(
        (OCI_LAYER, DOCKER_LAYER, "application/vnd.oci.image.layer.nondistributable.v1.tar")
    )
