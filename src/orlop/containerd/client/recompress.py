# SPDX-License-Identifier: Apache-2.0
"""Layers of the content store once more, in another compression."""

from __future__ import annotations

import asyncio
import enum
import secrets
import tempfile
from typing import TYPE_CHECKING

from orlop.api import content_pb2
from orlop.containerd.archive.compression import (
    Compressor,
    GzipCompressor,
    LayerSource,
    PlainCompressor,
    ZstdCompressor,
)
from orlop.containerd.client.fetch import ingestion
from orlop.containerd.client.unpack import LABEL_UNCOMPRESSED
from orlop.errdefs import AlreadyExistsError, DataLossError
from orlop.oci.image import (
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER_ZSTD,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    Descriptor,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.containerd.client.client import Client


class Compression(enum.Enum):
    """How the bytes of a layer are compressed."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


_TYPES: dict[Compression, tuple[str, str]] = {
    Compression.NONE: (OCI_LAYER, DOCKER_LAYER),
    Compression.GZIP: (OCI_LAYER_GZIP, DOCKER_LAYER_GZIP),
    Compression.ZSTD: (OCI_LAYER_ZSTD, DOCKER_LAYER_ZSTD),
}
"""The media types of layers, OCI's and Docker's."""
LAYER_TYPES = frozenset(name for names in _TYPES.values() for name in names)
"""Of those that can be distributed."""
_COMPRESSORS: dict[Compression, type[Compressor]] = {
    Compression.NONE: PlainCompressor,
    Compression.GZIP: GzipCompressor,
    Compression.ZSTD: ZstdCompressor,
}


async def recompressed(client: Client, layer: Descriptor, diff_id: str, wanted: Compression) -> Descriptor:
    """The layer in a compression, which is put into the content store.

    One that has it, and what is no layer of these types, is answered as it is. Raises DataLossError for one that
    is not what `diff_id` says, InvalidArgumentError for a damaged one.
    """
    family = next(
        (place for types in _TYPES.values() for place in (0, 1) if types[place] == layer.media_type), None
    )
    if family is None or layer.media_type == _TYPES[wanted][family]:
        return layer
    ref = f"convert-{layer.digest}-{secrets.token_hex(6)}"
    with tempfile.TemporaryFile(prefix="orlop-layer-") as file:
        async for data in client.content.read(layer.digest):
            file.write(data)
        file.flush()
        digest, size, _ = await store_compressed(client, ref, file.fileno(), wanted, layer.digest, diff_id)
    return Descriptor(media_type=_TYPES[wanted][family], digest=digest, size=size)


async def store_compressed(
    client: Client, ref: str, fd: int, wanted: Compression, name: str = "", expected: str = ""
) -> tuple[str, int, str]:
    """Put what a file holds, without the compression that it may have, into the content store in another one.

    Returns digest and size there, and the digest without compression. Raises DataLossError where that is not the
    one `expected` of the layer `name`.
    """
    compressor = _COMPRESSORS[wanted]()
    size = 0
    with LayerSource(fd, hash_compressed=False) as source:
        async with ingestion(client, ref) as writer:
            pieces = _pieces(source, compressor)
            while piece := await asyncio.to_thread(next, pieces, b""):
                await writer.write(piece)
                size += len(piece)
            plain = source.digest
            if expected and plain != expected:
                raise DataLossError(f"layer {name} unpacks to {plain}, the image says {expected}")
            labels = {LABEL_UNCOMPRESSED: plain}
            try:
                return await writer.commit(size=size, labels=labels), size, plain
            except AlreadyExistsError as error:
                return await _there_already(client, str(error), labels), size, plain


def _pieces(source: LayerSource, compressor: Compressor) -> Iterator[bytes]:
    for chunk in source:
        if piece := compressor.compress(chunk):
            yield piece
    if rest := compressor.flush():
        yield rest


async def _there_already(client: Client, text: str, labels: dict[str, str]) -> str:
    """The digest that containerd's refusal of a second copy names; that copy gets the labels and the lease."""
    from orlop.containerd.client.archive import digest_in

    digest = digest_in(text)
    if client.lease:
        await client.leases.add_resource(client.lease, "content", digest)
    await client.content.update(
        content_pb2.Info(digest=digest, labels=labels), *(f"labels.{name}" for name in labels)
    )
    return digest
