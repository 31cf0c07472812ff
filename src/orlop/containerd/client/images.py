# SPDX-License-Identifier: Apache-2.0
"""Typed calls of the Images and Leases services: names for content, and what the collector must keep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.field_mask_pb2 import FieldMask

from orlop.api import images_pb2 as pb
from orlop.api import leases_pb2 as leases_pb
from orlop.api.images_pb2_grpc import ImagesStub
from orlop.api.leases_pb2_grpc import LeasesStub
from orlop.containerd.client.base import Metadata, Service

if TYPE_CHECKING:
    import builtins
    from collections.abc import Mapping

    import grpc.aio

    from orlop.api.types_pb2 import Descriptor


class Images(Service):
    """Image records: a name and the descriptor of a manifest or index."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        super().__init__(channel, metadata)
        self._stub = ImagesStub(channel)

    async def get(self, name: str) -> pb.Image:
        """Raises NotFoundError."""
        return (await self._call(self._stub.Get, pb.GetImageRequest(name=name))).image

    async def list(self, *filters: str) -> builtins.list[pb.Image]:
        """The images that match any of the filters, all if none is given."""
        return list((await self._call(self._stub.List, pb.ListImagesRequest(filters=filters))).images)

    async def create(self, name: str, target: Descriptor, labels: Mapping[str, str] | None = None) -> pb.Image:
        """Raises AlreadyExistsError, InvalidArgumentError."""
        image = pb.Image(name=name, target=target, labels=labels or {})
        return (await self._call(self._stub.Create, pb.CreateImageRequest(image=image))).image

    async def update(self, image: pb.Image, *paths: str) -> pb.Image:
        """Replace the named fields (`target`, `labels`, `labels.NAME`), or all if none is named.

        Raises NotFoundError.
        """
        mask = FieldMask(paths=paths) if paths else None
        image.target.SetInParent()  # containerd 1.7 dies of a message without one
        request = pb.UpdateImageRequest(image=image, update_mask=mask)
        return (await self._call(self._stub.Update, request)).image

    async def delete(self, name: str, *, sync: bool = False) -> None:
        """Remove the record, and with `sync` wait until what it alone kept is collected. Raises NotFoundError."""
        await self._call(self._stub.Delete, pb.DeleteImageRequest(name=name, sync=sync))


class Leases(Service):
    """Leases: while one exists, the collector keeps what was made under it and what was added to it.

    `Client.with_lease` makes a client whose calls all happen under a lease.
    """

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        super().__init__(channel, metadata)
        self._stub = LeasesStub(channel)

    async def create(self, id: str, labels: Mapping[str, str] | None = None) -> leases_pb.Lease:
        """Raises AlreadyExistsError. The label `containerd.io/gc.expire` (RFC 3339) ends the lease by itself."""
        request = leases_pb.CreateRequest(id=id, labels=labels or {})
        return (await self._call(self._stub.Create, request)).lease

    async def delete(self, id: str, *, sync: bool = False) -> None:
        """End the lease, and with `sync` wait until what it alone kept is collected. Raises NotFoundError."""
        await self._call(self._stub.Delete, leases_pb.DeleteRequest(id=id, sync=sync))

    async def list(self, *filters: str) -> builtins.list[leases_pb.Lease]:
        """The leases that match any of the filters, all if none is given."""
        return list((await self._call(self._stub.List, leases_pb.ListRequest(filters=filters))).leases)

    async def add_resource(self, id: str, type: str, resource: str) -> None:
        """Keep a resource: type `content`, `snapshots/NAME` or `ingests`. Raises NotFoundError."""
        request = leases_pb.AddResourceRequest(id=id, resource=leases_pb.Resource(id=resource, type=type))
        await self._call(self._stub.AddResource, request)

    async def delete_resource(self, id: str, type: str, resource: str) -> None:
        """Keep it no longer. Raises NotFoundError."""
        request = leases_pb.DeleteResourceRequest(id=id, resource=leases_pb.Resource(id=resource, type=type))
        await self._call(self._stub.DeleteResource, request)

    async def resources(self, id: str) -> builtins.list[leases_pb.Resource]:
        """What the lease keeps. Raises NotFoundError."""
        request = leases_pb.ListResourcesRequest(id=id)
        return list((await self._call(self._stub.ListResources, request)).resources)
