# SPDX-License-Identifier: Apache-2.0
"""containerd.services.transfer.v1: images between registries, archives and the image store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.empty_pb2 import Empty

from orlop.api.transfer_pb2_grpc import TransferServicer
from orlop.containerd.core.namespaces import scope_of

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from orlop.api.transfer_pb2 import TransferRequest
    from orlop.containerd.metadata.content import MetadataContent
    from orlop.containerd.plugins.streams import StreamManager
    from orlop.containerd.plugins.transfer.manager import Transfers


class TransferService(TransferServicer):
    """Loads what transfers need (a registry client) at the first one."""

    def __init__(
        self,
        address: str,
        content: MetadataContent,
        workers: Executor,
        streams: StreamManager,
        default_snapshotter: str,
        downloads: int,
    ) -> None:
        """`address` is the daemon's own socket."""
        self._address = address
        self._content = content
        self._workers = workers
        self._streams = streams
        self._snapshotter = default_snapshotter
        self._downloads = downloads
        self._transfers: Transfers | None = None

    async def Transfer(self, request: TransferRequest, context: Any) -> Empty:
        """Carry out one transfer; progress goes to the stream that the options name."""
        from orlop.containerd.plugins.transfer.progress import ProgressReporter

        scope = scope_of(context.invocation_metadata())
        name = request.options.progress_stream
        progress = ProgressReporter(self._streams.get(scope.namespace, name) if name else None)
        try:
            await self._manager().transfer(scope, request.source, request.destination, progress)
        finally:
            await progress.finish()
        return Empty()

    def _manager(self) -> Transfers:
        if self._transfers is None:
            from orlop.containerd.plugins.transfer.loopback import LoopbackClient
            from orlop.containerd.plugins.transfer.manager import Transfers

            client = LoopbackClient(self._address, self._content, self._workers)
            self._transfers = Transfers(client, self._streams, self._snapshotter, self._downloads)
        return self._transfers

    async def close(self) -> None:
        """Let go of the daemon's own socket."""
        if self._transfers is not None:
            await self._transfers.close()
