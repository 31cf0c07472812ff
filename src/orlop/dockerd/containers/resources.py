# SPDX-License-Identifier: Apache-2.0
"""What a run of a container holds besides its task - network, volumes, /dev/shm - taken and given back."""

import asyncio
import os
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from orlop.dockerd.containers.container import Container
from orlop.dockerd.containers.links import Links
from orlop.dockerd.containers.model import ContainerRecord, NetworkState
from orlop.dockerd.containers.paths import Paths
from orlop.dockerd.containers.ports import Networks, Volumes
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.containers.remapping import joined_namespace
from orlop.dockerd.containers.shared_memory import mount_shm, unmount_shm
from orlop.dockerd.events import Events
from orlop.dockerd.network.requests import is_derived
from orlop.dockerd.network.types import Sandbox, SandboxRequest
from orlop.dockerd.spec.mountpoint import MountPoint
from orlop.engine.types import EndpointSettings, HostConfig
from orlop.errdefs import ConflictError, InternalError, InvalidArgumentError, OrlopError


class Namespaces(NamedTuple):
    """Paths of namespaces to join and of the files that go with them; empty: none."""

    network: str = ""
    pid: str = ""
    ipc: str = ""
    shm: str = ""
    hostname_file: str = ""
    hosts_file: str = ""
    resolv_conf_file: str = ""


class Resources:
    """Takes and gives back. Giving back is idempotent: it is also what settles the traces of a crash."""

    def __init__(
        self,
        registry: Registry,
        networks: Networks,
        volumes: Volumes,
        paths: Paths,
        events: Events,
        owner: tuple[int, int] = (0, 0),
    ) -> None:
        self._registry = registry
        self._events = events
        self._networks = networks
        self._volumes = volumes
        self._paths = paths
        self._links = Links(registry, paths)
        self._owner = owner

    async def take(self, container: Container, netns_origin: str = "") -> Namespaces:
        """Network sandbox, volumes and shared memory for a run, all at once.

        `netns_origin` is the path of a new network namespace to take, where none is to be made.
        On error what was taken is still to be given back. Raises OrlopError, with Docker's words for the network.
        """
        record = container.record
        self._paths.volatile(record.id).mkdir(mode=0o700, parents=True, exist_ok=True)
        pid = self._joined(record.host_config.pid_mode, "pid")
        ipc, shm = self._ipc(record)
        tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._network(record, netns_origin))]
        volumes = [point.name for point in record.mounts if point.type == "volume"]
        if volumes:
            tasks.append(asyncio.ensure_future(self._mount_volumes(record)))
        done = await asyncio.gather(*tasks, return_exceptions=True)
        for result in done:
            if isinstance(result, BaseException):
                raise result
        sandbox = done[0]
        assert isinstance(sandbox, Sandbox)
        record.endpoints = sandbox.endpoints or record.endpoints
        self._tell("connect", "mount", record)
        if "bridge" in record.endpoints:
            self._links.tell(record)
        record.network = NetworkState(
            sandbox_id=sandbox.sandbox_id,
            sandbox_key=sandbox.sandbox_key,
            ports=msgspec.to_builtins(sandbox.ports),
        )
        return Namespaces(sandbox.netns_path or "", pid, ipc, shm, *self._write_files(record, sandbox))

    def shared_user(self, host_config: HostConfig) -> str:
        """The user namespace of the container whose PID or IPC namespace is shared, a path; empty without one.

        Raises NotFoundError, ConflictError for one that does not run.
        """
        return joined_namespace(
            self._joined(host_config.pid_mode, "pid"), self._joined(host_config.ipc_mode, "ipc")
        )

    def link_variables(self, record: ContainerRecord) -> list[str]:
        """The environment that legacy links bring. Raises ConflictError for a container that does not run."""
        return self._links.variables(record)

    async def give_back(self, container: Container) -> None:
        """Undo `take`. Raises the first error after having tried everything."""
        record = container.record
        self._tell("disconnect", "unmount", record)
        record.network = NetworkState()
        for settings in record.endpoints.values():
            _forget(settings)
        tasks = [asyncio.ensure_future(self._networks.release(record.id))]
        volumes = [point.name for point in record.mounts if point.type == "volume"]
        if volumes:
            tasks.append(asyncio.ensure_future(self._unmount_volumes(volumes, record.id)))
        done = await asyncio.gather(*tasks, return_exceptions=True)
        if record.host_config.ipc_mode == "shareable":
            unmount_shm(self._paths.shm(record.id))
        for result in done:
            if isinstance(result, BaseException):
                raise result

    def _tell(self, network_action: str, volume_action: str, record: ContainerRecord) -> None:
        for name, settings in record.endpoints.items():
            if settings.network_id and settings.endpoint_id:
                kind = self._networks.driver_of(settings.network_id)
                about = {"container": record.id, "name": name, "type": kind}
                self._events.publish("network", network_action, settings.network_id, about)
        for point in record.mounts:
            if point.type == "volume":
                about = {"container": record.id, "driver": point.driver}
                if volume_action == "mount":
                    writable = "true" if point.rw else "false"
                    about |= {"destination": point.destination, "read/write": writable, "propagation": ""}
                self._events.publish("volume", volume_action, point.name, about)

    # -- network

    async def _network(self, record: ContainerRecord, netns_origin: str) -> Sandbox:
        request = self.sandbox_request(record)
        request.netns_origin = netns_origin
        try:
            return await self._networks.connect(request)
        except OrlopError as error:
            raise type(error)(f"failed to set up container networking: {error}") from error

    def sandbox_request(self, record: ContainerRecord) -> SandboxRequest:
        """What a container wants of the network. Raises ConflictError for others that it needs and do not run."""
        host_config, config = record.host_config, record.config
        mode = "none" if config.network_disabled else host_config.network_mode
        links = host_config.links or []
        on_bridge = mode in ("bridge", "default", "")
        return SandboxRequest(
            container_id=record.id,
            name=record.name,
            hostname=config.hostname,
            domainname=config.domainname,
            mode=mode,
            netns_path=self._joined(mode, "net"),
            endpoints=record.endpoints,
            port_bindings=host_config.port_bindings,
            exposed_ports=list(config.exposed_ports),
            publish_all=host_config.publish_all_ports,
            dns=host_config.dns or [],
            dns_search=host_config.dns_search or [],
            dns_options=host_config.dns_options or [],
            extra_hosts=host_config.extra_hosts or [],
            links=links,
            link_hosts=self._links.hosts(links) if on_bridge else [],
            linked=self._links.ids(links) if on_bridge else [],
        )

    def _write_files(self, record: ContainerRecord, sandbox: Sandbox) -> tuple[str, str, str]:
        mode = record.host_config.network_mode
        if mode.startswith("container:"):
            other = self._registry.get(mode.partition(":")[2]).id
            return (
                self._paths.file(other, "hostname"),
                self._paths.file(other, "hosts"),
                self._paths.file(other, "resolv.conf"),
            )
        hostname = record.config.hostname
        if record.config.domainname:
            hostname = f"{hostname}.{record.config.domainname}"
        return (
            self._write(record.id, "hostname", hostname + "\n"),
            self._write(record.id, "hosts", sandbox.hosts),
            self._write(record.id, "resolv.conf", sandbox.resolv_conf),
        )

    def _write(self, container_id: str, name: str, content: str) -> str:
        path = Path(self._paths.file(container_id, name))
        path.write_text(content)
        path.chmod(0o644)
        if self._owner != (0, 0):
            os.chown(path, *self._owner)
        return str(path)

    # -- namespaces of other containers

    def _joined(self, mode: str, namespace: str) -> str:
        if not mode.startswith("container:"):
            return ""
        reference = mode.partition(":")[2]
        other = self._registry.get(reference).record
        if not other.state.running or not other.state.pid:
            raise ConflictError(
                f"cannot join {namespace} namespace of a non running container: container /{other.name} is "
                f"{other.state.status}"
            )
        return f"/proc/{other.state.pid}/ns/{namespace}"

    def _ipc(self, record: ContainerRecord) -> tuple[str, str]:
        mode = record.host_config.ipc_mode
        if mode == "host":
            return "", "/dev/shm"
        if mode.startswith("container:"):
            other = self._registry.get(mode.partition(":")[2]).record
            if other.host_config.ipc_mode not in ("shareable", "host"):
                raise InvalidArgumentError(
                    f"can't join IPC of container {other.id}: non-shareable IPC "
                    "(hint: use IpcMode:shareable for the donor container)"
                )
            shm = "/dev/shm" if other.host_config.ipc_mode == "host" else self._paths.shm(other.id)
            return self._joined(mode, "ipc"), shm
        if mode == "shareable":
            path = self._paths.shm(record.id)
            try:
                mount_shm(path, record.host_config.shm_size)
            except OSError as error:
                raise InternalError(f"mount /dev/shm of {record.id}: {os.strerror(error.errno or 0)}") from None
            return "", path
        return "", ""

    # -- volumes

    async def _mount_volumes(self, record: ContainerRecord) -> None:
        names = dict.fromkeys(point.name for point in record.mounts if point.type == "volume")
        paths = await asyncio.to_thread(lambda: {name: self._volumes.mount(name, record.id) for name in names})
        for point in record.mounts:
            if point.type == "volume" and point.driver != "local" and not _has_subpath(point):
                point.source = paths[point.name]  # a plugin tells where only when it is asked to mount

    async def _unmount_volumes(self, names: list[str], container_id: str) -> None:
        def unmount() -> None:
            for name in names:
                self._volumes.unmount(name, container_id)

        await asyncio.to_thread(unmount)


def _has_subpath(point: MountPoint) -> bool:
    options = point.spec.volume_options if point.spec else None
    return bool(options and options.subpath)


def _forget(settings: EndpointSettings) -> None:
    """Keep what was asked for, drop what the run was given."""
    if is_derived(settings):
        settings.mac_address = ""
    settings.endpoint_id = settings.gateway = settings.ip_address = ""
    settings.ip_prefix_len = settings.global_ipv6_prefix_len = 0
    settings.ipv6_gateway = settings.global_ipv6_address = ""
