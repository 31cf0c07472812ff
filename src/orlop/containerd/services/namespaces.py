# SPDX-License-Identifier: Apache-2.0
"""containerd.services.namespaces.v1: translation to the namespace store."""

from typing import Any

from google.protobuf.empty_pb2 import Empty

from orlop.api import namespaces_pb2 as pb
from orlop.api.namespaces_pb2_grpc import NamespacesServicer
from orlop.containerd.core.namespaces import Namespace, NamespaceStore
from orlop.errdefs import NotFoundError


class NamespacesService(NamespacesServicer):
    """Namespaces are not namespaced: these calls need no namespace in their metadata."""

    def __init__(self, store: NamespaceStore) -> None:
        self._store = store

    def Get(self, request: pb.GetNamespaceRequest, context: Any) -> pb.GetNamespaceResponse:
        """One namespace. One that nobody made answers without labels, as containerd's does."""
        try:
            namespace = self._store.get(request.name)
        except NotFoundError:
            namespace = Namespace(request.name, {})
        return pb.GetNamespaceResponse(namespace=_message(namespace))

    def List(self, request: pb.ListNamespacesRequest, context: Any) -> pb.ListNamespacesResponse:
        """All namespaces; containerd ignores the filter too."""
        return pb.ListNamespacesResponse(namespaces=[_message(one) for one in self._store.list()])

    def Create(self, request: pb.CreateNamespaceRequest, context: Any) -> pb.CreateNamespaceResponse:
        """Make a namespace."""
        created = self._store.create(request.namespace.name, dict(request.namespace.labels))
        return pb.CreateNamespaceResponse(namespace=_message(created))

    def Update(self, request: pb.UpdateNamespaceRequest, context: Any) -> pb.UpdateNamespaceResponse:
        """Set labels."""
        wanted = request.namespace
        updated = self._store.update(wanted.name, dict(wanted.labels), tuple(request.update_mask.paths))
        return pb.UpdateNamespaceResponse(namespace=_message(updated))

    def Delete(self, request: pb.DeleteNamespaceRequest, context: Any) -> Empty:
        """Remove an empty namespace."""
        self._store.delete(request.name)
        return Empty()


def _message(namespace: Namespace) -> pb.Namespace:
    return pb.Namespace(name=namespace.name, labels=namespace.labels)
