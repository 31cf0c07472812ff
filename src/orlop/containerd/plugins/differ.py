# SPDX-License-Identifier: Apache-2.0
"""The differ for tar layers: content store on one side, directories of mounts on the other."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor

from orlop.containerd.archive.apply import apply_layer
from orlop.containerd.archive.compression import LayerSource
from orlop.containerd.core.content import Reader
from orlop.containerd.core.diff import Descriptor
from orlop.containerd.core.mount import Mount
from orlop.containerd.core.namespaces import Scope
from orlop.containerd.metadata.content import MetadataContent
from orlop.containerd.plugins.layer_mounts import open_target
from orlop.containerd.services.threads import in_thread
from orlop.errdefs import CanceledError, DataLossError, NotImplementedByUsError
from orlop.unix import fs

TAR = "application/vnd.oci.image.layer.v1.tar"
# What a layer may be called. How it is compressed is read from its first bytes: registries hold wrong names.
_LAYER_TYPES = frozenset(
    (
        *(f"application/vnd.oci.image.layer.v1.tar{suffix}" for suffix in ("", "+gzip", "+zstd")),
        *(f"application/vnd.oci.image.layer.nondistributable.v1.tar{suffix}" for suffix in ("", "+gzip", "+zstd")),
        *(f"application/vnd.docker.image.rootfs.diff.tar{suffix}" for suffix in ("", ".gzip", ".zstd")),
        *(f"application/vnd.docker.image.rootfs.foreign.diff.tar{suffix}" for suffix in ("", ".gzip")),
        "application/vnd.docker.container.image.rootfs.diff+x-gtar",
    )
)


class LayerDiffer:
    """Implements `orlop.containerd.core.diff.Differ`."""

    def __init__(self, content: MetadataContent, workers: Executor) -> None:
        self._content = content
        self._workers = workers

    async def apply(
        self, scope: Scope, layer: Descriptor, mounts: Sequence[Mount], sync: bool = False
    ) -> Descriptor:
        """Unpack a layer in a worker thread, with a second one that decompresses and hashes."""
        if layer.media_type not in _LAYER_TYPES:
            raise NotImplementedByUsError(f'media type "{layer.media_type}" is no layer that can be applied')
        reader = self._content.bind(scope).reader(layer.digest)
        cancelled = threading.Event()
        try:
            return await in_thread(
                self._workers, lambda: _apply(layer, reader, mounts, sync, cancelled), cancelled.set
            )
        finally:
            reader.close()

    async def compare(
        self,
        scope: Scope,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        media_type: str = "",
        ref: str = "",
        labels: Mapping[str, str] | None = None,
        epoch: int | None = None,
    ) -> Descriptor:
        """Make a layer."""
        raise NotImplementedByUsError("diff.diff is being built")


def _apply(
    layer: Descriptor, reader: Reader, mounts: Sequence[Mount], sync: bool, cancelled: threading.Event
) -> Descriptor:
    with open_target(mounts) as target, LayerSource(reader.fileno()) as source:
        apply_layer(
            iter(source), target.root, overlay=target.overlay, lower=target.lower, cancelled=cancelled.is_set
        )
        if cancelled.is_set():
            raise CanceledError(f"applying layer {layer.digest} was given up")
        if source.compressed_digest != layer.digest:
            raise DataLossError(f"content {layer.digest} is damaged: its digest is {source.compressed_digest}")
        if sync:
            fs.syncfs(target.root)
        return Descriptor(TAR, source.digest, source.size)
