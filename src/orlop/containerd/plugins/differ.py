# SPDX-License-Identifier: Apache-2.0
"""The differ for tar layers: content store on one side, directories of mounts on the other."""

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor

from orlop.containerd.archive.changes import write_changes
from orlop.containerd.archive.compression import (
    Compressor,
    GzipCompressor,
    PlainCompressor,
    ZstdCompressor,
)
from orlop.containerd.config import StreamProcessor
from orlop.containerd.core.content import Writer
from orlop.containerd.core.diff import Descriptor, Payloads
from orlop.containerd.core.mount import Mount
from orlop.containerd.core.namespaces import Scope
from orlop.containerd.disk import disk_errors
from orlop.containerd.failpoints import failpoint
from orlop.containerd.metadata.content import MetadataContent
from orlop.containerd.plugins.layer_mounts import (
    LayerTarget,
    lower_directories,
    open_target,
    open_tree,
    upper_directory,
)
from orlop.containerd.plugins.layer_workers import LayerWorkers
from orlop.containerd.plugins.stream_processors import StreamProcessors
from orlop.containerd.threads import in_thread
from orlop.errdefs import (
    AlreadyExistsError,
    CanceledError,
    InvalidArgumentError,
    NotFoundError,
    NotImplementedByUsError,
)

UNCOMPRESSED_LABEL = "containerd.io/uncompressed"
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
_BATCH = 1 << 20  # bytes hashed and compressed at a time
_DEFAULT_TYPE = TAR + "+gzip"
# The types that `compare` makes, and how each is compressed.
_COMPRESSIONS: dict[str, Callable[[], Compressor]] = {
    TAR: PlainCompressor,
    TAR + "+gzip": GzipCompressor,
    TAR + "+zstd": ZstdCompressor,
    "application/vnd.docker.image.rootfs.diff.tar": PlainCompressor,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": GzipCompressor,
    "application/vnd.docker.image.rootfs.diff.tar.zstd": ZstdCompressor,
}


class LayerDiffer:
    """Implements `orlop.containerd.core.diff.Differ`."""

    def __init__(
        self, content: MetadataContent, workers: Executor, processors: Sequence[StreamProcessor] = ()
    ) -> None:
        self._processors = StreamProcessors(processors)
        self._content = content
        self._workers = workers
        self._processes = LayerWorkers(workers)

    async def apply(
        self,
        scope: Scope,
        layer: Descriptor,
        mounts: Sequence[Mount],
        sync: bool = False,
        payloads: Payloads | None = None,
    ) -> Descriptor:
        """Unpack a layer in a process of its own."""
        steps = self._processors.chain(layer.media_type, _LAYER_TYPES)
        if steps is None:
            raise NotImplementedByUsError(f'media type "{layer.media_type}" is no layer that can be applied')
        reader = self._content.bind(scope).reader(layer.digest)
        try:
            with contextlib.ExitStack() as stack:
                target = await in_thread(self._workers, lambda: stack.enter_context(open_target(mounts)))
                # Of another process's content store a copy is made first.
                file = await in_thread(self._workers, reader.fileno) if reader.slow else reader.fileno()
                if not steps:
                    digest, size = await self._unpack(layer.digest, file, target, sync)
                else:
                    media_type = layer.media_type
                    async with self._processors.run(steps, media_type, file, payloads or {}) as made:
                        digest, size = await self._unpack("", made, target, sync)
        finally:
            reader.close()
        return Descriptor(TAR, digest, size)

    async def _unpack(self, digest: str, blob: int, target: LayerTarget, sync: bool) -> tuple[str, int]:
        return await self._processes.apply(
            digest, blob, target.root, target.lower, opaque=target.opaque, sync=sync
        )

    def close(self) -> None:
        """End the processes."""
        self._processes.close()

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
        """Make a layer in a worker thread: walk, hash, compress and write to an ingest."""
        media_type = media_type or _DEFAULT_TYPE
        if media_type not in _COMPRESSIONS:
            raise NotImplementedByUsError(f'media type "{media_type}" is no layer that can be made')
        store = self._content.bind(scope)
        ref = ref or f"diff-{os.urandom(8).hex()}"
        writer = store.writer(ref)
        stop = threading.Event()
        try:
            try:
                with disk_errors("cannot make a layer"):
                    diff_id = await in_thread(
                        self._workers, lambda: _compare(lower, upper, media_type, epoch, writer, stop), stop.set
                    )
            except RecursionError:
                raise InvalidArgumentError("cannot make a layer: directories are nested too deeply") from None
            failpoint("diff.compare.after_data")
            status, digest = writer.status(), writer.digest()
            wanted = {UNCOMPRESSED_LABEL: diff_id, **(labels or {})}
            try:
                writer.commit(status.offset, digest, wanted)
            except AlreadyExistsError:  # made before: it only needs the labels
                store.update(digest, wanted, [f"labels.{key}" for key in wanted])
            failpoint("diff.compare.after_commit")
        except BaseException:
            writer.close()
            with contextlib.suppress(NotFoundError):
                store.abort(ref)
            raise
        return Descriptor(media_type, digest, status.offset)


def _compare(
    lower: Sequence[Mount],
    upper: Sequence[Mount],
    media_type: str,
    epoch: int | None,
    writer: Writer,
    stop: threading.Event,
) -> str:
    """Write the compressed layer and sync it; answers the digest of the uncompressed one."""
    plain = hashlib.sha256()
    compressor = _COMPRESSIONS[media_type]()
    writer.truncate()
    waiting: list[bytes] = []
    size = 0
    with contextlib.ExitStack() as stack:
        lower_fd = stack.enter_context(open_tree(lower)) if lower else None
        upper_fd = stack.enter_context(open_tree(upper))
        overlay = stack.enter_context(upper_directory(upper)) if _is_base(lower, upper) else None
        for piece in write_changes(lower_fd, upper_fd, overlay, epoch):
            waiting.append(piece)
            size += len(piece)
            if size >= _BATCH:
                _write_batch(b"".join(waiting), plain, compressor, writer)
                waiting, size = [], 0
                if stop.is_set():
                    raise CanceledError("making a layer was given up")
    _write_batch(b"".join(waiting), plain, compressor, writer)
    writer.write(compressor.flush())
    writer.sync()
    return f"sha256:{plain.hexdigest()}"


def _write_batch(data: bytes, plain: "hashlib._Hash", compressor: Compressor, writer: Writer) -> None:
    plain.update(data)
    compressed = compressor.compress(data)
    if compressed:
        writer.write(compressed)


def _is_base(lower: Sequence[Mount], upper: Sequence[Mount]) -> bool:
    """Whether `upper` is a writable overlay whose lower directories are exactly what `lower` shows."""
    if len(lower) != 1 or len(upper) != 1 or upper[0].type != "overlay" or upper[0].option("upperdir") is None:
        return False
    base = lower[0]
    if base.type == "overlay":
        below = [*filter(None, [base.option("upperdir")]), *lower_directories(base)]
    else:
        below = [base.source]
    return below == lower_directories(upper[0])
