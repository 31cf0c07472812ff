# SPDX-License-Identifier: Apache-2.0
"""The Containers service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.empty_pb2 import Empty

from orlop.api import containers_pb2 as pb
from orlop.api import events_pb2 as events_pb
from orlop.api.containers_pb2_grpc import ContainersServicer
from orlop.containerd.core.namespaces import scope_of
from orlop.errdefs import InvalidArgumentError
from orlop.rpc.logentry import varint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orlop.containerd.core.containers import ContainerStore
    from orlop.containerd.core.events import EventPublisher


class ContainersService(ContainersServicer):
    """Translates requests into calls of the container store, and tells of what changed."""

    def __init__(self, store: ContainerStore, events: EventPublisher) -> None:
        self._store = store
        self._events = events

    def Get(self, request: pb.GetContainerRequest, context: Any) -> pb.GetContainerResponse:
        """One record."""
        namespace = scope_of(context.invocation_metadata()).namespace
        return pb.GetContainerResponse(container=self._store.get(namespace, request.id))

    def List(self, request: pb.ListContainersRequest, context: Any) -> bytes:  # type: ignore[override]
        """All records that match: a ListContainersResponse."""
        namespace = scope_of(context.invocation_metadata()).namespace
        return b"".join(map(_first_field, self._store.encoded(namespace, request.filters)))

    async def ListStream(  # type: ignore[override]
        self, request: pb.ListContainersRequest, context: Any
    ) -> AsyncIterator[bytes]:
        """All records that match, one a message: a ListContainerMessage."""
        namespace = scope_of(context.invocation_metadata()).namespace
        for record in self._store.encoded(namespace, request.filters):
            yield _first_field(record)

    def Create(self, request: pb.CreateContainerRequest, context: Any) -> pb.CreateContainerResponse:
        """Store a record."""
        namespace = scope_of(context.invocation_metadata()).namespace
        made = self._store.create(namespace, request.container)
        runtime = events_pb.ContainerCreate.Runtime(name=made.runtime.name)
        if made.runtime.HasField("options"):
            runtime.options.CopyFrom(made.runtime.options)
        event = events_pb.ContainerCreate(id=made.id, image=made.image, runtime=runtime)
        self._events.publish(namespace, "/containers/create", event)
        return pb.CreateContainerResponse(container=made)

    def Update(self, request: pb.UpdateContainerRequest, context: Any) -> pb.UpdateContainerResponse:
        """Change a record."""
        namespace = scope_of(context.invocation_metadata()).namespace
        if not request.container.id:
            raise InvalidArgumentError("container.id required")
        made = self._store.update(namespace, request.container, request.update_mask.paths)
        event = events_pb.ContainerUpdate(
            id=made.id, image=made.image, labels=made.labels, snapshot_key=made.snapshot_key
        )
        self._events.publish(namespace, "/containers/update", event)
        return pb.UpdateContainerResponse(container=made)

    def Delete(self, request: pb.DeleteContainerRequest, context: Any) -> Empty:
        """Remove a record."""
        namespace = scope_of(context.invocation_metadata()).namespace
        self._store.delete(namespace, request.id)
        self._events.publish(namespace, "/containers/delete", events_pb.ContainerDelete(id=request.id))
        return Empty()


def _first_field(message: bytes) -> bytes:
    """A message as it is written where it is the first field of another, or one of that list."""
    return b"\x0a" + varint(len(message)) + message
