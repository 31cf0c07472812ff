# SPDX-License-Identifier: Apache-2.0
"""The gRPC services of a daemon but those of its storage, and how a server comes to serve them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from orlop.api.containers_pb2_grpc import add_ContainersServicer_to_server
from orlop.api.events_service_pb2_grpc import add_EventsServicer_to_server
from orlop.api.health_pb2_grpc import add_HealthServicer_to_server
from orlop.api.introspection_pb2_grpc import add_IntrospectionServicer_to_server
from orlop.api.sandbox_pb2_grpc import add_ControllerServicer_to_server
from orlop.api.streaming_pb2_grpc import add_StreamingServicer_to_server
from orlop.api.tasks_pb2_grpc import add_TasksServicer_to_server
from orlop.api.transfer_pb2_grpc import add_TransferServicer_to_server
from orlop.api.version_pb2_grpc import add_VersionServicer_to_server

if TYPE_CHECKING:
    from orlop.containerd.services.containers import ContainersService
    from orlop.containerd.services.events import EventsService
    from orlop.containerd.services.health import HealthService
    from orlop.containerd.services.introspection import IntrospectionService
    from orlop.containerd.services.sandboxes import SandboxControllerService
    from orlop.containerd.services.streaming import StreamingService
    from orlop.containerd.services.tasks import TasksService
    from orlop.containerd.services.transfer import TransferService
    from orlop.containerd.services.version import VersionService


class Services(NamedTuple):
    """One of each."""

    containers: ContainersService
    events: EventsService
    tasks: TasksService
    sandboxes: SandboxControllerService
    streaming: StreamingService
    transfer: TransferService
    version: VersionService
    health: HealthService
    introspection: IntrospectionService


def register(server: Any, services: Services) -> None:
    """Let a `Server` serve them (the types of generated code know grpcio's alone)."""
    add_ContainersServicer_to_server(services.containers, server)
    add_EventsServicer_to_server(services.events, server)
    add_TasksServicer_to_server(services.tasks, server)
    add_ControllerServicer_to_server(services.sandboxes, server)
    add_StreamingServicer_to_server(services.streaming, server)
    add_TransferServicer_to_server(services.transfer, server)
    add_VersionServicer_to_server(services.version, server)
    add_HealthServicer_to_server(services.health, server)
    add_IntrospectionServicer_to_server(services.introspection, server)
