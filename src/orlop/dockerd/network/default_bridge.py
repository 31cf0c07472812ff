# SPDX-License-Identifier: Apache-2.0
"""The default bridge's addresses, out of the daemon's settings, what there is, and what was before (pure)."""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address, ip_network

from orlop.dockerd.network import describe, ipam
from orlop.dockerd.network.drivers.bridge import GATEWAY_OF_CONTAINERS
from orlop.dockerd.network.ipam import Interface, Pools, Subnet
from orlop.dockerd.network.types import Network, NetworkConfig
from orlop.errdefs import InvalidArgumentError


def furnish(
    network: Network,
    config: NetworkConfig,
    existing: Sequence[Interface],
    taken: Iterable[Subnet],
    pools: Mapping[int, Pools],
) -> None:
    """Enter subnets, gateways and options in the record, which may have what an earlier run chose.

    `existing` are the bridge's addresses, `taken` the networks of other interfaces and routes. Raises
    InvalidArgumentError naming the setting.
    """
    network.bridge, network.ip_range = config.bridge, config.fixed_cidr
    network.options = describe.bridge_options(config)
    network.aux_addresses = {
        GATEWAY_OF_CONTAINERS[version]: text
        for version, text in ((4, config.default_gateway), (6, config.default_gateway6))
        if text
    }
    occupied = list(taken)
    own = choose(config.bip, network.subnet, network.gateway, existing, occupied, pools[4])
    network.subnet, network.gateway = str(own.network), str(own.ip)
    _furnish_six(network, config, existing, occupied, pools[6])
    for version, subnet in ((4, network.subnet), (6, network.subnet6)):
        gateway = network.aux_addresses.get(GATEWAY_OF_CONTAINERS[version])
        if gateway and (not subnet or ip_address(gateway) not in ip_network(subnet)):
            setting = "default-gateway" if version == 4 else "default-gateway-v6"
            raise InvalidArgumentError(
                f"invalid {setting}: {gateway} is not in the bridge's subnet {subnet or '(none)'}"
            )


def choose(
    setting: str,
    subnet: str,
    gateway: str,
    existing: Sequence[Interface],
    taken: Sequence[Subnet],
    pools: Pools,
) -> Interface:
    """The bridge's IPv4 address and subnet.

    In this order: `bip` of the configuration, what the bridge has (`existing`), what was recorded if nobody else
    uses it meanwhile, the first free pool.
    """
    if setting:
        return ipam.parse_interface("bip", setting)
    four = [address for address in existing if address.version == 4]
    if four:
        return four[0]
    if subnet and not any(ipam.overlaps(ip_network(subnet), other) for other in taken):
        return ipam.parse_interface("bip", f"{gateway}/{subnet.rpartition('/')[2]}")
    free = ipam.next_subnet(taken, pools)
    return ipam.parse_interface("bip", f"{free[1]}/{free.prefixlen}")


def _furnish_six(
    network: Network, config: NetworkConfig, existing: Sequence[Interface], taken: Sequence[Subnet], pools: Pools
) -> None:
    recorded = network.subnet6, network.gateway6
    network.subnet6 = network.gateway6 = network.ip_range6 = ""
    if not config.ipv6:
        return
    if config.fixed_cidr6:
        network.ip_range6 = str(_network("fixed-cidr-v6", config.fixed_cidr6))
    six = [address for address in existing if address.version == 6]
    if config.bip6:
        own = ipam.parse_interface("bip6", config.bip6)
        network.subnet6, network.gateway6 = str(own.network), str(own.ip)
    elif network.ip_range6:
        network.subnet6 = network.ip_range6
        inside = [address for address in six if address.ip in ip_network(network.ip_range6)]
        network.gateway6 = str(inside[0].ip if inside else ip_network(network.ip_range6)[1])
    elif six:
        network.subnet6, network.gateway6 = str(six[0].network), str(six[0].ip)
    elif recorded[0]:
        network.subnet6, network.gateway6 = recorded
    else:
        free = ipam.next_subnet(taken, pools) if pools else ipam.unique_subnet(network.id)
        network.subnet6, network.gateway6 = str(free), str(free[1])
    if network.ip_range6 == network.subnet6:
        network.ip_range6 = ""
    if network.ip_range6 and ip_network(network.ip_range6).network_address not in ip_network(network.subnet6):
        raise InvalidArgumentError(f"invalid fixed-cidr-v6: {config.fixed_cidr6} is not in {network.subnet6}")


def _network(setting: str, text: str) -> Subnet:
    try:
        found = ip_network(text, strict=False)
    except ValueError as error:
        raise InvalidArgumentError(f"invalid {setting}: {error}") from None
    if found.version != 6:
        raise InvalidArgumentError(f"invalid {setting}: '{text}' is not a valid IPv6 subnet")
    if found.is_multicast:
        raise InvalidArgumentError(f"invalid {setting}: multicast subnet '{text}' is not allowed")
    link_local = ip_network("fe80::/64")
    if found != link_local and ipam.overlaps(found, link_local):
        raise InvalidArgumentError(f"invalid {setting}: '{text}' clashes with the Link-Local prefix 'fe80::/64'")
    return found
