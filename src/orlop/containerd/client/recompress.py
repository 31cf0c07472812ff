# SPDX-License-Identifier: Apache-2.0
"""Layers of the content store once more, in another compression."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from typing import TYPE_CHECKING

from orlop.api import content_pb2
from orlop.containerd.archive.compression import GzipCompressor, LayerSource, PlainCompressor
from orlop.containerd.client.fetch import ingestion
from orlop.containerd.client.unpack import LABEL_UNCOMPRESSED
from orlop.errdefs import AlreadyExistsError, DataLossError
from orlop.oci.image import DOCKER_LAYER, DOCKER_LAYER_GZIP, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Descriptor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.containerd.archive.compression import Compressor
    from orlop.containerd.client.client import Client

_PLAIN = {OCI_LAYER_GZIP: OCI_LAYER, OCI_LAYER_ZSTD: OCI_LAYER, DOCKER_LAYER_GZIP: DOCKER_LAYER}
_GZIPPED = {OCI_LAYER: OCI_LAYER_GZIP, DOCKER_LAYER: DOCKER_LAYER_GZIP}


async def uncompressed(client: Client, layer: Descriptor, diff_id: str) -> Descriptor:
    """The layer as a plain tar, which is put into the content store; one that is plain is answered as it is.

    Raises DataLossError for one that is not what `diff_id` says, InvalidArgumentError for a damaged one.
    """
    if layer.media_type not in _PLAIN:
        return layer
    digest, size = await _rewrite(client, layer, PlainCompressor(), diff_id)
    return Descriptor(media_type=_PLAIN[layer.media_type], digest=digest, size=size)


async def gzipped(client: Client, layer: Descriptor, diff_id: str) -> Descriptor:
    """The plain layer as gzip, which is put into the content store; a compressed one is answered as it is.

    Raises DataLossError for one that is not what `diff_id` says.
    """
    if layer.media_type not in _GZIPPED:
        return layer
    digest, size = await _rewrite(client, layer, GzipCompressor(), diff_id)
    return Descriptor(media_type=_GZIPPED[layer.media_type], digest=digest, size=size)


async def _rewrite(client: Client, layer: Descriptor, compressor: Compressor, diff_id: str) -> tuple[str, int]:
    """Digest and size of what a compressor makes of the plain layer, in the content store, labelled."""
    ref = f"convert-{layer.digest}-{secrets.token_hex(6)}"
    labels = {LABEL_UNCOMPRESSED: diff_id}
    size = 0
    with tempfile.TemporaryFile(prefix="orlop-layer-") as file:
        async for data in client.content.read(layer.digest):
            file.write(data)
        file.flush()
        with LayerSource(file.fileno(), hash_compressed=False) as source:
            async with ingestion(client, ref) as writer:
                pieces = _pieces(source, compressor)
                while piece := await asyncio.to_thread(next, pieces, b""):
                    await writer.write(piece)
                    size += len(piece)
                if source.digest != diff_id:
                    raise DataLossError(
                        f"layer {layer.digest} unpacks to {source.digest}, the image says {diff_id}"
                    )
                try:
                    return await writer.commit(size=size, labels=labels), size
                except AlreadyExistsError as error:
                    digest = await _there_already(client, str(error), labels)
                    return digest, size


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
