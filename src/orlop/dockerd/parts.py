# SPDX-License-Identifier: Apache-2.0
"""The parts of the daemon, by what they stand on."""

import sqlite3
from typing import NamedTuple

from orlop.containerd.client import Client
from orlop.dockerd.config import Config
from orlop.dockerd.containers.health import HealthMonitor
from orlop.dockerd.containers.kill import Kill
from orlop.dockerd.containers.monitor import Monitor
from orlop.dockerd.containers.paths import Paths
from orlop.dockerd.containers.registry import Registry
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
from orlop.dockerd.network.service import NetworkService
from orlop.dockerd.reconcile import Reconcile
from orlop.dockerd.spec import Host
from orlop.dockerd.store import Store
from orlop.dockerd.volumes import VolumeService
from orlop.netd.client import NetdClient
from orlop.registry import RegistryConfig


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
