# SPDX-License-Identifier: Apache-2.0
"""Steps that making a sandbox and changing a running one have in common."""

import asyncio
import logging
import os
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from orlop.dockerd.network import allocation, drivers, linked, options, ports
from orlop.dockerd.network.gateway import Pair
from orlop.dockerd.network.kernel import KernelThread
from orlop.dockerd.network.leaving import LeavingLinks
from orlop.dockerd.network.linked import Links
from orlop.dockerd.network.networks import Networks
from orlop.dockerd.network.plugins import NetworkPlugins
from orlop.dockerd.network.publisher import Publisher
from orlop.dockerd.network.resolvers import Resolvers
from orlop.dockerd.network.sandbox_files import Files
from orlop.dockerd.network.sandboxes import SandboxKernel
from orlop.dockerd.network.store import NetworkStore
from orlop.dockerd.network.types import (
    Endpoint,
    Network,
    NetworkConfig,
    PortMapping,
    SandboxRequest,
)
from orlop.dockerd.network.way_out import WayOut
from orlop.engine.types import EndpointSettings, PortBinding
from orlop.errdefs import InternalError, NotFoundError, OrlopError, ResourceExhaustedError
from orlop.unix.nftables import NftablesError

_log = logging.getLogger(__name__)
_IPV6 = "/proc/sys/net/ipv6"


class Steps:
    """What the service and its membership changes work with."""

    def __init__(
        self,
        store: NetworkStore,
        thread: KernelThread,
        networks: Networks,
        kernel: SandboxKernel,
        publisher: Publisher,
        resolvers: Resolvers,
        config: NetworkConfig,
        plugins: NetworkPlugins,
        directory: str,
    ) -> None:
        """`directory` is where namespaces are pinned."""
        self.store = store
        self.thread = thread
        self.networks = networks
        self.kernel = kernel
        self.publisher = publisher
        self.resolvers = resolvers
        self.leaving = LeavingLinks(thread)
        self.way_out = WayOut(networks)
        self._plugins = plugins
        self._config = config
        self.directory = directory

    def ready_endpoints(self, container_id: str) -> list[Endpoint]:
        """A container's endpoints, without those that are being made or taken away."""
        return [endpoint for endpoint in self.store.endpoints_of(container_id) if endpoint.ready]

    async def allocate(
        self,
        request: SandboxRequest,
        network: Network,
        asked: EndpointSettings,
        sandbox_id: str,
        number: int,
        files: Files,
        *,
        netns_path: str = "",
        names: Collection[str] = (),
        way_out: bool = False,
    ) -> Endpoint:
        """An endpoint, written down as intent: whatever happens now can be undone after a crash.

        `names` are those of the container's other interfaces.
        """
        await self.leaving.hurry(allocation.wished_addresses(asked))
        self._require(network)
        self.networks.require_up(network)
        ipam_plugin = self.networks.ipam_plugin(network)
        if ipam_plugin is not None:
            asked = await ipam_plugin.request_addresses(network, asked)
            self._require(network)
        used = self.store.addresses(network.id) | self.leaving.addresses()
        endpoint = allocation.endpoint(request, network, asked, sandbox_id, number, used, names, way_out=way_out)
        endpoint.dns = files.dns
        if drivers.of(network).own_namespace:
            endpoint.netns = netns_path or allocation.pin(self.directory, sandbox_id)
        self.store.put_endpoint(endpoint)
        if drivers.of(network).asks_plugin:
            await self._admit(network, endpoint, request)
        return endpoint

    def _require(self, network: Network) -> None:
        if network.id not in self.networks:  # it was removed meanwhile
            raise NotFoundError(f"network {network.name} not found")

    async def _admit(self, network: Network, endpoint: Endpoint, request: SandboxRequest) -> None:
        try:
            await drivers.of(network).admit(self._plugins, network, endpoint, request)
        except BaseException:
            await asyncio.shield(self.dismiss(network, endpoint))
            self.store.delete_endpoint(endpoint.id)
            raise
        self.store.put_endpoint(endpoint)

    async def dismiss(self, network: Network, endpoint: Endpoint, until: float | None = None) -> None:
        """Tell the plugins that a network may have for a driver and for addresses that an endpoint is gone.

        `until` is a time of the event loop's clock when whoever has not answered is waited for no longer.
        """
        ipam_plugin = self.networks.ipam_plugin(network)
        try:
            async with asyncio.timeout_at(until):
                await drivers.of(network).dismiss(self._plugins, network, endpoint)
                if ipam_plugin is not None:
                    await ipam_plugin.release_addresses(network, endpoint)
        except TimeoutError:
            _log.warning("endpoint %s in network %s: no answer", endpoint.container_name, network.name)
        except OrlopError as error:  # the endpoint goes all the same
            _log.warning("endpoint %s in network %s: %s", endpoint.container_name, network.name, error)

    async def publish(self, pair: Pair, request: SandboxRequest) -> None:
        """Give an endpoint the ports that its container wants. Raises InternalError in Docker's words."""
        network, endpoint = pair
        if not drivers.of(network).publishes:
            return
        target = self._target(network, endpoint)
        wanted = self._wanted_ports(request, network)
        if wanted:
            try:
                endpoint.ports = await self.publisher.publish(endpoint.container_id, target, wanted)
            except (InternalError, ResourceExhaustedError) as error:
                raise _not_published(endpoint, error) from None

    def moved(self, mappings: Sequence[PortMapping], pair: Pair) -> list[PortMapping]:
        """Published ports as they are when another endpoint of their container has them."""
        return ports.moved(mappings, self._target(*pair)) if drivers.of(pair[0]).publishes else []

    def links(self) -> Links:
        """What the links between containers open, as recorded."""
        opening = [network for network in self.networks if drivers.of(network).opens_links(network)]
        return linked.of(each for network in opening for each in self.store.endpoints_in(network.id))

    async def open_links(self, networks: Iterable[Network]) -> None:
        """Have the rules open what is recorded, if endpoints of these networks came or went.

        Raises InternalError.
        """
        if any(drivers.of(network).opens_links(network) for network in networks):
            await self.thread.call(self.kernel.link, self.links())

    async def in_kernel(self, endpoint: Endpoint, function: Any, *arguments: Any, **options: Any) -> None:
        """Work in the kernel's thread. Raises InternalError in Docker's words."""
        try:
            await self.thread.call(function, *arguments, **options)
        except NftablesError as error:
            raise _not_published(endpoint, error) from None
        except OSError as error:
            step = f" ({error.filename})" if error.filename else ""
            raise InternalError(f"failed to set up container networking{step}: {error.strerror}") from None

    def bindings(self, pairs: Sequence[Pair]) -> dict[str, list[PortBinding] | None]:
        """NetworkSettings.Ports."""
        bridged = [endpoint for network, endpoint in pairs if drivers.of(network).publishes]
        if not bridged:
            return {}
        return ports.inspect(bridged[0].exposed, [port for endpoint in bridged for port in endpoint.ports])

    def _wanted_ports(self, request: SandboxRequest, network: Network) -> list[ports.PortRequest]:
        default = options.parse(network.options).host_ip or self._config.default_host_ip
        both = default == "0.0.0.0" and os.path.exists(_IPV6)
        return ports.plan(
            request.port_bindings,
            request.exposed_ports,
            publish_all=request.publish_all,
            default_ips=(default, "::") if both else (default,),
        )

    def _target(self, network: Network, endpoint: Endpoint) -> ports.Target:
        wanted = options.parse(network.options)
        return ports.Target(
            endpoint.address,
            endpoint.address6,
            routed4=wanted.mode4 == "routed",
            routed6=wanted.mode6 == "routed",
            direct=bool(wanted.trusted),
            proxy=self._config.userland_proxy,
        )


def _not_published(endpoint: Endpoint, error: Exception) -> OrlopError:
    text = (error.strerror if isinstance(error, OSError) else "") or str(error)
    return InternalError(
        "driver failed programming external connectivity on endpoint "
        f"{endpoint.container_name} ({endpoint.id}): {text}"
    )
