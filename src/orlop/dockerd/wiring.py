# SPDX-License-Identifier: Apache-2.0
"""Builds the daemon out of its parts: the only place that knows them all."""

import asyncio
import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from orlop import __version__
from orlop.containerd.client import Client
from orlop.dockerd import network, store, volumes
from orlop.dockerd.api.router import Route
from orlop.dockerd.api.routes.absent import absent_routes
from orlop.dockerd.api.routes.containers import ContainerRoutes, ContainerUseCases
from orlop.dockerd.api.routes.exec import ExecRoutes
from orlop.dockerd.api.routes.images import image_routes
from orlop.dockerd.api.routes.networks import NetworkRoutes
from orlop.dockerd.api.routes.system import SystemRoutes
from orlop.dockerd.api.routes.volumes import VolumeRoutes
from orlop.dockerd.api.server import ApiServer
from orlop.dockerd.config import Config
from orlop.dockerd.containers.attach import Attach
from orlop.dockerd.containers.commit_source import CommitSources
from orlop.dockerd.containers.create import Create
from orlop.dockerd.containers.exec import Execs
from orlop.dockerd.containers.exits import Exits
from orlop.dockerd.containers.health import HealthMonitor
from orlop.dockerd.containers.inspect import Inspect
from orlop.dockerd.containers.kill import Kill
from orlop.dockerd.containers.list import List
from orlop.dockerd.containers.logs import Logs
from orlop.dockerd.containers.monitor import Monitor
from orlop.dockerd.containers.paths import Paths
from orlop.dockerd.containers.pause import Pause
from orlop.dockerd.containers.prune import Prune
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.containers.remove import Remove
from orlop.dockerd.containers.rename import Rename
from orlop.dockerd.containers.resize import Resize
from orlop.dockerd.containers.resources import Resources
from orlop.dockerd.containers.restart import Restart
from orlop.dockerd.containers.runtimes import Runtimes
from orlop.dockerd.containers.start import Start
from orlop.dockerd.containers.stats import GetStats
from orlop.dockerd.containers.stop import Stop
from orlop.dockerd.containers.streams import Streams
from orlop.dockerd.containers.top import Top
from orlop.dockerd.containers.update import Update
from orlop.dockerd.containers.wait import Wait
from orlop.dockerd.disk_usage import DiskUsage
from orlop.dockerd.events import Events
from orlop.dockerd.images.ports import ContainerUse
from orlop.dockerd.images.service import ImageService
from orlop.dockerd.network.service import NetworkService
from orlop.dockerd.network.types import NetworkConfig
from orlop.dockerd.reconcile import Reconcile, once_then
from orlop.dockerd.spec import Host
from orlop.dockerd.store import Store
from orlop.dockerd.system import System
from orlop.dockerd.volumes import VolumeService
from orlop.netd.client import NetdClient
from orlop.registry import RegistryConfig


class Parts(NamedTuple):
    """What main starts and stops."""

    server: ApiServer
    events: Events
    client: Client
    networks: NetworkService
    netd: NetdClient
    images: ImageService
    monitor: Monitor
    health: HealthMonitor
    volumes: VolumeService
    store: Store
    reconcile: Reconcile

    async def start(self) -> None:
        """Networks and volumes, then everything that goes on by itself. Raises OrlopError."""
        await self.networks.start()
        await asyncio.to_thread(self.volumes.reconcile)

    async def run(self) -> None:
        """What goes on by itself until cancelled: containerd's events, image names."""
        resync = once_then(self.reconcile, self.monitor.catch_up)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.monitor.run(resync))
            group.create_task(self.images.store.watch())

    async def close(self) -> None:
        """Let go of everything; containers go on."""
        await self.health.close()
        await self.monitor.close()
        await self.networks.close()
        await self.netd.close()
        await self.client.close()
        self.store.close()


def build(config: Config) -> Parts:
    """Make every part; nothing is started and nothing is asked of another process. Must run in the event loop."""
    data_root = Path(config.data_root)
    connection = _open_database(data_root / "dockerd.db")
    paths = Paths(config.data_root, config.exec_root)
    events = Events()
    database = Store(connection)
    registry = Registry(database, events)
    registry.load()
    client = Client(config.containerd, config.containerd_namespace)
    host = Host.probe()
    if config.ip_forward:  # the networks turn it on before the first container
        host = msgspec.structs.replace(host, ipv4_forwarding=True)
    runtimes = Runtimes(config.runtimes, config.default_runtime, systemd_cgroup=config.systemd_cgroup)

    def users_of(volume: str) -> list[str]:
        return [
            container.id
            for container in registry
            if not container.record.state.removing
            and any(point.type == "volume" and point.name == volume for point in container.record.mounts)
        ]

    def publish_volume(action: str, name: str, attributes: Mapping[str, str]) -> None:
        events.publish("volume", action, name, attributes)

    def publish_image(action: str, actor: str, attributes: Mapping[str, str]) -> None:
        events.publish("image", action, actor, attributes)

    def image_uses(image_id: str) -> Sequence[ContainerUse]:
        return [
            ContainerUse(container.id, container.record.state.running, container.record.config.image)
            for container in registry
            if container.record.image_id == image_id
        ]

    # A connection of its own: volumes are worked on in threads, which must not get into a transaction here.
    volume_connection = store.connect(data_root / "dockerd.db")
    volume_service = VolumeService(data_root / "volumes", lambda: volume_connection, users_of)
    netd = NetdClient(f"{config.exec_root}/netd.sock", _netd_log(config))
    networks = NetworkService(connection, netd, _network_config(config), config.exec_root)
    pause = Pause(registry, client)
    images = ImageService(
        client,
        snapshotter=config.storage_driver,
        uses=image_uses,
        publish=publish_image,
        commit_source=CommitSources(registry, pause),
        registries=RegistryConfig(
            insecure=config.insecure_registries,
            mirrors=config.registry_mirrors,
            attempts=config.max_download_attempts,
        ),
        max_concurrent_downloads=config.max_concurrent_downloads,
        max_concurrent_uploads=config.max_concurrent_uploads,
    )

    streams = Streams(client, paths)
    resources = Resources(registry, networks, volume_service, paths, events)
    health = HealthMonitor(registry, client, streams, host)
    kill = Kill(registry, client)
    stop = Stop(registry, kill, config.default_stop_timeout)
    remove = Remove(registry, client, volume_service, stop, paths)
    start = Start(registry, client, resources, runtimes, streams, paths, host, config, health.watch, remove.auto)
    exits = Exits(
        registry, client, resources, lambda c: start.start(c, by_user=False), remove.auto, health.unwatch
    )
    monitor = Monitor(registry, client, exits)
    logs = Logs(registry)
    inspect = Inspect(registry, client, paths)
    containers = ContainerUseCases(
        create=Create(registry, client, images.store, volume_service, runtimes, paths, host, config),
        start=start,
        stop=stop,
        kill=kill,
        restart=Restart(registry, stop, start),
        pause=pause,
        rename=Rename(registry, networks),
        remove=remove,
        wait=Wait(registry),
        attach=Attach(registry, logs),
        logs=logs,
        resize=Resize(registry, client),
        top=Top(registry, client),
        stats=GetStats(registry, client),
        inspect=inspect,
        list=List(registry, images.store, inspect),
        update=Update(registry, client, host),
        prune=Prune(registry, remove, inspect, events),
    )

    async def count_images() -> int:
        return len(await images.store.records())

    system = System(registry, events, client, runtimes, config, _identity(data_root), count_images)
    disk_usage = DiskUsage(containers.list, images, volume_service, users_of)
    routes: list[Route] = [
        *SystemRoutes(system, events, disk_usage).routes(),
        *ContainerRoutes(containers).routes(),
        *ExecRoutes(Execs(registry, client, streams, host)).routes(),
        *image_routes(images),
        *VolumeRoutes(volume_service, users_of, publish_volume).routes(),
        *NetworkRoutes(networks).routes(),
        *absent_routes(),
    ]
    server = ApiServer(
        routes,
        server_version=__version__,
        min_version=config.lowest_api_version,
        experimental=config.experimental,
    )
    reconcile = Reconcile(
        registry, client, streams, exits, start, remove, health, networks, paths, config.storage_driver
    )
    return Parts(
        server, events, client, networks, netd, images, monitor, health, volume_service, database, reconcile
    )


def _open_database(path: Path) -> sqlite3.Connection:
    connection = store.connect(path)
    network.init_schema(connection)
    volumes.init_schema(connection)
    return connection


def _network_config(config: Config) -> NetworkConfig:
    return NetworkConfig(
        bridge=config.bridge or NetworkConfig().bridge,
        bip=config.bip,
        fixed_cidr=config.fixed_cidr,
        default_gateway=config.default_gateway,
        mtu=config.mtu,
        icc=config.icc,
        iptables=config.iptables,
        ip_forward=config.ip_forward,
        ip_masq=config.ip_masq,
        userland_proxy=config.userland_proxy,
        default_host_ip=config.ip,
        dns=config.dns,
        dns_search=config.dns_search,
        dns_options=config.dns_opts,
        host_gateway_ip=config.host_gateway_ips[0] if config.host_gateway_ips else "",
    )


def _netd_log(config: Config) -> str:
    return f"{config.exec_root}/netd.log"


def _identity(data_root: Path) -> str:
    """The daemon's ID, made at its first start."""
    path = data_root / "engine-id"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        pass
    digits = secrets.token_hex(16)
    identity = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    path.write_text(identity + "\n")
    return identity
