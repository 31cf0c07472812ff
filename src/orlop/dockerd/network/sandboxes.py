# SPDX-License-Identifier: Apache-2.0
"""A sandbox in the kernel: what is made and taken away in the network service's own thread."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

from orlop.dockerd.network import bridge, conntrack, firewall, netns
from orlop.dockerd.network.kernel import Kernel
from orlop.dockerd.network.networks import Networks
from orlop.dockerd.network.rtnetlink import Address
from orlop.dockerd.network.rules import Rules
from orlop.dockerd.network.types import Endpoint, Network, NetworkConfig, PortMapping

Pair = tuple[Network, Endpoint]


class SandboxKernel:
    """Methods run in the kernel's thread. They raise OSError naming the step, NftablesError for ports."""

    def __init__(self, networks: Networks, config: NetworkConfig, rules: Rules | None) -> None:
        self._networks = networks
        self._config = config
        self._rules = rules

    def build(self, kernel: Kernel, pairs: Sequence[Pair], default: Endpoint | None) -> None:
        """A namespace with all its interfaces, and the redirection of its ports."""
        path = pairs[0][1].netns
        if not path:
            return
        plans = [self._plan(*pair, default=pair[1] is default) for pair in pairs if pair[1].address]
        resolved = any(endpoint.resolved for _, endpoint in pairs)
        netns.create(path, plans, kernel.route, firewall.RESOLVER if resolved else "")
        if default is not None and self._rules is not None:
            self._rules.publish(kernel, default.ports)

    def plug(self, kernel: Kernel, pair: Pair, *, default: bool, resolver: bool) -> None:
        """One more interface in a namespace that is in use; `resolver`: the first one that is served DNS."""
        endpoint = pair[1]
        plan = self._plan(*pair, default=default)
        netns.attach(endpoint.netns, plan, kernel.route, firewall.RESOLVER if resolver else "")

    def unplug(self, kernel: Kernel, endpoint: Endpoint, default: Pair | None) -> None:
        """One interface less; `default` is who has the default route from now on."""
        bridge.delete_link(kernel, endpoint.veth)
        if default is not None:
            netns.set_gateways(endpoint.netns, self._gateways(default[0]))

    def lead(self, kernel: Kernel, default: Pair) -> None:
        """Give an interface the default route."""
        netns.set_gateways(default[1].netns, self._gateways(default[0]))

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
        if endpoint.netns and not pinned:
            netns.remove(endpoint.netns)

    def _plan(self, network: Network, endpoint: Endpoint, *, default: bool) -> netns.InterfacePlan:
        state = self._networks.bridge(network.id)
        return bridge.interface_plan(network, state, endpoint, self._config, default=default)

    def _gateways(self, network: Network) -> list[Address]:
        chosen = self._config.default_gateway if network.predefined else ""
        found: list[Address] = [IPv4Address(chosen or network.gateway)]
        if network.gateway6:
            found.append(IPv6Address(network.gateway6))
        return found


def _forget_flows(ports: Sequence[PortMapping]) -> None:
    addresses = {port.address for port in ports if port.protocol == "udp"}
    if addresses:
        conntrack.forget_udp(addresses)
