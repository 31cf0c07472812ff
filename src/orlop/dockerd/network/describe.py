# SPDX-License-Identifier: Apache-2.0
"""Networks and endpoints in the Engine API's words (pure functions)."""

from collections.abc import Iterable
from ipaddress import ip_network

import msgspec

from orlop.dockerd.network import configurations, drivers, ipam, options
from orlop.dockerd.network.types import (
    NO_ADDRESSES,
    Description,
    Endpoint,
    Network,
    NetworkConfig,
    prefix_lengths,
)
from orlop.engine.types import EndpointSettings


def network(record: Network, endpoints: Iterable[Endpoint]) -> Description:
    """A network as GET /networks/{id} tells it, with the containers of `endpoints`."""
    config = []
    for pool in record.pools:
        aux = {name: text for name, text in record.aux_addresses.items() if record.pool_of(text) == pool}
        shown = {
            "Subnet": pool.subnet,
            "IPRange": pool.ip_range,
            "Gateway": pool.gateway,
            "AuxiliaryAddresses": aux,
        }
        config.append({key: value for key, value in shown.items() if value})
    if record.ipam_driver == NO_ADDRESSES:
        families_wanted = ((record.enable_ipv4, "0.0.0.0/0"), (record.enable_ipv6, "::/0"))
        config = [{"Subnet": everything} for wanted, everything in families_wanted if wanted]
    if record.config_only:
        config = [msgspec.to_builtins(each) for each in configurations.ipam_of(record).config]
    return {
        "Name": record.name,
        "Id": record.id,
        "Created": record.created,
        "Scope": "local",
        "Driver": record.driver,
        "EnableIPv4": record.enable_ipv4,
        "EnableIPv6": bool(record.subnet6) or (record.enable_ipv6 and record.ipam_driver == NO_ADDRESSES),
        "IPAM": {"Driver": record.ipam_driver, "Options": record.ipam_options, "Config": config},
        "Internal": record.internal,
        "Attachable": record.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": record.config_from},
        "ConfigOnly": record.config_only,
        "Containers": {
            endpoint_name(endpoint) if endpoint.way_out else endpoint.container_id: _resource(record, endpoint)
            for endpoint in endpoints
            if endpoint.network_id == record.id and endpoint.ready and not endpoint.placeholder
        },
        "Options": dict(record.options),
        "Labels": dict(record.labels),
    }


def endpoint_name(endpoint: Endpoint) -> str:
    """What an endpoint is called: as its container, if the user put it there."""
    return f"gateway_{endpoint.sandbox_id[:12]}" if endpoint.way_out else endpoint.container_name


def _resource(record: Network, endpoint: Endpoint) -> Description:
    four, six = prefix_lengths(record, endpoint)
    return {
        "Name": endpoint_name(endpoint),
        "EndpointID": endpoint.id,
        "MacAddress": endpoint.mac,
        "IPv4Address": f"{endpoint.address}/{four}" if endpoint.address else "",
        "IPv6Address": f"{endpoint.address6}/{six}" if endpoint.address6 else "",
    }


def status(record: Network, addresses: Iterable[str]) -> Description:
    """`Status` of a network (API 1.52): what `addresses`, those of its endpoints, leave of its subnets.

    Another driver's addresses are not ours to count, as in Docker.
    """
    subnets = {}
    used = {*addresses, *(pool.gateway for pool in record.pools), *record.aux_addresses.values()} - {""}
    if record.ipam_driver == "default" and drivers.of(record).has_interfaces:
        for pool in record.pools:
            within = ip_network(pool.ip_range) if pool.ip_range else None
            in_use, free = ipam.usage(ip_network(pool.subnet), within, used)
            subnets[pool.subnet] = {"IPsInUse": in_use, "DynamicIPsAvailable": free}
    return {"IPAM": {"Subnets": subnets} if subnets else {}}


def bridge_options(config: NetworkConfig) -> dict[str, str]:
    """The default bridge's driver options, under Docker's names."""
    return {
        "com.docker.network.bridge.default_bridge": "true",
        options.ICC: _boolean(config.icc),
        options.MASQUERADE: _boolean(config.ip_masq),
        options.HOST_IP: config.default_host_ip,
        options.NAME: config.bridge,
        options.MTU: str(config.mtu),
    }


def endpoint_settings(record: Network, endpoint: Endpoint, asked: EndpointSettings | None) -> EndpointSettings:
    """What a container got: what it asked for, filled in."""
    wish = asked or EndpointSettings()
    routes = drivers.of(record).default_routes(record, endpoint)
    four, six = prefix_lengths(record, endpoint)
    gateways = {route.family: str(route.gateway) for route in routes if route.gateway is not None}
    return EndpointSettings(
        ipam_config=wish.ipam_config,
        links=wish.links,
        aliases=wish.aliases,
        driver_opts=wish.driver_opts,
        gw_priority=wish.gw_priority,
        mac_address=endpoint.mac,
        network_id=record.id,
        endpoint_id=endpoint.id,
        gateway=gateways.get(4, ""),
        ip_address=endpoint.address,
        ip_prefix_len=four if endpoint.address else 0,
        ipv6_gateway=gateways.get(6, ""),
        global_ipv6_address=endpoint.address6,
        global_ipv6_prefix_len=six if endpoint.address6 else 0,
        dns_names=endpoint.names or None,
    )


def _boolean(value: bool) -> str:
    return "true" if value else "false"
