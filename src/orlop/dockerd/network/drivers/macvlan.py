# SPDX-License-Identifier: Apache-2.0
"""The macvlan driver: containers are machines of their own, with MAC addresses, on the wire of an interface."""

from collections.abc import Iterable

from orlop.dockerd.network import options
from orlop.dockerd.network.drivers.parents import PARENT, ParentDriver
from orlop.dockerd.network.linkkinds import MACVLAN_MODES
from orlop.dockerd.network.links import Link, Macvlan
from orlop.dockerd.network.types import Endpoint, Network, NetworkConfig
from orlop.engine.types import NetworkCreateRequest
from orlop.errdefs import PermissionDeniedError

MODE = "macvlan_mode"


class MacvlanDriver(ParentDriver):
    """`macvlan_mode`: bridge, private, vepa, or passthru, where one container gets the whole interface."""

    name = "macvlan"
    dummy_prefix = "dm-"
    options = options.COMMON | {PARENT, MODE}

    def plan(self, network: Network, request: NetworkCreateRequest) -> None:
        """Check the mode, too."""
        _mode(network)
        super().plan(network, request)

    def settle(self, network: Network, others: Iterable[Network]) -> None:
        """No other network is on the parent of one in mode passthru."""
        for other in others:
            if other.bridge != network.bridge or other.driver != self.name:
                continue
            if _mode(network) == "passthru":
                raise PermissionDeniedError(
                    f"cannot use mode passthru, macvlan network {other.id} is already using parent interface "
                    f"{network.bridge}"
                )
            if _mode(other) == "passthru":
                raise PermissionDeniedError(
                    f"macvlan network {other.id} is already using parent interface {network.bridge} in mode "
                    "passthru"
                )

    def derives_mac(self, network: Network) -> bool:
        """In mode passthru the interface's own stays: ours would become the parent's."""
        return _mode(network) != "passthru"

    def link(self, network: Network, endpoint: Endpoint, config: NetworkConfig) -> Link:
        """A macvlan of the parent."""
        return Macvlan(network.bridge, MACVLAN_MODES[_mode(network)])


def _mode(network: Network) -> str:
    return options.choice(network.options, MODE, MACVLAN_MODES, "macvlan mode")
