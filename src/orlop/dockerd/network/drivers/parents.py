# SPDX-License-Identifier: Apache-2.0
"""Networks that hang on an interface of the host: what macvlan and ipvlan have in common."""

from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from orlop.dockerd.network import hostlinks, linkkinds, options
from orlop.dockerd.network.drivers.base import Driver
from orlop.dockerd.network.kernel import Kernel
from orlop.dockerd.network.links import EVERYWHERE, Route
from orlop.dockerd.network.types import Endpoint, Network, NetworkConfig
from orlop.engine.types import NetworkCreateRequest
from orlop.errdefs import InvalidArgumentError

PARENT = "parent"


class ParentDriver(Driver):
    """The parent is an interface that is there, or `eth0.10`: a part of one that is made for the network, and goes
    with the last one that uses it. Without a parent the network leads nowhere: it hangs on a dummy interface.
    """

    has_interfaces = True
    several_subnets = True
    dummy_prefix = ""

    def plan(self, network: Network, request: NetworkCreateRequest) -> None:
        """Enter the parent."""
        parent = options.interface_name(request.options, PARENT)
        if parent == "lo":
            raise InvalidArgumentError(f"loopback interface is not a valid {self.name} parent link")
        network.bridge = parent or self._dummy(network)

    def adopt(self, kernel: Kernel, network: Network, others: Iterable[Network]) -> None:
        """A parent that is there stays when the network goes, unless another network brought it."""
        if hostlinks.find(kernel, network.bridge) is None:
            if network.bridge != self._dummy(network):
                parse_vlan(kernel, network.bridge)
            network.own_bridge = True
        else:
            network.own_bridge = any(other.bridge == network.bridge and other.own_bridge for other in others)

    def set_up(self, kernel: Kernel, network: Network, config: NetworkConfig) -> None:
        """Make the parent where it is ours to make."""
        if not network.own_bridge or hostlinks.find(kernel, network.bridge) is not None:
            return
        if network.bridge == self._dummy(network):
            kernel.route.request(linkkinds.dummy_new(network.bridge))
        else:
            parent, vlan_id = parse_vlan(kernel, network.bridge)
            kernel.route.request(linkkinds.vlan_new(network.bridge, parent=parent, vlan_id=vlan_id))

    def take_down(self, network: Network, others: Iterable[Network]) -> Sequence[str]:
        """The parent, if it was made for networks of which this is the last one."""
        shared = any(other.bridge == network.bridge and other.id != network.id for other in others)
        return (network.bridge,) if network.own_bridge and not shared else ()

    def interface_prefix(self, network: Network) -> str:
        """As the options say."""
        return options.interface_prefix(network.options)

    def default_routes(self, network: Network, endpoint: Endpoint) -> Sequence[Route]:
        """By the gateways that the user named: they are machines on the parent's wire."""
        if self.leads_nowhere(network):
            return ()
        pools = (network.pool_of(address) for address in (endpoint.address, endpoint.address6))
        return [
            Route(EVERYWHERE[pool.version], ip_address(pool.gateway)) for pool in pools if pool and pool.gateway
        ]

    def mtu(self, network: Network) -> int:
        """As the options say, else the parent's."""
        return options.mtu(network.options)

    def leads_nowhere(self, network: Network) -> bool:
        """Whether the network is internal: it is said so, or it has no parent."""
        return network.internal or network.bridge == self._dummy(network)

    def _dummy(self, network: Network) -> str:
        return f"{self.dummy_prefix}{network.id[:12]}"


def parse_vlan(kernel: Kernel, name: str) -> tuple[int, int]:
    """The index of the interface and the number of the VLAN that a name such as eth0.10 stands for.

    Raises InvalidArgumentError in Docker's words.
    """
    base, dot, number = name.rpartition(".")
    if not dot:
        raise InvalidArgumentError(
            f"invalid subinterface vlan name {name}, example formatting is eth0.10: "
            f"-o parent interface was not found on the host: {name}"
        )
    if not (number.isascii() and number.isdigit()):
        raise InvalidArgumentError(f"unable to parse a valid vlan id from: {number} (ex. eth0.10 for vlan 10)")
    if not 1 <= int(number) <= 4094:
        raise InvalidArgumentError(f"vlan id must be between 1-4094, received: {int(number)}")
    link = hostlinks.find(kernel, base)
    if link is None:
        raise InvalidArgumentError(f"-o parent interface was not found on the host: {base}")
    return link.ifindex, int(number)
