# SPDX-License-Identifier: Apache-2.0
"""The network service: gives each container its network sandbox and takes it away again."""

import os
import sqlite3

from orlop.dockerd import timestamps
from orlop.dockerd.network import (
    describe,
    drivers,
    netns,
    requests,
)
from orlop.dockerd.network.firewall import Firewall, parse_mark
from orlop.dockerd.network.kernel import KernelThread
from orlop.dockerd.network.lifecycle import Lifecycle
from orlop.dockerd.network.membership import Membership
from orlop.dockerd.network.networks import Networks
from orlop.dockerd.network.plugins import NetworkPlugins
from orlop.dockerd.network.publisher import Publisher
from orlop.dockerd.network.publishing import Bindings, Publishing
from orlop.dockerd.network.resolvers import Resolvers
from orlop.dockerd.network.rules import Rules
from orlop.dockerd.network.sandboxes import SandboxKernel
from orlop.dockerd.network.settlement import Settlement
from orlop.dockerd.network.steps import Steps
from orlop.dockerd.network.store import NetworkStore
from orlop.dockerd.network.types import (
    Attached,
    Description,
    Detached,
    NetworkConfig,
    Sandbox,
    SandboxRequest,
    addresses_of,
)
from orlop.dockerd.plugins.client import Plugins
from orlop.dockerd.plugins.discovery import Discovery
from orlop.engine.types import EndpointSettings, NetworkCreateRequest, PortBinding
from orlop.errdefs import NotFoundError
from orlop.netd.client import NetdClient


class NetworkService:
    """Networks and the sandboxes of containers.

    Lifecycle: construct, `await start()` once, then `connect` and `release` per container, `await close()`.
    Nothing in the kernel ends with the service: namespaces, interfaces, rules, held ports and DNS live on, and the
    next `start` finds them by what is recorded. All methods belong to the event loop's thread. Calls about one
    container must not overlap; calls about different ones may.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        netd: NetdClient,
        config: NetworkConfig,
        exec_root: str = "/run/orlop",
        plugins: Plugins | None = None,
    ) -> None:
        """Use `connection` (its schema made by `init_schema`); namespaces are pinned under `exec_root`/netns."""
        self._store = NetworkStore(connection)
        self._config = config
        self._directory = os.path.join(exec_root, "netns")
        self._thread = KernelThread()
        plan = _firewall(config)
        self._rules = Rules(self._thread, plan) if plan.families else None
        if plugins is None:
            plugins = Plugins(Discovery([], []))
        network_plugins = NetworkPlugins(plugins)
        self._networks = Networks(self._store, self._thread, config, self._rules, network_plugins)
        self._kernel = SandboxKernel(config, self._rules)
        self._publisher = Publisher(netd, config, self._store.ready_endpoints)
        self._resolvers = Resolvers(netd, self._networks, self._store.ready_endpoints)
        self._steps = Steps(
            self._store,
            self._thread,
            self._networks,
            self._kernel,
            self._publisher,
            self._resolvers,
            config,
            network_plugins,
            self._directory,
        )
        self._publishing = Publishing(self._steps)
        self._lifecycle = Lifecycle(self._steps, config)
        self._membership = Membership(self._steps, config)
        netd.on_restart = self._netd_restarted

    async def start(self) -> None:
        """Make the bridges, their rules and settings; settle what earlier runs left behind.

        Endpoints whose namespace exists are kept, with their published ports held and their names served again;
        the rest is removed. Raises UnavailableError if the kernel refuses a step, naming it.
        """
        os.makedirs(self._directory, mode=0o755, exist_ok=True)
        await self._networks.start()
        settlement = Settlement(self._steps)
        await settlement.drop_dead_endpoints()
        settlement.drop_unknown_pins()
        await self._networks.tidy()
        if self._rules is not None:
            rules = [drivers.of(each).rules(each) for each in self._networks]
            live = self._store.ready_endpoints()
            sources = [drivers.of(pair[0]).source(*pair) for pair in self._networks.pairs(live)]
            await self._rules.start(
                [each for each in rules if each is not None],
                [port for each in live for port in each.ports],
                [each for each in sources if each is not None],
                self._steps.links(),
            )
        await self._publisher.start()
        await self._resolvers.start()

    async def close(self) -> None:
        """Let go of sockets and threads; networks and sandboxes stay."""
        await self._lifecycle.close()
        if self._rules is not None:
            await self._rules.close()
        await self._steps.leaving.close()
        await self._networks.close()
        await self._thread.close()

    # -- sandboxes

    async def connect(self, request: SandboxRequest) -> Sandbox:
        """Make a container's network sandbox, with all its networks; everything is undone on error.

        A sandbox that the container still has is released first. In mode "container:<id>" nothing is made:
        `resolv_conf` and `hosts` are empty, for the other container's files serve both. Raises NotFoundError (no
        such network), InvalidArgumentError (names the field), InternalError for ports in Docker's words.
        """
        return await self._lifecycle.connect(request)

    async def release(self, container_id: str) -> None:
        """Undo `connect`; no error if there is nothing (any more)."""
        await self._lifecycle.release(container_id)

    async def attach(self, request: SandboxRequest, reference: str, settings: EndpointSettings) -> Attached:
        """Put a running container into one more network; everything is undone on error.

        Raises NotFoundError, InvalidArgumentError, PermissionDeniedError (it is in it) in Docker's words.
        """
        return await self._membership.attach(request, reference, settings)

    async def detach(self, container_id: str, reference: str) -> Detached:
        """Take a running container out of a network; its namespace stays. Raises NotFoundError, InternalError."""
        return await self._membership.detach(container_id, reference)

    async def republish(self, request: SandboxRequest, removed: Bindings) -> dict[str, list[PortBinding] | None]:
        """Publish the request's ports of a running container, and `removed` no more; see `Publishing.change`."""
        return await self._publishing.change(request, removed)

    async def force_detach(self, reference: str, name: str) -> None:
        """Take the endpoint of a container that nobody knows any more, by name or id, out of a network.

        Raises NotFoundError.
        """
        network = self._networks.find(reference)
        for endpoint in self._store.endpoints_in(network.id):
            if endpoint.shown and name in (endpoint.container_name, endpoint.container_id):
                others = len(self._store.endpoints_of(endpoint.container_id)) > 1
                if others and netns.is_pinned(endpoint.netns):
                    await self._membership.detach(endpoint.container_id, network.id)
                else:
                    await self.release(endpoint.container_id)
                return
        raise NotFoundError(f"endpoint {name} not found in network {network.name}")

    def rename(self, container_id: str, name: str) -> None:
        """A container has another name now: networks show it, and DNS. No error if it has no sandbox."""
        self._lifecycle.rename(container_id, name)

    def sandbox(self, container_id: str) -> Sandbox | None:
        """The sandbox that a container has, as recorded; its hosts and resolv.conf are not: they are empty."""
        return self._lifecycle.sandbox(container_id)

    # -- networks

    async def create_network(self, request: NetworkCreateRequest) -> Description:
        """POST /networks/create. Raises AlreadyExistsError, InvalidArgumentError, PermissionDeniedError …"""
        return describe.network(await self._networks.create(request), ())

    async def remove_network(self, reference: str) -> Description:
        """DELETE /networks/{id}. Raises NotFoundError, PermissionDeniedError (in use, predefined)."""
        return describe.network(await self._networks.remove(reference, self._store.endpoints_in), ())

    def list_networks(self) -> list[Description]:
        """GET /networks: every network, without its containers."""
        return [describe.network(network, ()) for network in self._networks]

    def firewall(self) -> Description:
        """`FirewallBackend` of GET /info."""
        driver, reloaded_at = self._rules.backend() if self._rules is not None else ("nftables", 0)
        whole_seconds = reloaded_at - reloaded_at % timestamps.SECOND
        info = [["ReloadedAt", timestamps.rfc3339(whole_seconds)]] if reloaded_at else []
        info += [["EnableUserlandProxy", "true"]] if self._config.userland_proxy else []
        return {"Driver": driver, "Info": info or None}

    def driver_names(self) -> list[str]:
        """The drivers that there are, and the plugins in use."""
        return drivers.names(network.driver for network in self._networks)

    def driver_of(self, network_id: str) -> str:
        """The driver of a network; that of most networks if it is gone."""
        return self._networks.by_id(network_id).driver if network_id in self._networks else "bridge"

    def used_networks(self) -> set[str]:
        """The ids of the networks that running containers are in."""
        return {endpoint.network_id for endpoint in self._store.endpoints() if not endpoint.placeholder}

    def inspect_network(self, reference: str) -> Description:
        """GET /networks/{id}: by name, id or unambiguous beginning of an id. Raises NotFoundError."""
        network = self._networks.find(reference)
        endpoints = self._store.endpoints_in(network.id)
        addresses = [each for endpoint in endpoints for each in addresses_of(endpoint)]
        return describe.network(network, endpoints) | {"Status": describe.status(network, addresses)}

    def find_network(self, reference: str, settings: EndpointSettings | None = None) -> Description:
        """The same without containers; checks wishes for an endpoint in it. Raises also InvalidArgumentError."""
        network = self._networks.find(reference)
        if settings is not None:
            requests.check(settings, network, "")
        return describe.network(network, ())

    async def _netd_restarted(self) -> None:
        await self._publisher.hold_live()
        await self._resolvers.serve_live()


def _firewall(config: NetworkConfig) -> Firewall:
    families = ((4, config.iptables), (6, config.ip6tables and config.iptables))
    return Firewall(
        table="orlop" if config.bridge == NetworkConfig().bridge else f"orlop_{config.bridge}",
        userland_proxy=config.userland_proxy,
        redirect=config.redirects,
        direct=config.allow_direct_routing,
        mark=parse_mark(config.accept_mark),
        families=tuple(version for version, wanted in families if wanted),
    )
