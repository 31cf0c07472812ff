# SPDX-License-Identifier: Apache-2.0
"""Typed calls of the Containers and Namespaces services."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.field_mask_pb2 import FieldMask

from orlop.api import containers_pb2 as pb
from orlop.api import namespaces_pb2 as namespaces_pb
from orlop.api.containers_pb2_grpc import ContainersStub
from orlop.api.namespaces_pb2_grpc import NamespacesStub
from orlop.containerd.client.base import Metadata, Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    import grpc.aio


class Containers(Service):
    """Container records: the spec, the snapshot and the runtime that a task is made from."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        super().__init__(channel, metadata)
        self._stub = ContainersStub(channel)

    async def create(self, container: pb.Container) -> pb.Container:
        """Store the record; the answer carries its times. Raises AlreadyExistsError, InvalidArgumentError."""
        request = pb.CreateContainerRequest(container=container)
        return (await self._call(self._stub.Create, request)).container

    async def get(self, id: str) -> pb.Container:
        """The record of that id. Raises NotFoundError."""
        return (await self._call(self._stub.Get, pb.GetContainerRequest(id=id))).container

    async def list(self, *filters: str) -> list[pb.Container]:
        """The records that match any of the filters, all if none is given (one answer: up to 16 MiB in total)."""
        request = pb.ListContainersRequest(filters=filters)
        return list((await self._call(self._stub.List, request)).containers)

    async def stream(self, *filters: str) -> AsyncIterator[pb.Container]:
        """As `list`, one by one and without a limit."""
        request = pb.ListContainersRequest(filters=filters)
        async for answer in self._stream(self._stub.ListStream, request):
            yield answer.container

    async def update(self, container: pb.Container, *paths: str) -> pb.Container:
        """Replace the named fields (`labels`, `labels.NAME`, `spec`, `image` …), or all that may change if none
        is named. Raises NotFoundError, InvalidArgumentError."""
        mask = FieldMask(paths=paths) if paths else None
        request = pb.UpdateContainerRequest(container=container, update_mask=mask)
        return (await self._call(self._stub.Update, request)).container

    async def delete(self, id: str) -> None:
        """Remove the record. Raises NotFoundError."""
        await self._call(self._stub.Delete, pb.DeleteContainerRequest(id=id))


class Namespaces(Service):
    """The namespaces that keep the objects of several users apart."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        super().__init__(channel, metadata)
        self._stub = NamespacesStub(channel)

    async def get(self, name: str) -> namespaces_pb.Namespace:
        """Raises NotFoundError."""
        request = namespaces_pb.GetNamespaceRequest(name=name)
        return (await self._call(self._stub.Get, request)).namespace

    async def list(self) -> list[namespaces_pb.Namespace]:
        """All namespaces, in order of their names."""
        return list((await self._call(self._stub.List, namespaces_pb.ListNamespacesRequest())).namespaces)

    async def create(self, name: str, labels: Mapping[str, str] | None = None) -> namespaces_pb.Namespace:
        """Raises AlreadyExistsError, InvalidArgumentError."""
        namespace = namespaces_pb.Namespace(name=name, labels=labels or {})
        request = namespaces_pb.CreateNamespaceRequest(namespace=namespace)
        return (await self._call(self._stub.Create, request)).namespace

    async def update(
        self, name: str, labels: Mapping[str, str], paths: Iterable[str] = ("labels",)
    ) -> namespaces_pb.Namespace:
        """Replace the labels, or only those named by `labels.NAME`. Raises NotFoundError."""
        namespace = namespaces_pb.Namespace(name=name, labels=labels)
        request = namespaces_pb.UpdateNamespaceRequest(namespace=namespace, update_mask=FieldMask(paths=paths))
        return (await self._call(self._stub.Update, request)).namespace

    async def delete(self, name: str) -> None:
        """Raises NotFoundError, and FailedPreconditionError while anything is in it."""
        await self._call(self._stub.Delete, namespaces_pb.DeleteNamespaceRequest(name=name))
