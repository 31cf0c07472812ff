# SPDX-License-Identifier: Apache-2.0
"""The bridge driver: a bridge on the host, a veth pair to each container."""

import errno
import os
import socket
from collections.abc import Collection, Iterable, Sequence
from ipaddress import ip_address, ip_interface

from orlop.dockerd.network import forwarding, hostlinks, options, rtnetlink
from orlop.dockerd.network.drivers.base import Driver
from orlop.dockerd.network.firewall import BridgeRules, SubnetRules
from orlop.dockerd.network.kernel import Kernel
from orlop.dockerd.network.links import EVERYWHERE, Link, Route, Veth
from orlop.dockerd.network.netns import set_sysctl
from orlop.dockerd.network.rtnetlink import Address
from orlop.dockerd.network.source_guard import Source
from orlop.dockerd.network.types import Endpoint, Network, NetworkConfig, addresses_of
from orlop.engine.types import NetworkCreateRequest
from orlop.errdefs import InvalidArgumentError, PermissionDeniedError

VETH_PREFIX = "veth"
GATEWAY_OF_CONTAINERS = {4: "DefaultGatewayIPv4", 6: "DefaultGatewayIPv6"}
"""Names of auxiliary addresses that stand for the gateway in containers, where that is not the bridge."""


class BridgeDriver(Driver):
    """Networks on bridges."""

    name = "bridge"
    has_interfaces = True
    publishes = True
    options = options.BRIDGE

    def plan(self, network: Network, request: NetworkCreateRequest) -> None:
        """Enter the bridge's name."""
        wanted = options.parse(request.options)
        if "isolated" in (wanted.mode4, wanted.mode6) and not request.internal:
            raise InvalidArgumentError("gateway mode 'isolated' can only be used for an internal network")
        network.bridge = wanted.bridge or f"br-{network.id[:12]}"

    def chooses_gateway(self, network: Network, version: int) -> bool:
        """Unless the host keeps out of the network."""
        wanted = options.parse(network.options)
        if version == 6:
            return wanted.mode6 != "isolated"
        return wanted.mode4 != "isolated" and not (wanted.inhibit_ipv4 and network.internal)

    def settle(self, network: Network, others: Iterable[Network]) -> None:
        """No two networks have one bridge."""
        for other in others:
            if other.bridge == network.bridge:
                raise PermissionDeniedError(
                    f"cannot create network {network.id} ({network.bridge}): conflicts with network {other.id} "
                    f"({other.bridge}): networks have same bridge name"
                )

    def adopt(self, kernel: Kernel, network: Network, others: Iterable[Network]) -> None:
        """A bridge that is there already stays when the network goes."""
        network.own_bridge = not hostlinks.is_bridge(kernel, network.bridge)

    def set_up(self, kernel: Kernel, network: Network, config: NetworkConfig) -> None:
        """Make the bridge, with its addresses and settings."""
        route, name = kernel.route, network.bridge
        wanted = options.parse(network.options)
        if wanted.source_guard and not config.iptables:
            reason = '"iptables": false leaves it no rules'
            raise OSError(errno.EOPNOTSUPP, reason, options.SOURCE_GUARD)
        link = hostlinks.find(kernel, name)
        if link is None:
            size = self.mtu(network)
            route.request(
                rtnetlink.bridge_new(name, self.mac(network), size if size != options.DEFAULT_MTU else 0)
            )
        index = socket.if_nametoindex(name)
        # An IPv4 bridge has no IPv6 address, and no bridge learns anything from router advertisements.
        six = bool(network.subnet6) and wanted.mode6 != "isolated"
        # Its addresses are nobody else's: without accept_dad, the first second's packets would find no neighbour.
        for key, value in (("accept_ra", "0"), ("accept_dad", "0"), ("disable_ipv6", "0" if six else "1")):
            set_sysctl(f"net/ipv6/conf/{name}/{key}", value)
        if config.ip_forward and not network.internal:
            forwarding.enable(kernel, 4, config)
            if network.subnet6:
                forwarding.enable(kernel, 6, config)
        route.request(rtnetlink.link_up(index, name))
        for address, prefix in _own_addresses(network, wanted):
            own = ip_interface(f"{address}/{prefix}")
            route.request(rtnetlink.address_add(index, own.ip, own.network))

    def take_down(self, network: Network, others: Iterable[Network]) -> Sequence[str]:
        """The bridge, if it was made for this network."""
        return (network.bridge,) if network.own_bridge else ()

    def tidy(self, kernel: Kernel, network: Network, known: Collection[str]) -> None:
        """Attach `known` veths that lost their bridge, delete our veths that nobody knows."""
        index = socket.if_nametoindex(network.bridge)
        ports = kernel.route.ports(index)
        for name in set(known) - {link.name for link in ports}:
            lost = hostlinks.find(kernel, name)
            if lost is not None:
                kernel.route.request(rtnetlink.link_master(lost.ifindex, index, name))
        for link in ports:
            if link.kind == "veth" and link.name not in known and link.name.startswith(VETH_PREFIX):
                hostlinks.delete(kernel, link.name)

    def rules(self, network: Network) -> BridgeRules | None:
        """Both families, as the options say."""
        wanted = options.parse(network.options)
        four = SubnetRules(network.subnet, wanted.mode4, wanted.masquerade, wanted.source4)
        six = SubnetRules(network.subnet6, wanted.mode6, wanted.masquerade, wanted.source6)
        return BridgeRules(
            network.bridge,
            wanted.icc,
            four if network.subnet else None,
            six if network.subnet6 else None,
            network.internal,
            wanted.trusted,
        )

    def opens_links(self, network: Network) -> bool:
        """As in Docker: on the default bridge, if that is without icc."""
        return not network.served and not options.boolean(network.options, options.ICC)

    def source(self, network: Network, endpoint: Endpoint) -> Source | None:
        """If the options say so."""
        if not options.boolean(network.options, options.SOURCE_GUARD, default=False):
            return None
        return Source(endpoint.veth, endpoint.mac, (*addresses_of(endpoint), *endpoint.link_local))

    def host_interface(self, endpoint_id: str) -> str:
        """The host's end of the veth pair (at most 15 characters, as every interface name)."""
        return VETH_PREFIX + endpoint_id[:7]

    def interface_prefix(self, network: Network) -> str:
        """As the options say."""
        return options.interface_prefix(network.options)

    def default_routes(self, network: Network, endpoint: Endpoint) -> Sequence[Route]:
        """Through the bridge, or whom an auxiliary address names."""
        if network.internal:
            return ()
        found = []
        for version, own, address in (
            (4, network.gateway, endpoint.address),
            (6, network.gateway6, endpoint.address6),
        ):
            gateway = network.aux_addresses.get(GATEWAY_OF_CONTAINERS[version], own)
            if gateway and address:
                found.append(Route(EVERYWHERE[version], ip_address(gateway)))
        return found

    def link(self, network: Network, endpoint: Endpoint, config: NetworkConfig) -> Link:
        """A veth pair."""
        try:
            index = socket.if_nametoindex(network.bridge)
        except OSError:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), f"find bridge {network.bridge}") from None
        icc = options.boolean(network.options, options.ICC)
        linking = endpoint.linked and config.iptables  # then rules say what it reaches
        return Veth(endpoint.veth, index, hairpin=not config.userland_proxy, isolated=not icc and not linking)

    def mtu(self, network: Network) -> int:
        """As the options say."""
        return options.mtu(network.options) or options.DEFAULT_MTU

    def mac(self, network: Network) -> str:
        """The bridge's MAC address, the same when it is made again: containers know it by heart."""
        return "02:42:" + ":".join(network.id[start : start + 2] for start in range(0, 8, 2))

    def neighbours(self, network: Network) -> Sequence[tuple[Address, str]]:
        """The bridge itself, unless it is somebody else's, which may change its MAC address."""
        mac = self.mac(network)
        if hostlinks.mac(network.bridge) != mac:
            return ()
        own = _own_addresses(network, options.parse(network.options))
        return [(ip_address(address), mac) for address, _ in own]


def _own_addresses(network: Network, wanted: options.BridgeOptions) -> list[tuple[str, str]]:
    """The addresses of the bridge itself with the lengths of their prefixes."""
    found = []
    if network.gateway and not wanted.inhibit_ipv4 and wanted.mode4 != "isolated":
        found.append((network.gateway, network.subnet.rpartition("/")[2]))
    if network.gateway6 and wanted.mode6 != "isolated":
        found.append((network.gateway6, network.subnet6.rpartition("/")[2]))
    return found
