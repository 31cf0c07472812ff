# SPDX-License-Identifier: Apache-2.0
"""What an endpoint is given: names of interfaces, an address, a MAC (pure but for its random id)."""

import os
import secrets
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from orlop.dockerd.network import bridge, ipam, options, requests
from orlop.dockerd.network.types import Endpoint, Network, SandboxRequest
from orlop.engine.types import EndpointSettings
from orlop.errdefs import PermissionDeniedError

_SHORT_ID = 12


def pin(directory: str, sandbox_id: str) -> str:
    """Where a sandbox's namespace is pinned."""
    return os.path.join(directory, sandbox_id[:_SHORT_ID])


def endpoint(
    request: SandboxRequest,
    network: Network,
    asked: EndpointSettings,
    sandbox_id: str,
    number: int,
    used: Collection[str],
) -> Endpoint:
    """The endpoint of a container's network `number`; `used` are the addresses that others have.

    Raises PermissionDeniedError if the address it asks for is taken, ResourceExhaustedError if all are.
    """
    made = Endpoint(
        id=secrets.token_hex(32),
        network_id=network.id,
        container_id=request.container_id,
        container_name=request.name,
        sandbox_id=sandbox_id,
        exposed=request.exposed_ports,
        gw_priority=asked.gw_priority,
    )
    if network.driver != "bridge":
        return made
    made.address = _address(network, asked, used)
    made.address6 = _address6(network, asked, used)
    made.mac = asked.mac_address or ipam.mac_of(IPv4Address(made.address))
    made.veth = bridge.veth_name(made.id)
    made.interface = f"{options.parse(network.options).interface_prefix}{number}"
    if network.served:
        made.names = requests.endpoint_names(request, asked)
        made.aliases = requests.endpoint_aliases(request, asked, primary=number == 0)
    return made


def wished_addresses(asked: EndpointSettings) -> list[str]:
    """The addresses that a container asks for, as they are written down; none if it takes any."""
    wish = asked.ipam_config
    if wish is None:
        return []
    six = str(IPv6Address(wish.ipv6_address)) if wish.ipv6_address else ""
    return [address for address in (wish.ipv4_address, six) if address]


def _address6(network: Network, asked: EndpointSettings, used: Collection[str]) -> str:
    if not network.subnet6:
        return ""
    subnet = IPv6Network(network.subnet6)
    reserved = {network.gateway6, str(subnet.network_address)}
    for wish in wished_addresses(asked):
        if ":" in wish:
            if wish in used or wish in reserved:
                raise PermissionDeniedError("Address already in use")
            return wish
    within = IPv6Network(network.ip_range6) if network.ip_range6 else None
    return str(ipam.next_address6(subnet, within, {*used, *reserved}))


def _address(network: Network, asked: EndpointSettings, used: Collection[str]) -> str:
    reserved = {network.gateway, *network.aux_addresses.values()}
    wish = asked.ipam_config.ipv4_address if asked.ipam_config else ""
    if wish:
        subnet = IPv4Network(network.subnet)
        ends = (str(subnet.network_address), str(subnet.broadcast_address))
        if wish in used or wish in reserved or wish in ends:
            raise PermissionDeniedError("Address already in use")
        return wish
    within = IPv4Network(network.ip_range) if network.ip_range else None
    return str(ipam.next_address(IPv4Network(network.subnet), within, {*used, *reserved}))
