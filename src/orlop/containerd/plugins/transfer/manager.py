# SPDX-License-Identifier: Apache-2.0
"""Carries out transfers: which operation a source and a destination make, and what it works with.

The operations are the client library's, over the daemon's own socket (bytes aside): a pull by the daemon and one
by a client are the same code, and what each step may do is checked in one place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.api import transfer_types_pb2 as pb
from orlop.containerd.client import typeurl
from orlop.containerd.client.fetch import Downloads
from orlop.containerd.client.unpack import KeyedLocks
from orlop.containerd.plugins.transfer import archives, registries
from orlop.containerd.plugins.transfer.registry import registry_endpoint
from orlop.errdefs import NotImplementedByUsError

if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any

    from orlop.containerd.core.namespaces import Scope
    from orlop.containerd.core.streams import StreamGetter
    from orlop.containerd.plugins.transfer.loopback import LoopbackClient
    from orlop.containerd.plugins.transfer.progress import ProgressReporter

_TYPES = {
    message.DESCRIPTOR.full_name: message
    for message in (pb.OCIRegistry, pb.ImageStore, pb.ImageImportStream, pb.ImageExportStream)
}


class Transfers:
    """The transfers of a daemon."""

    def __init__(
        self, client: LoopbackClient, streams: StreamGetter, default_snapshotter: str, downloads: int
    ) -> None:
        """`downloads` is how many blobs come at a time in one namespace."""
        self._client = client
        self._streams = streams
        self._snapshotter = default_snapshotter
        self._downloads = downloads
        self._shared: dict[str, registries.Shared] = {}

    async def close(self) -> None:
        """Close the connection; transfers under way fail."""
        await self._client.close()

    async def transfer(self, scope: Scope, source: Any, destination: Any, progress: ProgressReporter) -> None:
        """Carry out one transfer.

        Raises NotImplementedByUsError for a pair that makes no transfer, NotFoundError for a stream or image that
        is not there, and what the operation raises.
        """
        client = self._client.with_namespace(scope.namespace)
        if scope.lease:
            client = client.with_lease(scope.lease)
        streams, namespace = self._streams, scope.namespace
        match _unpacked(source), _unpacked(destination):
            case pb.OCIRegistry() as remote, pb.ImageStore() as store:
                shared = self._shared_in(namespace)
                async with registry_endpoint(remote, streams, namespace) as endpoint:
                    await registries.pull_image(client, endpoint, store, progress, shared, self._snapshotter)
            case pb.ImageStore() as store, pb.OCIRegistry() as remote:
                async with registry_endpoint(remote, streams, namespace) as endpoint:
                    await registries.push_image(client, store, endpoint, progress)
            case pb.ImageStore() as store, pb.ImageStore() as other:
                await registries.tag_image(client, store, other)
            case pb.ImageStore() as store, pb.ImageExportStream() as archive:
                stream = streams.get(namespace, archive.stream)
                await archives.export_images(client, store, archive, stream, progress)
            case pb.ImageImportStream() as archive, pb.ImageStore() as store:
                stream = streams.get(namespace, archive.stream)
                await archives.import_images(client, archive, stream, store, progress, self._snapshotter)
            case pb.ImageImportStream() as archive, pb.ImageExportStream() as copy:
                await archives.echo(streams.get(namespace, archive.stream), streams.get(namespace, copy.stream))
            case _:
                raise NotImplementedByUsError(
                    f"method Transfer not implemented for {source.type_url} to {destination.type_url}"
                )

    def _shared_in(self, namespace: str) -> registries.Shared:
        if namespace not in self._shared:
            self._shared[namespace] = registries.Shared(Downloads(self._downloads), KeyedLocks())
        return self._shared[namespace]


def _unpacked(message: Any) -> object:
    kind = _TYPES.get(typeurl.name(message))
    return typeurl.unpack(message, kind) if kind is not None else None
