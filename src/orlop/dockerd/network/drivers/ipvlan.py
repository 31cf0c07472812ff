# SPDX-License-Identifier: Apache-2.0
"""The ipvlan driver: containers have addresses of their own, and the MAC address of an interface of the host."""

from collections.abc import Iterable, Sequence

from orlop.dockerd.network import options
from orlop.dockerd.network.drivers.parents import PARENT, ParentDriver
from orlop.dockerd.network.linkkinds import IPVLAN_FLAGS, IPVLAN_MODES
from orlop.dockerd.network.links import EVERYWHERE, Ipvlan, Link, Route
from orlop.dockerd.network.types import Endpoint, Network, NetworkConfig
from orlop.engine.types import NetworkCreateRequest
from orlop.errdefs import PermissionDeniedError

MODE, FLAG = "ipvlan_mode", "ipvlan_flag"


class IpvlanDriver(ParentDriver):
    """`ipvlan_mode`: l2 (on the wire), l3, l3s (the host is the router); `ipvlan_flag`: bridge, private, vepa."""

    name = "ipvlan"
    dummy_prefix = "di-"
    takes_mac = False
    options = options.COMMON | {PARENT, MODE, FLAG}

    def plan(self, network: Network, request: NetworkCreateRequest) -> None:
        """Check mode and flag, too."""
        _mode(network)
        _flag(network)
        super().plan(network, request)

    def settle(self, network: Network, others: Iterable[Network]) -> None:
        """A parent has one ipvlan network."""
        for other in others:
            if other.bridge == network.bridge and other.driver == self.name:
                raise PermissionDeniedError(
                    f"network {other.id} is already using parent interface {network.bridge}"
                )

    def derives_mac(self, network: Network) -> bool:
        """It is the parent's."""
        return False

    def default_routes(self, network: Network, endpoint: Endpoint) -> Sequence[Route]:
        """In modes l3 and l3s the host's routes decide: there is no gateway to name."""
        if _mode(network) == "l2" or self.leads_nowhere(network):
            return super().default_routes(network, endpoint)
        pairs = ((4, endpoint.address), (6, endpoint.address6))
        return [Route(EVERYWHERE[version]) for version, address in pairs if address]

    def link(self, network: Network, endpoint: Endpoint, config: NetworkConfig) -> Link:
        """An ipvlan of the parent."""
        return Ipvlan(network.bridge, IPVLAN_MODES[_mode(network)], IPVLAN_FLAGS[_flag(network)])


def _mode(network: Network) -> str:
    return options.choice(network.options, MODE, IPVLAN_MODES, "ipvlan mode")


def _flag(network: Network) -> str:
    return options.choice(network.options, FLAG, IPVLAN_FLAGS, "ipvlan flag")
