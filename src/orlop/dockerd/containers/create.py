# SPDX-License-Identifier: Apache-2.0
"""Create a container: everything is checked and written down, nothing runs."""

import asyncio
import contextlib
import shutil
import socket
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from orlop.api.types_pb2 import Mount as SnapshotMount
from orlop.containerd.client import Client
from orlop.dockerd import rootfs, timestamps
from orlop.dockerd.config import Config
from orlop.dockerd.containers.container import Container
from orlop.dockerd.containers.layer_size import size_labels
from orlop.dockerd.containers.merge import merge
from orlop.dockerd.containers.model import ContainerRecord
from orlop.dockerd.containers.names import check_name, generate_id, generate_name
from orlop.dockerd.containers.paths import Paths
from orlop.dockerd.containers.ports import Images, Volumes
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.containers.remapping import Remapping
from orlop.dockerd.containers.runtimes import Runtimes
from orlop.dockerd.images.store import ImageRecord
from orlop.dockerd.logging.options import check_log_config, with_defaults
from orlop.dockerd.spec import Host, MountPoint, apply_defaults, command_line, resolve_mounts, validate
from orlop.dockerd.spec.modes import container_of
from orlop.dockerd.spec.validate import check_cgroup_parent
from orlop.engine.types import ContainerConfig, CreateRequest, EndpointSettings, HostConfig, LogConfig
from orlop.errdefs import InvalidArgumentError, NotFoundError, OrlopError
from orlop.oci.image import Platform

SNAPSHOT_LABEL = "orlop.container"
"""On the snapshot of a container, with its id: what a crash left behind is found by it."""
_GC_ROOT = "containerd.io/gc.root"


class Created(NamedTuple):
    """The answer of POST /containers/create."""

    id: str
    warnings: list[str]


class Create:
    """The use case; the daemon's defaults come from `config`."""

    def __init__(
        self,
        registry: Registry,
        client: Client,
        images: Images,
        volumes: Volumes,
        runtimes: Runtimes,
        paths: Paths,
        host: Host,
        config: Config,
        remapping: Remapping,
    ) -> None:
        self._registry = registry
        self._client = client
        self._images = images
        self._volumes = volumes
        self._runtimes = runtimes
        self._paths = paths
        self._host = host
        self._config = config
        self._remapping = remapping

    async def __call__(self, name: str, request: CreateRequest, platform: Platform | None = None) -> Created:
        """Make a container. An empty name gets one made up; no platform means the host's.

        Raises NotFoundError (the image), InvalidArgumentError (also for a container that is referred to and not
        there: clients pull an image at 404), ConflictError (name).
        """
        container_id = generate_id(self._registry.__contains__)
        name = check_name(name) if name else generate_name(self._registry.name_taken)
        self._registry.reserve(name, container_id)
        try:
            return await self._create(container_id, name, request, platform)
        except BaseException:
            self._registry.release(name)
            raise

    async def _create(
        self, container_id: str, name: str, request: CreateRequest, platform: Platform | None
    ) -> Created:
        image = await self._images.resolve(request.image, platform)
        config = self._container_config(request, image)
        host_config, warnings = self._host_config(config, request.host_config)
        self._check_referred(host_config)
        config.hostname = config.hostname or self._hostname(container_id, host_config)
        endpoints = self._endpoints(host_config, request.networking_config.endpoints_config, config.mac_address)
        points = resolve_mounts(config, host_config, self._volumes_from(host_config))
        command = command_line(config)
        record = ContainerRecord(
            id=container_id,
            name=name,
            created=timestamps.now(),
            image_id=image.id,
            image_manifest=_manifest_view(image),
            snapshotter=self._config.storage_driver,
            path=command[0],
            args=command[1:],
            config=config,
            host_config=host_config,
            endpoints=endpoints,
            log_path=self._paths.log(container_id) if host_config.log_config.type == "json-file" else "",
        )
        limits = await size_labels(self._client, record.snapshotter, host_config.storage_opt)
        directory = self._paths.data(container_id)
        try:
            directory.mkdir(mode=0o700, parents=True)
            preparing = asyncio.ensure_future(self._prepare(container_id, image, limits))
            try:
                record.mounts = await self._resolve_volumes(points, container_id)
            finally:
                mounts = await preparing
            if any(point.copy_data and point.type == "volume" for point in record.mounts):
                await asyncio.to_thread(self._copy_up, mounts, record.mounts)
            container = self._registry.add(record)
        except BaseException:
            await self._undo(container_id, record.mounts)
            raise
        container.rootfs = mounts
        self._registry.publish(container, "create")
        return Created(container_id, warnings)

    # -- the configuration

    def _container_config(self, request: CreateRequest, image: ImageRecord) -> ContainerConfig:
        asked = msgspec.convert(request, ContainerConfig, from_attributes=True)
        return merge(asked, image.config.config)

    def _hostname(self, container_id: str, host_config: HostConfig) -> str:
        mode = host_config.network_mode
        if mode.startswith("container:"):
            # A container that is missing is an error of the start: 404 at create means a missing image to clients.
            with contextlib.suppress(NotFoundError):
                return self._registry.get(mode.partition(":")[2]).record.config.hostname
        if mode == "host" or host_config.uts_mode == "host":
            return socket.gethostname()
        return container_id[:12]

    def _host_config(self, config: ContainerConfig, asked: HostConfig) -> tuple[HostConfig, list[str]]:
        warnings = validate(config, asked, self._host)
        check_cgroup_parent(asked.cgroup_parent, systemd=self._config.systemd_cgroup)
        host_config = apply_defaults(
            asked,
            self._host,
            shm_size=self._config.shm_size,
            ipc_mode=self._config.default_ipc_mode,
            cgroupns_mode=self._config.default_cgroupns_mode,
        )
        if host_config.network_mode in ("", "default"):
            host_config.network_mode = "bridge"
        defaults = LogConfig(type=self._config.log_driver, config=self._config.log_opts)
        host_config.log_config = with_defaults(host_config.log_config, defaults)
        check_log_config(host_config.log_config)
        self._remapping.check(host_config)
        host_config.runtime = host_config.runtime or self._runtimes.default
        self._runtimes.resolve(host_config.runtime)
        return host_config, warnings

    def _endpoints(
        self, host_config: HostConfig, asked: Mapping[str, EndpointSettings], mac_address: str
    ) -> dict[str, EndpointSettings]:
        mode = host_config.network_mode
        if mode.startswith("container:"):
            if asked:
                raise InvalidArgumentError("conflicting options: container network and endpoint settings")
            return {}
        endpoints = {("bridge" if name == "default" else name): settings for name, settings in asked.items()}
        if mode not in endpoints:
            endpoints[mode] = EndpointSettings()
        if mac_address and not endpoints[mode].mac_address:
            endpoints[mode].mac_address = mac_address
        return endpoints

    # -- the file systems

    def _volumes_from(self, host_config: HostConfig) -> dict[str, list[MountPoint]]:
        found = {}
        for entry in host_config.volumes_from or []:
            name = entry.partition(":")[0]
            found[name] = self._referred(name).record.mounts
        return found

    def _check_referred(self, host_config: HostConfig) -> None:
        """What is joined or linked must be there; for `network` and `ipc` that is said at the start only."""
        if joined := container_of(host_config.pid_mode):
            self._referred(joined)
        for link in host_config.links or []:
            name = link.partition(":")[0]
            try:
                self._referred(name)
            except InvalidArgumentError as error:
                raise InvalidArgumentError(f"could not get container for {name}: {error}") from None

    def _referred(self, reference: str) -> Container:
        try:
            return self._registry.get(reference)
        except NotFoundError as error:
            raise InvalidArgumentError(str(error)) from None

    async def _resolve_volumes(self, points: list[MountPoint], container_id: str) -> list[MountPoint]:
        if not any(point.type == "volume" for point in points):
            return points
        return await asyncio.to_thread(lambda: [self._volumes.resolve(point, container_id) for point in points])

    async def _prepare(
        self, container_id: str, image: ImageRecord, limits: Mapping[str, str]
    ) -> list[SnapshotMount]:
        snapshots = self._client.snapshots(self._config.storage_driver)
        labels = {SNAPSHOT_LABEL: container_id, _GC_ROOT: timestamps.rfc3339(timestamps.now()), **limits}
        try:
            return await snapshots.prepare(container_id, image.chain_id, labels)
        except NotFoundError:
            await self._images.ensure_unpacked(image)
            return await snapshots.prepare(container_id, image.chain_id, labels)

    def _copy_up(self, mounts: list[SnapshotMount], points: list[MountPoint]) -> None:
        with rootfs.opened(mounts) as root:
            for point in points:
                if point.type == "volume" and point.copy_data:
                    self._volumes.copy_up(point.name, root, point.destination)

    async def _undo(self, container_id: str, points: list[MountPoint]) -> None:
        shutil.rmtree(self._paths.data(container_id), ignore_errors=True)
        for point in points:
            if point.type == "volume" and point.anonymous:
                await asyncio.to_thread(self._volumes.remove, point.name, True)
        try:
            await self._client.snapshots(self._config.storage_driver).remove(container_id)
        except OrlopError:
            return  # it was not made, or the next start of the daemon finds it by its label


def _manifest_view(image: ImageRecord) -> dict[str, Any]:
    """`ImageManifestDescriptor`: the manifest's descriptor with the platform that its image is for."""
    return msgspec.to_builtins(msgspec.structs.replace(image.manifest, platform=image.config.platform))  # type: ignore[no-any-return]
