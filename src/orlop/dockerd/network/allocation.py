# SPDX-License-Identifier: Apache-2.0
"""What an endpoint is given: names of interfaces, an address, a MAC (pure but for its random id)."""

import os
import secrets
from collections.abc import Collection
from ipaddress import ip_address, ip_network

from orlop.dockerd.network import drivers, ipam, options, requests
from orlop.dockerd.network.types import Endpoint, Network, SandboxRequest
from orlop.engine.types import EndpointSettings
from orlop.errdefs import PermissionDeniedError, ResourceExhaustedError

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
    names: Collection[str] = (),
    *,
    way_out: bool = False,
) -> Endpoint:
    """The endpoint of a container's network `number`; `used` are the addresses that others have, `names` those of
    the container's other interfaces; see `Endpoint.way_out`.

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
        way_out=way_out,
    )
    driver = drivers.of(network)
    if not driver.has_interfaces:
        return made
    made.address = _address(network, 4, asked, used)
    made.address6 = _address(network, 6, asked, used)
    made.mac = asked.mac_address
    if not made.mac and driver.derives_mac(network):
        made.mac = ipam.mac_of(ip_address(made.address or made.address6))
    made.veth = driver.host_interface(made.id)
    if asked.ipam_config is not None:
        made.link_local = [str(ip_address(each)) for each in asked.ipam_config.link_local_ips]
    name, made.sysctls = options.endpoint(asked.driver_opts or {})
    made.interface = name or free_name(driver.interface_prefix(network), number, names)
    if drivers.of(network).opens_links(network):
        made.linked = list(request.linked)
    if network.served and not way_out:
        made.names = requests.endpoint_names(request, asked)
        made.aliases = requests.endpoint_aliases(request, asked, primary=number == 0)
    return made


def free_name(prefix: str, number: int, taken: Collection[str]) -> str:
    """The first name from `prefix` and `number` on that is not taken."""
    while f"{prefix}{number}" in taken:
        number += 1
    return f"{prefix}{number}"


def wished_addresses(asked: EndpointSettings) -> list[str]:
    """The addresses that a container asks for, as they are written down; none if it takes any."""
    wish = asked.ipam_config
    if wish is None:
        return []
    return [str(ip_address(address)) for address in (wish.ipv4_address, wish.ipv6_address) if address]


def _address(network: Network, version: int, asked: EndpointSettings, used: Collection[str]) -> str:
    pools = [pool for pool in network.pools if pool.version == version]
    kept = {*(pool.gateway for pool in pools), *network.aux_addresses.values()}
    for wish in wished_addresses(asked):
        if (pool := network.pool_of(wish)) is not None and pool.version == version:
            if wish in used or wish in kept or ip_address(wish) in ipam.reserved(ip_network(pool.subnet)):
                raise PermissionDeniedError("Address already in use")
            return wish
    for pool in pools:
        within = ip_network(pool.ip_range) if pool.ip_range else None
        try:
            return str(ipam.next_address(ip_network(pool.subnet), within, {*used, *kept}))
        except ResourceExhaustedError:
            if pool is pools[-1]:
                raise
    return ""
