# SPDX-License-Identifier: Apache-2.0
"""The bridge driver: a bridge on the host, a veth pair to each container."""

import errno
import secrets
from collections.abc import Collection, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

from orlop.dockerd.network import ipam, rtnetlink
from orlop.dockerd.network.firewall import BridgeRules
from orlop.dockerd.network.kernel import Kernel
from orlop.dockerd.network.netns import InterfacePlan, set_sysctl
from orlop.dockerd.network.types import Endpoint, Network, NetworkConfig
from orlop.errdefs import UnavailableError

VETH_PREFIX = "veth"
INTERFACE = "eth0"
DEFAULT_MTU = 1500


class BridgeState(NamedTuple):
    """A bridge as it is set up: its interface index, address and subnet."""

    ifindex: int
    gateway: IPv4Address
    subnet: IPv4Network


def veth_name(endpoint_id: str) -> str:
    """The host's end of an endpoint's veth pair (at most 15 characters, as every interface name)."""
    return VETH_PREFIX + endpoint_id[:7]


def choose_subnet(
    config: NetworkConfig,
    recorded: Network | None,
    existing: Sequence[tuple[IPv4Address, IPv4Network]],
    taken: Iterable[IPv4Network],
) -> tuple[IPv4Address, IPv4Network]:
    """The default bridge's address and subnet.

    In this order: `bip` of the configuration, what the bridge has (`existing`), what was `recorded` if nobody else
    uses it meanwhile, the first free pool. `taken` are the networks of other interfaces and routes.
    """
    if config.bip:
        return ipam.parse_interface("bip", config.bip)
    if existing:
        return existing[0]
    occupied = list(taken)
    if recorded is not None and recorded.subnet:
        subnet = IPv4Network(recorded.subnet)
        if not any(subnet.overlaps(other) for other in occupied):
            return IPv4Address(recorded.gateway), subnet
    subnet = ipam.next_subnet(occupied)
    return subnet[1], subnet


def set_up(kernel: Kernel, name: str, config: NetworkConfig, recorded: Network | None) -> BridgeState:
    """Make the default bridge where it is missing, with its address and settings.

    Raises UnavailableError naming the step.
    """
    try:
        return _set_up(kernel, name, config, recorded)
    except OSError as error:
        step = f" ({error.filename})" if error.filename else ""
        raise UnavailableError(f"cannot set up bridge {name}{step}: {error.strerror}") from None


def _set_up(kernel: Kernel, name: str, config: NetworkConfig, recorded: Network | None) -> BridgeState:
    route = kernel.route
    index = next((link.ifindex for link in route.links() if link.name == name), 0)
    addresses = route.addresses()
    existing = [(address, network) for owner, address, network in addresses if owner == index]
    taken = [network for owner, _, network in addresses if owner != index]
    taken += [network for owner, network in route.routes() if owner != index]
    gateway, subnet = choose_subnet(config, recorded, existing, taken)
    if not index:
        mac = "02:42:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(4))
        route.request(rtnetlink.bridge_new(name, mac, config.mtu if config.mtu != DEFAULT_MTU else 0))
        index = next(link.ifindex for link in route.links() if link.name == name)
    # An IPv4 bridge has no IPv6 address and learns nothing from router advertisements.
    for key, value in (("accept_ra", "0"), ("disable_ipv6", "1")):
        set_sysctl(f"net/ipv6/conf/{name}/{key}", value)
    if not config.userland_proxy:
        set_sysctl(f"net/ipv4/conf/{name}/route_localnet", "1")
    if config.ip_forward:
        set_sysctl("net/ipv4/ip_forward", "1")
    route.request(rtnetlink.address_add(index, gateway, subnet), rtnetlink.link_up(index, name))
    return BridgeState(index, gateway, subnet)


def interface_plan(state: BridgeState, endpoint: Endpoint, config: NetworkConfig) -> InterfacePlan:
    """What has to be made in the kernel for an endpoint."""
    gateway = IPv4Address(config.default_gateway) if config.default_gateway else state.gateway
    return InterfacePlan(
        veth=endpoint.veth,
        bridge=state.ifindex,
        mtu=config.mtu,
        name=INTERFACE,
        mac=endpoint.mac,
        address=IPv4Address(endpoint.address),
        network=state.subnet,
        gateway=gateway,
        hairpin=not config.userland_proxy,
        isolated=not config.icc,
    )


def rules(network: Network, config: NetworkConfig) -> BridgeRules:
    """A network's part in the firewall."""
    return BridgeRules(network.bridge, network.subnet, config.icc, config.ip_masq)


def attach_known(kernel: Kernel, state: BridgeState, known: Collection[str]) -> list[str]:
    """Tidy the bridge's ports: attach `known` veths that lost their bridge, delete our veths that nobody knows.

    Returns the names of the known veths that exist.
    """
    found = []
    for link in kernel.route.links():
        if link.name in known:
            found.append(link.name)
            if link.master != state.ifindex:
                kernel.route.request(rtnetlink.link_master(link.ifindex, state.ifindex, link.name))
        elif link.kind == "veth" and link.master == state.ifindex and link.name.startswith(VETH_PREFIX):
            delete_link(kernel, link.name)
    return found


def delete_link(kernel: Kernel, name: str) -> None:
    """Delete an interface; no error if there is none."""
    try:
        kernel.route.request(rtnetlink.link_delete(name))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
