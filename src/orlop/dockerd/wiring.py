# SPDX-License-Identifier: Apache-2.0
"""Builds the daemon out of its parts: the only place that knows them all."""

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from orlop import __version__
from orlop.containerd.client import Client
from orlop.dockerd import identity, network, store, userns, volumes
from orlop.dockerd.access.gate import Gate
from orlop.dockerd.api.grpc import GrpcFront
from orlop.dockerd.api.router import Route
from orlop.dockerd.api.routes.absent import absent_routes
from orlop.dockerd.api.routes.archive import ArchiveRoutes
from orlop.dockerd.api.routes.checkpoints import CheckpointRoutes
from orlop.dockerd.api.routes.containers import ContainerRoutes
from orlop.dockerd.api.routes.debug import DebugRoutes
from orlop.dockerd.api.routes.exec import ExecRoutes
from orlop.dockerd.api.routes.grpc import GrpcRoutes
from orlop.dockerd.api.routes.images import image_routes
from orlop.dockerd.api.routes.networks import NetworkRoutes
from orlop.dockerd.api.routes.openapi import OpenApiRoutes
from orlop.dockerd.api.routes.system import SystemRoutes
from orlop.dockerd.api.routes.volumes import VolumeRoutes
from orlop.dockerd.api.routes.websocket import WebSocketRoutes
from orlop.dockerd.api.server import ApiServer
from orlop.dockerd.config import Config
from orlop.dockerd.containers.commit_source import CommitSources
from orlop.dockerd.containers.container import Container
from orlop.dockerd.containers.exec import Execs
from orlop.dockerd.containers.exits import Exits
from orlop.dockerd.containers.health import HealthMonitor
from orlop.dockerd.containers.kill import Kill
from orlop.dockerd.containers.monitor import Monitor
from orlop.dockerd.containers.networking import Networking
from orlop.dockerd.containers.paths import Paths
from orlop.dockerd.containers.pause import Pause
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.containers.remapping import Remapping
from orlop.dockerd.containers.remove import Remove
from orlop.dockerd.containers.resources import Resources
from orlop.dockerd.containers.runtimes import Runtimes
from orlop.dockerd.containers.start import Start
from orlop.dockerd.containers.stop import Stop
from orlop.dockerd.containers.streams import Streams
from orlop.dockerd.containers.unhealthy import Unhealthy
from orlop.dockerd.disk_usage import DiskUsage
from orlop.dockerd.events import Events
from orlop.dockerd.flags import Options
from orlop.dockerd.images.keeper import ImageKeeper, Policy
from orlop.dockerd.images.ports import ContainerUse
from orlop.dockerd.images.service import ImageService
from orlop.dockerd.images.uses import LastUses
from orlop.dockerd.logging.forward import Forwarding
from orlop.dockerd.logging.kept import KeptLogs
from orlop.dockerd.logging.watcher import Watcher
from orlop.dockerd.metrics import Metrics, MetricsServer, Sample
from orlop.dockerd.network.service import NetworkService
from orlop.dockerd.network.types import NetworkConfig
from orlop.dockerd.parts import Base, Life, Parts, Services
from orlop.dockerd.plugins.authorization import Authorization
from orlop.dockerd.plugins.client import Plugins
from orlop.dockerd.plugins.discovery import RUNTIME_DIRECTORY, SPEC_DIRECTORIES, Discovery
from orlop.dockerd.reconcile import Reconcile
from orlop.dockerd.reload import Reload
from orlop.dockerd.spec import Host
from orlop.dockerd.spec.apparmor import provide_default_profile
from orlop.dockerd.store import Store
from orlop.dockerd.system import System
from orlop.dockerd.use_cases import archive_use_cases, container_use_cases
from orlop.dockerd.volumes import VolumeService
from orlop.dockerd.volumes.copyup import as_they_are
from orlop.dockerd.volumes.plugin_driver import PluginDrivers
from orlop.netd.client import NetdClient
from orlop.registry import RegistryConfig

_PATIENCE = 1.0
"""Seconds that a request waits for a containerd that is just being restarted."""


def build(config: Config, options: Options) -> Parts:
    """Make every part; nothing is started and nothing is asked of another process. Must run in the event loop."""
    base = _base(config)
    services = _services(base)
    life = _life(base, services)
    grpc = GrpcFront(f"{config.exec_root}/grpc.sock")
    routes = [*GrpcRoutes(grpc).routes(), *_routes(base, services, life)]
    server = ApiServer(
        [*routes, *OpenApiRoutes(routes).routes()],
        server_version=__version__,
        min_version=config.lowest_api_version,
        experimental=config.experimental,
        grpc=grpc,
        gate=Gate(lambda: config.socket_policy, base.registry, services.volumes, services.networks),
        authorization=base.authorization,
        metrics=base.metrics,
    )

    def apply() -> None:
        services.registries.insecure = config.insecure_registries
        services.registries.mirrors = config.registry_mirrors
        services.registries.attempts = config.max_download_attempts
        services.images.set_slots(config.max_concurrent_downloads, config.max_concurrent_uploads)

    own_id = identity.read(Path(config.data_root))
    reload = Reload(
        config, options, base.runtimes, base.events, own_id, socket.gethostname, base.authorization, apply
    )
    return Parts(server, base, services, life, reload, MetricsServer(base.metrics, lambda: _sample(base, life)))


def _sample(base: Base, life: Life) -> Sample:
    states = [container.record.state for container in base.registry]
    counts = {
        "paused": sum(state.paused for state in states),
        "running": sum(state.running and not state.paused for state in states),
        "stopped": sum(not state.running for state in states),
    }
    health = life.health
    return Sample(counts, base.events.published, base.events.listeners, health.checks, health.failed_checks)


def _owner(config: Config) -> str:
    """The name under which this daemon's lives hold leases."""
    return f"orlopd {identity.read(Path(config.data_root))}"


def _base(config: Config) -> Base:
    connection = store.connect(Path(config.data_root, "dockerd.db"))
    network.init_schema(connection)
    volumes.init_schema(connection)
    events = Events()
    database = Store(connection)
    registry = Registry(database, events)
    registry.load()
    provide_default_profile()
    host = Host.probe()
    if config.ip_forward:  # the networks turn it on before the first container
        host = msgspec.structs.replace(host, ipv4_forwarding=True)
    paths = Paths(config.data_root, config.exec_root)
    watcher = Watcher()
    remapping = Remapping(userns.resolve(config.userns_remap))
    places = f"{config.exec_root}/plugins"
    plugins = Plugins(Discovery([RUNTIME_DIRECTORY, places], [*SPEC_DIRECTORIES, places]))
    return Base(
        config,
        paths,
        connection,
        database,
        events,
        registry,
        Client(config.containerd, config.containerd_namespace, owner=_owner(config), patience=_PATIENCE),
        host,
        Runtimes(
            config.runtimes,
            config.default_runtime,
            str(Path(config.exec_root, "runc")),
            systemd_cgroup=config.systemd_cgroup,
            scripts=Path(config.data_root, "runtimes"),
            io_owner=remapping.owner,
        ),
        watcher,
        Forwarding(paths, watcher),
        KeptLogs(paths.data_root / "kept-logs"),
        plugins,
        Authorization(plugins, config.authorization_plugins),
        Metrics(),
        remapping,
    )


def _services(base: Base) -> Services:
    config = base.config
    # A connection of its own: volumes are worked on in threads, which must not get into a transaction here.
    volume_connection = store.connect(Path(config.data_root, "dockerd.db"))
    volume_service = VolumeService(
        Path(config.data_root, "volumes"),
        lambda: volume_connection,
        base.registry.users_of_volume,
        PluginDrivers(base.plugins),
        base.remapping.remap.outside if base.remapping.remap else as_they_are,
    )
    netd = NetdClient(f"{config.exec_root}/netd.sock", f"{config.exec_root}/netd.log")
    networks = NetworkService(base.connection, netd, _network_config(config), config.exec_root, base.plugins)

    def publish(action: str, actor: str, attributes: Mapping[str, str]) -> None:
        base.events.publish("image", action, actor, attributes)

    def uses(image_id: str) -> Sequence[ContainerUse]:
        return [
            ContainerUse(container.id, container.record.state.running, container.record.config.image)
            for container in base.registry
            if container.record.image_id == image_id
        ]

    registries = RegistryConfig(
        insecure=config.insecure_registries,
        mirrors=config.registry_mirrors,
        attempts=config.max_download_attempts,
    )
    images = ImageService(
        base.client,
        snapshotter=config.storage_driver,
        uses=uses,
        publish=publish,
        commit_source=CommitSources(base.registry, Pause(base.registry, base.client), base.remapping),
        registries=registries,
        max_concurrent_downloads=config.max_concurrent_downloads,
        max_concurrent_uploads=config.max_concurrent_uploads,
    )

    def image_of(container_id: str) -> str | None:
        container = base.registry.find(container_id)
        return container.record.image_id if container is not None else None

    keeper = ImageKeeper(
        images.store,
        images.sizes,
        uses,
        images.remove,
        LastUses(base.connection),
        lambda: Policy(*config.image_policy),
        image_of,
    )
    return Services(volume_connection, volume_service, netd, networks, registries, images, keeper)


def _life(base: Base, services: Services) -> Life:
    config, registry, client, paths = base.config, base.registry, base.client, base.paths
    streams = Streams(client, paths, services.netd)
    resources = Resources(registry, services.networks, services.volumes, paths, base.events, base.remapping.owner)
    kill = Kill(registry, client)
    stop = Stop(registry, kill, config)
    unhealthy = Unhealthy(stop)
    health = HealthMonitor(registry, client, streams, base.host, on_unhealthy=unhealthy.found)
    remove = Remove(registry, client, services.volumes, stop, paths, base.forwarding, base.kept_logs)
    start = Start(
        registry,
        client,
        resources,
        base.runtimes,
        streams,
        paths,
        base.host,
        config,
        base.forwarding,
        base.remapping,
        on_running=health.watch,
        remove=remove.auto,
    )

    async def start_again(container: Container) -> None:
        await start.start(container, by_user=False)

    exits = Exits(registry, client, resources, start=start_again, remove=remove.auto, on_stopped=health.unwatch)
    reconcile = Reconcile(
        registry,
        client,
        streams,
        exits,
        start,
        remove,
        health,
        services.networks,
        paths,
        config.storage_driver,
        base.forwarding,
    )
    return Life(
        streams,
        resources,
        health,
        unhealthy,
        kill,
        stop,
        remove,
        start,
        Monitor(registry, client, exits),
        reconcile,
    )


def _routes(base: Base, services: Services, life: Life) -> list[Route]:
    containers = container_use_cases(base, services, life)
    users_of = base.registry.users_of_volume

    async def count_images() -> int:
        return len(await services.images.store.records())

    def publish_volume(action: str, name: str, attributes: Mapping[str, str]) -> None:
        base.events.publish("volume", action, name, attributes)

    def publish_network(action: str, network_id: str, attributes: Mapping[str, str]) -> None:
        base.events.publish("network", action, network_id, attributes)

    networking = Networking(base.registry, services.networks, life.resources, base.paths, base.events)
    own_id = identity.read(Path(base.config.data_root))
    system = System(
        base.registry,
        base.events,
        base.client,
        base.runtimes,
        base.config,
        own_id,
        count_images,
        services.volumes.driver_names,
        services.networks.driver_names,
        services.networks.firewall,
    )
    disk_usage = DiskUsage(containers.list, services.images, services.volumes, users_of)
    execs = Execs(base.registry, base.client, life.streams, base.host)
    return [
        *SystemRoutes(system, base.events, disk_usage).routes(),
        *CheckpointRoutes(containers.checkpoints).routes(),
        *ContainerRoutes(containers).routes(),
        *WebSocketRoutes(containers.attach).routes(),
        *ArchiveRoutes(archive_use_cases(base, services)).routes(),
        *ExecRoutes(execs).routes(),
        *image_routes(services.images),
        *VolumeRoutes(services.volumes, users_of, publish_volume).routes(),
        *DebugRoutes().routes(),
        *NetworkRoutes(services.networks, networking, publish_network).routes(),
        *absent_routes(),
    ]


def _network_config(config: Config) -> NetworkConfig:
    return NetworkConfig(
        bridge=config.bridge or NetworkConfig().bridge,
        bip=config.bip,
        fixed_cidr=config.fixed_cidr,
        default_gateway=config.default_gateway,
        ipv6=config.ipv6,
        bip6=config.bip6,
        fixed_cidr6=config.fixed_cidr_v6,
        default_gateway6=config.default_gateway_v6,
        mtu=config.mtu,
        icc=config.icc,
        iptables=config.iptables,
        ip6tables=config.ip6tables,
        ip_forward=config.ip_forward,
        ip_forward_no_drop=config.ip_forward_no_drop,
        ip_masq=config.ip_masq,
        userland_proxy=config.userland_proxy,
        default_host_ip=config.ip,
        dns=config.dns,
        dns_search=config.dns_search,
        dns_options=config.dns_opts,
        host_firewall=config.host_firewall,
        allow_direct_routing=config.allow_direct_routing,
        accept_mark=config.bridge_accept_fwmark,
        default_options=config.default_network_opts,
        host_gateway_ip=config.host_gateway_ips[0] if config.host_gateway_ips else "",
        address_pools=[(pool.base, pool.size) for pool in config.default_address_pools],
    )
