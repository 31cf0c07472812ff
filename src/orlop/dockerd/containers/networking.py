# SPDX-License-Identifier: Apache-2.0
"""Put a container into a network, and take it out again, whether it runs or not."""

import os
from functools import partial

import msgspec

from orlop.dockerd.containers.container import Container
from orlop.dockerd.containers.paths import Paths
from orlop.dockerd.containers.ports import Memberships
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.containers.resources import Resources
from orlop.dockerd.containers.rewriting import rewrite
from orlop.dockerd.events import Events
from orlop.dockerd.network.files import without_address
from orlop.engine.types import EndpointSettings
from orlop.errdefs import ConflictError, InternalError, InvalidArgumentError, NotFoundError


class Networking:
    """The two use cases. A container that does not run is connected at its next start."""

    def __init__(
        self, registry: Registry, networks: Memberships, resources: Resources, paths: Paths, events: Events
    ) -> None:
        self._registry = registry
        self._networks = networks
        self._resources = resources
        self._paths = paths
        self._events = events

    async def connect(self, network: str, reference: str, settings: EndpointSettings) -> None:
        """POST /networks/{id}/connect. Raises NotFoundError, InvalidArgumentError, PermissionDeniedError."""
        container = self._registry.get(reference)
        async with container.lock:
            _check(container)
            found = self._networks.find_network(network, settings)
            self._check_mode(container, found["Driver"])
            if not _has_sandbox(container):
                settings.network_id = found["Id"]
                container.record.endpoints[found["Name"]] = settings
            else:
                await self._attach(container, found["Id"], settings)
                self._tell("connect", container, found["Name"], found["Id"], found["Driver"])
            self._registry.save(container)

    async def disconnect(self, network: str, reference: str, *, force: bool = False) -> None:
        """POST /networks/{id}/disconnect; `force` also where one of them is gone. Raises NotFoundError …"""
        try:
            container = self._registry.get(reference)
        except NotFoundError:
            if not force:
                raise
            await self._networks.force_detach(network, reference)
            return
        async with container.lock:
            _check(container)
            try:
                found = self._networks.find_network(network)
            except NotFoundError:
                if not force:
                    raise
                found = {"Name": network, "Id": "", "Driver": "bridge"}
            name, record = found["Name"], container.record
            if not _has_sandbox(container) or not found["Id"]:
                if name not in record.endpoints:
                    raise InternalError(f"container {record.id} is not connected to the network {name}")
                del record.endpoints[name]
            else:
                await self._detach(container, found["Id"])
                self._tell("disconnect", container, name, found["Id"], found["Driver"])
            self._registry.save(container)

    async def _attach(self, container: Container, network_id: str, settings: EndpointSettings) -> None:
        record = container.record
        attached = await self._networks.attach(self._resources.sandbox_request(record), network_id, settings)
        record.endpoints[attached.name] = attached.settings
        record.network.ports = msgspec.to_builtins(attached.ports)
        # The files are mounted into the container: written in place, never replaced.
        resolv_conf = self._paths.file(record.id, "resolv.conf")
        if attached.resolv_conf and os.stat(resolv_conf).st_mtime_ns <= record.state.started_at:  # not its own one
            rewrite(resolv_conf, lambda _: attached.resolv_conf)
        with open(self._paths.file(record.id, "hosts"), "a", encoding="utf-8") as hosts:
            hosts.write(attached.hosts_lines)

    async def _detach(self, container: Container, network_id: str) -> None:
        record = container.record
        detached = await self._networks.detach(record.id, network_id)
        record.endpoints.pop(detached.name, None)
        record.network.ports = msgspec.to_builtins(detached.ports)
        for address in detached.addresses:
            rewrite(self._paths.file(record.id, "hosts"), partial(without_address, address=address))

    def _check_mode(self, container: Container, driver: str) -> None:
        mode = container.record.host_config.network_mode
        if mode.startswith("container:") or mode == "host":
            raise InvalidArgumentError(
                "container sharing network namespace with another container or host cannot be connected to any "
                "other network"
            )
        if driver == "host":
            raise InvalidArgumentError(
                "cannot connect container to host network - container must be created in host network mode"
            )
        if (driver == "null" or "none" in container.record.endpoints) and container.record.endpoints:
            raise InvalidArgumentError(
                "container cannot be connected to multiple networks with one of the networks in private (none) "
                "mode"
            )

    def _tell(self, action: str, container: Container, name: str, network_id: str, driver: str) -> None:
        about = {"container": container.id, "name": name, "type": driver}
        self._events.publish("network", action, network_id, about)


def _check(container: Container) -> None:
    state = container.record.state
    if state.removing or state.dead:
        raise ConflictError(
            f"Container {container.id} is marked for removal and cannot be connected or disconnected to the "
            "network"
        )


def _has_sandbox(container: Container) -> bool:
    """Whether it runs, and is not waiting for its restart policy's next attempt."""
    return container.record.state.running and not container.record.state.restarting
