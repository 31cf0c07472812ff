# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of tasks in the content store: a tar of what the runtime wrote, and the container's spec."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from typing import TYPE_CHECKING

from orlop.archive.extract import Extractor, extract_all
from orlop.containerd.archive.changes import write_changes
from orlop.containerd.core.diff import Descriptor
from orlop.containerd.threads import in_thread
from orlop.errdefs import AlreadyExistsError, InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor

    from google.protobuf.any_pb2 import Any

    from orlop.containerd.core.namespaces import Scope
    from orlop.containerd.metadata.content import MetadataContent

CHECKPOINT = "application/vnd.containerd.container.criu.checkpoint.criu.tar"
CONFIG = "application/vnd.containerd.container.checkpoint.config.v1+proto"
_DIRECTORY = "checkpoints"
_CHUNK = 1 << 20


class Checkpoints:
    """Where checkpoints are written before they are content, and read from it again."""

    def __init__(self, state: str, content: MetadataContent, workers: Executor) -> None:
        self._base = os.path.join(state, _DIRECTORY)
        self._content = content
        self._workers = workers
        shutil.rmtree(self._base, ignore_errors=True)  # what a daemon that died was writing

    @contextlib.contextmanager
    def directory(self) -> Iterator[str]:
        """A directory for a runtime to write a checkpoint into; removed with the block."""
        os.makedirs(self._base, 0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._base) as path:
            yield path

    async def store(self, scope: Scope, directory: str, spec: Any) -> list[Descriptor]:
        """Make content of a checkpoint: descriptors of the tar and of the spec. The caller's lease holds them."""

        def tar() -> Iterator[bytes]:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                yield from write_changes(None, fd)
            finally:
                os.close(fd)

        return [
            await self._write(scope, CHECKPOINT, tar()),
            await self._write(scope, CONFIG, [spec.SerializeToString()]),
        ]

    async def _write(self, scope: Scope, media_type: str, data: Iterable[bytes]) -> Descriptor:
        store = self._content.bind(scope)
        ref = f"checkpoint-{os.urandom(8).hex()}"
        writer = store.writer(ref)

        def copy() -> None:
            for piece in data:
                writer.write(piece)
            writer.sync()

        try:
            await in_thread(self._workers, copy)
            size, digest = writer.status().offset, writer.digest()
            with contextlib.suppress(AlreadyExistsError):
                writer.commit(size, digest)
        except BaseException:
            writer.close()
            with contextlib.suppress(NotFoundError):
                store.abort(ref)
            raise
        return Descriptor(media_type, digest, size)

    async def restore(self, scope: Scope, checkpoint: Descriptor, directory: str) -> None:
        """Unpack a checkpoint into a new directory. Raises NotFoundError, InvalidArgumentError."""
        if checkpoint.media_type != CHECKPOINT:
            raise InvalidArgumentError(f'unsupported checkpoint type "{checkpoint.media_type}"')
        reader = self._content.bind(scope).reader(checkpoint.digest)

        def unpack() -> None:
            os.mkdir(directory, 0o700)
            root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                extract_all(_pieces(reader.read_at), Extractor(root))
            finally:
                os.close(root)

        try:
            await in_thread(self._workers, unpack)
        finally:
            reader.close()


def _pieces(read_at: Callable[[int, int], bytes]) -> Iterator[bytes]:
    offset = 0
    while data := read_at(offset, _CHUNK):
        yield data
        offset += len(data)
