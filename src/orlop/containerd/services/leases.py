# SPDX-License-Identifier: Apache-2.0
"""containerd.services.leases.v1: translation to the lease manager."""

from collections.abc import Coroutine
from typing import Any

from google.protobuf.empty_pb2 import Empty

from orlop.api import leases_pb2 as pb
from orlop.api.leases_pb2_grpc import LeasesServicer
from orlop.containerd.core.leases import Lease, Resource
from orlop.containerd.core.namespaces import scope_of
from orlop.containerd.metadata.gc import GarbageCollector
from orlop.containerd.metadata.leases import BoundLeases, MetadataLeases
from orlop.containerd.services.times import to_timestamp


class LeasesService(LeasesServicer):
    """Leases of the caller's namespace."""

    def __init__(self, leases: MetadataLeases, gc: GarbageCollector) -> None:
        self._leases = leases
        self._gc = gc

    def Create(self, request: pb.CreateRequest, context: Any) -> pb.CreateResponse:
        """Make a lease."""
        return pb.CreateResponse(lease=_message(self._bind(context).create(request.id, dict(request.labels))))

    def Delete(self, request: pb.DeleteRequest, context: Any) -> Empty | Coroutine[Any, Any, Empty]:
        """Remove a lease; with `sync` what it held is collected before the answer."""
        self._bind(context).delete(request.id)
        if request.sync:
            return self._collected()
        self._gc.deleted()
        return Empty()

    async def _collected(self) -> Empty:
        await self._gc.collect_and_wait()
        return Empty()

    def List(self, request: pb.ListRequest, context: Any) -> pb.ListResponse:
        """The leases that match."""
        leases = self._bind(context).list(tuple(request.filters))
        return pb.ListResponse(leases=[_message(lease) for lease in leases])

    def AddResource(self, request: pb.AddResourceRequest, context: Any) -> Empty:
        """Hold a resource."""
        self._bind(context).add_resource(request.id, Resource(request.resource.type, request.resource.id))
        return Empty()

    def DeleteResource(self, request: pb.DeleteResourceRequest, context: Any) -> Empty:
        """Let a resource go."""
        self._bind(context).delete_resource(request.id, Resource(request.resource.type, request.resource.id))
        self._gc.deleted()
        return Empty()

    def ListResources(self, request: pb.ListResourcesRequest, context: Any) -> pb.ListResourcesResponse:
        """What a lease holds."""
        resources = self._bind(context).list_resources(request.id)
        return pb.ListResourcesResponse(resources=[pb.Resource(id=one.id, type=one.type) for one in resources])

    def _bind(self, context: Any) -> BoundLeases:
        return self._leases.bind(scope_of(context.invocation_metadata()))


def _message(lease: Lease) -> pb.Lease:
    return pb.Lease(id=lease.id, created_at=to_timestamp(lease.created), labels=lease.labels)
