# SPDX-License-Identifier: Apache-2.0
"""The daemon: its parts put together, its sockets, and its life from lock to shutdown."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

from orlop.containerd.core.sandboxes import SHIM_CONTROLLER
from orlop.containerd.failpoints import failpoint
from orlop.containerd.metadata.containers import MetadataContainers
from orlop.containerd.metadata.gc import Pace
from orlop.containerd.plugins.exchange import Exchange
from orlop.containerd.plugins.runtime.binary import Environment, runtime_info
from orlop.containerd.plugins.runtime.former import note_zygote
from orlop.containerd.plugins.runtime.manager import TaskManager, Timeouts
from orlop.containerd.plugins.runtime.starter import ShimStarter
from orlop.containerd.plugins.runtime.zygote import Zygote
from orlop.containerd.plugins.sandboxes import ShimSandboxes
from orlop.containerd.plugins.streams import StreamManager
from orlop.containerd.plugins_table import table
from orlop.containerd.registration import Services, register
from orlop.containerd.services.containers import ContainersService
from orlop.containerd.services.events import EventsService, ttrpc_service
from orlop.containerd.services.health import HealthService
from orlop.containerd.services.introspection import IntrospectionService
from orlop.containerd.services.sandboxes import SandboxControllerService
from orlop.containerd.services.streaming import StreamingService
from orlop.containerd.services.tasks import TasksService
from orlop.containerd.services.transfer import TransferService
from orlop.containerd.services.version import VersionService
from orlop.containerd.sockets import listen, unlink
from orlop.containerd.storage import Settings, Storage, open_storage
from orlop.errdefs import FailedPreconditionError
from orlop.rpc.grpc_server.server import Server
from orlop.rpc.ttrpc.aio import Server as TtrpcServer

if TYPE_CHECKING:
    from orlop.containerd.config import Config
    from orlop.containerd.observe.endpoints import Endpoints
    from orlop.containerd.observe.metrics import Metrics

log = logging.getLogger("containerd")

GRACE = 5.0  # seconds that calls under way are given at shutdown
# Clients ask for features by containerd's version: this is the API that is served.
API_VERSION = "2.2.0"


class Daemon:
    """One orlop-containerd. `run` returns when `stop` has been called and everything is put away.

    Order of birth: lock, exchange, storage, ttrpc socket (shims are waiting to tell what happened), tasks, gRPC
    socket. Clients see the daemon only when it knows what runs.
    """

    def __init__(
        self, config: Config, version: str, revision: str, zygote: tuple[socket.socket, int] | None
    ) -> None:
        """`zygote` is what `zygote.spawn` gave: the daemon keeps it. Create it in the running event loop."""
        self._config = config
        self._version = version
        self._revision = revision
        self._zygote = Zygote(zygote, partial(note_zygote, config.state)) if zygote is not None else None
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Shut down, gracefully."""
        self._stop.set()

    async def run(self) -> None:
        """Serve until `stop`. Raises FailedPreconditionError when another daemon has the root or the socket."""
        config = self._config
        try:
            exchange = Exchange()
            storage = open_storage(config.root, config.state, exchange, storage_settings(config))
            try:
                failpoint("start.after_storage")
                await self._serve(exchange, storage)
            finally:
                storage.close()
        finally:
            if self._zygote is not None:
                await self._zygote.close()

    async def _serve(self, exchange: Exchange, storage: Storage) -> None:
        config = self._config
        containers = MetadataContainers(storage.db, storage.namespaces, storage.gc)
        ttrpc = TtrpcServer(_report)
        ttrpc.add_service(*ttrpc_service(exchange))
        await ttrpc.listen(listen(config.ttrpc))
        manager = TaskManager(
            config.root,
            config.state,
            exchange,
            self._environment(),
            self._zygote,
            lambda namespace, id: containers.get(namespace, id).runtime.name,
            Timeouts(config.load_timeout, config.cleanup_timeout, config.shutdown_timeout),
        )
        starter = ShimStarter(self._environment(), None, config.cleanup_timeout)
        sandboxes = ShimSandboxes(config.root, config.state, starter)
        metrics = self._metrics(storage)
        endpoints: Endpoints | None = None
        try:
            await manager.load()
            await sandboxes.load()
            failpoint("start.after_load")
            services = self._services(exchange, storage, containers, manager, sandboxes)
            server = self._grpc_server(services, storage, metrics)
            endpoints = await self._observe(metrics, exchange, manager)
            await server.listen(listen(config.address))
            self._set_socket_mode()
            notify("READY=1")
            log.info("containerd successfully booted")
            await self._stop.wait()
            notify("STOPPING=1")
            log.info("stopping")
            services.health.stop()
            exchange.close()
            services.tasks.stop()
            await server.stop(GRACE)
            await services.transfer.close()
        finally:
            if endpoints is not None:
                await endpoints.close()
            await storage.disconnect()
            await manager.close()
            await sandboxes.close()
            await ttrpc.close()
            for path in (config.address, config.ttrpc):
                unlink(path)

    def _metrics(self, storage: Storage) -> Metrics | None:
        if not self._config.metrics_address:
            return None
        from orlop.containerd.observe.metrics import Metrics

        metrics = Metrics(self._version, self._revision, histogram=self._config.grpc_histogram)
        storage.gc.observe(metrics.collected)
        return metrics

    async def _observe(
        self, metrics: Metrics | None, exchange: Exchange, manager: TaskManager
    ) -> Endpoints | None:
        """Serve what is configured for looking at the daemon."""
        config = self._config
        if metrics is None and not config.debug_address:
            return None
        from orlop.containerd.observe.endpoints import Endpoints

        endpoints = Endpoints()
        try:
            if metrics is not None:
                await endpoints.serve_metrics(config.metrics_address, metrics, exchange, manager.all)
            if config.debug_address:
                await endpoints.serve_debug(config.debug_address, config.debug_uid, config.debug_gid)
        except BaseException:
            await endpoints.close()
            raise
        return endpoints

    def _services(
        self,
        exchange: Exchange,
        storage: Storage,
        containers: MetadataContainers,
        manager: TaskManager,
        sandboxes: ShimSandboxes,
    ) -> Services:
        config = self._config
        streams = StreamManager()
        plugins = table(config.root, config.opt_dir, storage.snapshotters, config.proxy_plugins)
        present = {f"{plugin.type}.{plugin.id}" for plugin in plugins}
        for name in config.required_plugins:
            if name not in present:
                raise FailedPreconditionError(f"required_plugins: there is no plugin {name}")
        return Services(
            ContainersService(containers, exchange),
            EventsService(exchange),
            TasksService(manager, containers, storage.checkpoints, sandboxes),
            SandboxControllerService({SHIM_CONTROLLER: sandboxes}, exchange),
            StreamingService(streams),
            TransferService(
                config.address, storage.content, storage.workers, streams, config.snapshotter, config.downloads
            ),
            VersionService(API_VERSION, self._revision),
            HealthService(()),
            IntrospectionService(daemon_uuid(config.root), plugins, runtime_info),
        )

    def _environment(self) -> Environment:
        config = self._config
        os.makedirs(config.socket_dir, 0o700, exist_ok=True)
        return Environment(
            config.address, config.ttrpc, config.socket_dir, self._version, config.level, config.shim_env
        )

    def _grpc_server(self, services: Services, storage: Storage, metrics: Metrics | None) -> Server:
        config = self._config
        observe = metrics.calls.begin if metrics is not None else None
        server = Server(_report, observe, config.max_receive, config.max_send)
        register(server, services)
        for add, servicer in storage.services():
            add(servicer, server)
        return server

    def _set_socket_mode(self) -> None:
        config = self._config
        for path in (config.address, config.ttrpc):
            if config.uid or config.gid:
                os.chown(path, config.uid, config.gid)
            os.chmod(path, 0o660 if config.gid else 0o600)


def storage_settings(config: Config) -> Settings:
    """What of the configuration concerns the storage."""
    pace = Pace(config.gc_pause_threshold, config.gc_mutation_threshold, config.gc_schedule_delay)
    return Settings(
        config.snapshotter,
        pace,
        config.gc_startup_delay,
        config.differs,
        config.proxy_plugins,
        config.disabled_plugins,
        config.stream_processors,
        config.overlay_options,
        overlay_upper_label=config.overlay_upper_label,
    )


def daemon_uuid(root: str) -> str:
    """The daemon's identity, made once for a root."""
    path = os.path.join(root, "uuid")
    try:
        with open(path, encoding="ascii") as file:
            return str(uuid.UUID(file.read().strip()))
    except (FileNotFoundError, ValueError):
        made = str(uuid.uuid4())
        temporary = path + ".new"
        with open(temporary, "w", encoding="ascii") as file:
            file.write(made)
        os.rename(temporary, path)
        return made


def notify(state: str) -> None:
    """Tell systemd (sd_notify(3)); nothing where NOTIFY_SOCKET is not set."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(state.encode(), address)
        except OSError as error:
            log.warning("notify %s: %s", os.environ["NOTIFY_SOCKET"], error)


def _report(method: str, error: BaseException) -> None:
    log.error("%s: %s", method, error, exc_info=error)


async def run(config: Config, version: str, revision: str, zygote: Any) -> None:
    """Run a daemon until SIGTERM or SIGINT."""
    import signal

    daemon = Daemon(config, version, revision, zygote)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.stop)
    await daemon.run()
