# SPDX-License-Identifier: Apache-2.0
"""A sandbox in the kernel: what is made and taken away in the network service's own thread."""

from collections.abc import Sequence

from orlop.dockerd.network import conntrack, drivers, firewall, gateway, hostlinks, netns
from orlop.dockerd.network.drivers.base import interface_plan
from orlop.dockerd.network.gateway import Pair
from orlop.dockerd.network.kernel import Kernel
from orlop.dockerd.network.linked import Links
from orlop.dockerd.network.links import InterfacePlan, Route
from orlop.dockerd.network.rules import Rules
from orlop.dockerd.network.types import Endpoint, NetworkConfig, PortMapping, addresses_of

RouteOf = tuple[Pair, Route]


class SandboxKernel:
    """Methods run in the kernel's thread. They raise OSError naming the step, NftablesError for ports."""

    def __init__(self, config: NetworkConfig, rules: Rules | None) -> None:
        self._config = config
        self._rules = rules

    def build(self, kernel: Kernel, pairs: Sequence[Pair], origin: str = "") -> None:
        """A namespace (`origin`: see `netns.create`) with all its interfaces, and the redirection of its ports."""
        path = pairs[0][1].netns
        if not path:
            return
        routes = gateway.routes(pairs)
        plans = [self._plan(pair, routes) for pair in pairs if drivers.of(pair[0]).has_interfaces]
        self._guard(kernel, pairs)
        resolved = any(endpoint.resolved for _, endpoint in pairs)
        netns.create(path, plans, kernel.route, firewall.RESOLVER if resolved else "", origin=origin)
        ports = [port for _, endpoint in pairs for port in endpoint.ports]
        if self._rules is not None:
            self._rules.publish(kernel, ports)

    def plug(self, kernel: Kernel, pair: Pair, routes: Sequence[RouteOf], *, resolver: bool) -> None:
        """One more interface in a namespace that is in use; `resolver`: the first one that is served DNS."""
        self._guard(kernel, [pair])
        plan = self._plan(pair, routes)
        netns.attach(pair[1].netns, plan, kernel.route, firewall.RESOLVER if resolver else "")

    def unplug(self, kernel: Kernel, pair: Pair, routes: Sequence[RouteOf]) -> None:
        """One interface less; `routes` are led elsewhere."""
        endpoint = pair[1]
        if endpoint.veth:
            hostlinks.forget_neighbours(kernel, endpoint.veth, addresses_of(endpoint))
            hostlinks.delete(kernel, endpoint.veth)
            self._unguard(kernel, endpoint)
        else:
            netns.detach(endpoint.netns, self._plan(pair, ()), kernel.route)
        self.lead(kernel, routes)

    def lead(self, kernel: Kernel, routes: Sequence[RouteOf]) -> None:
        """Have default routes lead through these endpoints, all of one namespace."""
        if routes:
            path = routes[0][0][1].netns
            netns.set_routes(path, [(endpoint.interface, route) for (_, endpoint), route in routes])

    def link(self, kernel: Kernel, links: Links) -> None:
        """These links there are now."""
        if self._rules is not None:
            self._rules.link(kernel, links)

    def redirect(self, kernel: Kernel, old: list[PortMapping], new: list[PortMapping]) -> None:
        """Lead published ports elsewhere."""
        if self._rules is not None:
            self._rules.unpublish(kernel, old)
            self._rules.publish(kernel, new)
        _forget_flows(old)

    def dismantle(
        self, kernel: Kernel, endpoint: Endpoint, *, published: bool = True, pinned: bool = False
    ) -> None:
        """Stop redirecting to an endpoint, and let its namespace go.

        `published` off: its ports are not in the rules; `pinned`: other endpoints still need the namespace.
        """
        if published and self._rules is not None:
            self._rules.unpublish(kernel, endpoint.ports)
        _forget_flows(endpoint.ports)
        if endpoint.veth:
            hostlinks.forget_neighbours(kernel, endpoint.veth, addresses_of(endpoint))
        if endpoint.netns and not pinned:
            netns.remove(endpoint.netns)
        self._unguard(kernel, endpoint)

    def withdraw(self, kernel: Kernel, pair: Pair) -> None:
        """Take an interface out of its namespace that must be gone before the namespace is."""
        if netns.is_pinned(pair[1].netns):
            netns.detach(pair[1].netns, self._plan(pair, ()), kernel.route)

    def _guard(self, kernel: Kernel, pairs: Sequence[Pair]) -> None:
        """Before there is anything that could speak for others."""
        sources = [drivers.of(network).source(network, endpoint) for network, endpoint in pairs]
        wanted = [source for source in sources if source is not None]
        if wanted and self._rules is not None:
            self._rules.guard(kernel, wanted)

    def _unguard(self, kernel: Kernel, endpoint: Endpoint) -> None:
        if self._rules is not None:
            self._rules.unguard(kernel, endpoint.veth)

    def _plan(self, pair: Pair, routes: Sequence[RouteOf]) -> InterfacePlan:
        network, endpoint = pair
        driver = drivers.of(network)
        mine = [route for (_, each), route in routes if each.id == endpoint.id]
        mine = [*driver.other_routes(network, endpoint), *mine]
        link = driver.link(network, endpoint, self._config)
        return interface_plan(network, endpoint, link, mine, driver)


def _forget_flows(ports: Sequence[PortMapping]) -> None:
    addresses = {port.address for port in ports if port.protocol == "udp"}
    if addresses:
        conntrack.forget_udp(addresses)
