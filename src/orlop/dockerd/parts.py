# SPDX-License-Identifier: Apache-2.0
"""The parts of the daemon, by what they stand on."""

import asyncio
import contextlib
import sqlite3
from typing import NamedTuple

from orlop.containerd.client import Client
from orlop.dockerd.api.server import ApiServer
from orlop.dockerd.config import Config
from orlop.dockerd.containers.health import HealthMonitor
from orlop.dockerd.containers.kill import Kill
from orlop.dockerd.containers.monitor import Monitor
from orlop.dockerd.containers.paths import Paths
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.containers.remapping import Remapping
from orlop.dockerd.containers.remove import Remove
from orlop.dockerd.containers.resources import Resources
from orlop.dockerd.containers.runtimes import Runtimes
from orlop.dockerd.containers.start import Start
from orlop.dockerd.containers.stop import Stop
from orlop.dockerd.containers.streams import Streams
from orlop.dockerd.containers.unhealthy import Unhealthy
from orlop.dockerd.events import Events
from orlop.dockerd.images.keeper import ImageKeeper
from orlop.dockerd.images.service import ImageService
from orlop.dockerd.logging.forward import Forwarding
from orlop.dockerd.logging.kept import KeptLogs
from orlop.dockerd.logging.watcher import Watcher
from orlop.dockerd.metrics import Metrics, MetricsServer
from orlop.dockerd.network.service import NetworkService
from orlop.dockerd.plugins.authorization import Authorization
from orlop.dockerd.plugins.client import Plugins
from orlop.dockerd.reconcile import Reconcile
from orlop.dockerd.reload import Reload
from orlop.dockerd.spec import Host
from orlop.dockerd.store import Store
from orlop.dockerd.volumes import VolumeService
from orlop.netd.client import NetdClient
from orlop.registry import RegistryConfig

_SETTLE_SECONDS = 2.0


class Base(NamedTuple):
    """What nearly everything stands on."""

    config: Config
    paths: Paths
    connection: sqlite3.Connection
    store: Store
    events: Events
    registry: Registry
    client: Client
    host: Host
    runtimes: Runtimes
    watcher: Watcher
    forwarding: Forwarding
    kept_logs: KeptLogs
    plugins: Plugins
    authorization: Authorization
    metrics: Metrics
    remapping: Remapping


class Services(NamedTuple):
    """The services beside the containers."""

    volume_connection: sqlite3.Connection
    volumes: VolumeService
    netd: NetdClient
    networks: NetworkService
    registries: RegistryConfig
    images: ImageService
    keeper: ImageKeeper


class Life(NamedTuple):
    """Starting, ending and removing containers, and what watches them."""

    streams: Streams
    resources: Resources
    health: HealthMonitor
    unhealthy: Unhealthy
    kill: Kill
    stop: Stop
    remove: Remove
    start: Start
    monitor: Monitor
    reconcile: Reconcile


class Parts(NamedTuple):
    """What main starts and stops."""

    server: ApiServer
    base: Base
    services: Services
    life: Life
    reload: Reload
    metrics_server: MetricsServer

    async def start(self) -> None:
        """Who may use it, networks and volumes: what requests rely on. Raises OrlopError, OSError."""
        config = self.base.config
        await asyncio.to_thread(self.base.authorization.check, config.authorization_plugins)
        if config.metrics_addr:
            await self.metrics_server.serve(config.metrics_addr)
        await self.services.networks.start()
        await asyncio.to_thread(self.services.volumes.reconcile)

    async def run(self) -> None:
        """What goes on by itself until cancelled: containerd's events, image names."""
        monitor = self.life.monitor
        async with asyncio.TaskGroup() as group:
            group.create_task(monitor.run(lambda: self.life.reconcile.again(monitor.catch_up)))
            group.create_task(self.services.images.store.watch())
            group.create_task(self.services.keeper.run(self.base.events))
            group.create_task(self.base.kept_logs.run())

    async def settled(self) -> None:
        """Wait until what is recorded agrees with what runs; not for long, as containerd may be away."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_SECONDS):
                await self.life.reconcile.settled.wait()

    async def close(self) -> None:
        """Let go of everything; containers go on."""
        await self.metrics_server.close()
        await self.life.unhealthy.close()
        await self.life.health.close()
        await self.life.monitor.close()
        await self.base.forwarding.close()
        await self.services.networks.close()
        await self.services.netd.close()
        await self.base.client.close()
        self.services.volume_connection.close()
        self.base.store.close()
