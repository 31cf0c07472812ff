# SPDX-License-Identifier: Apache-2.0
"""The bridge driver: a bridge on the host, a veth pair to each container."""

import errno
import secrets
from collections.abc import Collection, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

from orlop.dockerd.network import ipam, options, rtnetlink
from orlop.dockerd.network.firewall import BridgeRules
from orlop.dockerd.network.kernel import Kernel
from orlop.dockerd.network.netns import InterfacePlan, set_sysctl
from orlop.dockerd.network.types import Endpoint, Network, NetworkConfig
from orlop.errdefs import PermissionDeniedError, UnavailableError

VETH_PREFIX = "veth"


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
    pools: ipam.Pools = ipam.DEFAULT_POOLS,
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
    subnet = ipam.next_subnet(occupied, pools)
    return subnet[1], subnet


def addresses(kernel: Kernel, name: str) -> tuple[list[tuple[IPv4Address, IPv4Network]], list[IPv4Network]]:
    """A bridge's own addresses (none if there is no such bridge), and all networks that others use."""
    route = kernel.route
    index = next((link.ifindex for link in route.links() if link.name == name), 0)
    found = route.addresses()
    existing = [(address, network) for owner, address, network in found if owner == index]
    taken = [network for owner, _, network in found if owner != index]
    taken += [network for owner, network in route.routes() if owner != index]
    return existing, taken


def set_up(kernel: Kernel, network: Network, config: NetworkConfig) -> BridgeState:
    """Make a network's bridge where it is missing, with its address and settings.

    Raises UnavailableError naming the step.
    """
    try:
        return _set_up(kernel, network, config)
    except OSError as error:
        step = f" ({error.filename})" if error.filename else ""
        raise UnavailableError(f"cannot set up bridge {network.bridge}{step}: {error.strerror}") from None


def is_there(kernel: Kernel, name: str) -> bool:
    """Whether there is a bridge of that name. Raises PermissionDeniedError for an interface that is none."""
    for link in kernel.route.links():
        if link.name == name:
            if link.kind != "bridge":
                raise PermissionDeniedError(f"cannot create network: interface {name} exists and is no bridge")
            return True
    return False


def _set_up(kernel: Kernel, network: Network, config: NetworkConfig) -> BridgeState:
    route, name = kernel.route, network.bridge
    index = next((link.ifindex for link in route.links() if link.name == name), 0)
    if not index:
        mac = "02:42:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(4))
        mtu = options.parse(network.options).mtu
        route.request(rtnetlink.bridge_new(name, mac, mtu if mtu != options.DEFAULT_MTU else 0))
        index = next(link.ifindex for link in route.links() if link.name == name)
    # An IPv4 bridge has no IPv6 address, and no bridge learns anything from router advertisements.
    for key, value in (("accept_ra", "0"), ("disable_ipv6", "0" if network.subnet6 else "1")):
        set_sysctl(f"net/ipv6/conf/{name}/{key}", value)
    if not config.userland_proxy:
        set_sysctl(f"net/ipv4/conf/{name}/route_localnet", "1")
    if config.ip_forward and not network.internal:
        set_sysctl("net/ipv4/ip_forward", "1")
        if network.subnet6:
            set_sysctl("net/ipv6/conf/all/forwarding", "1")
    gateway, subnet = IPv4Address(network.gateway), IPv4Network(network.subnet)
    route.request(rtnetlink.address_add(index, gateway, subnet), rtnetlink.link_up(index, name))
    if network.subnet6:
        route.request(rtnetlink.address_add(index, IPv6Address(network.gateway6), IPv6Network(network.subnet6)))
    return BridgeState(index, gateway, subnet)


def interface_plan(
    network: Network, state: BridgeState, endpoint: Endpoint, config: NetworkConfig, *, default: bool
) -> InterfacePlan:
    """What has to be made in the kernel for an endpoint; `default`: the default route leads through it."""
    wanted = options.parse(network.options)
    gateway = None
    if default:
        chosen = config.default_gateway if network.predefined else ""
        gateway = IPv4Address(chosen) if chosen else state.gateway
    six = bool(endpoint.address6)
    return InterfacePlan(
        veth=endpoint.veth,
        bridge=state.ifindex,
        mtu=wanted.mtu,
        name=endpoint.interface,
        mac=endpoint.mac,
        address=IPv4Address(endpoint.address),
        network=state.subnet,
        gateway=gateway,
        hairpin=not config.userland_proxy,
        isolated=not wanted.icc,
        address6=IPv6Address(endpoint.address6) if six else None,
        network6=IPv6Network(network.subnet6) if six else None,
        gateway6=IPv6Address(network.gateway6) if six and default else None,
    )


def rules(network: Network) -> BridgeRules:
    """A network's part in the firewall."""
    wanted = options.parse(network.options)
    return BridgeRules(
        network.bridge, network.subnet, wanted.icc, wanted.masquerade, network.internal, network.subnet6
    )


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
