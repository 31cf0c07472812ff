# SPDX-License-Identifier: Apache-2.0
"""Networks and endpoints in the Engine API's words (pure functions)."""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

from orlop.dockerd.network import options
from orlop.dockerd.network.types import Description, Endpoint, Network, NetworkConfig
from orlop.engine.types import EndpointSettings


def network(record: Network, endpoints: Iterable[Endpoint]) -> Description:
    """A network as GET /networks/{id} tells it, with the containers of `endpoints`."""
    config: list[Description] = []
    if record.subnet:
        shown: Description = {"Subnet": record.subnet, "Gateway": record.gateway}
        if record.ip_range:
            shown["IPRange"] = record.ip_range
        if record.aux_addresses:
            shown["AuxiliaryAddresses"] = dict(record.aux_addresses)
        config.append(shown)
    if record.subnet6:
        config.append({"Subnet": record.subnet6, "Gateway": record.gateway6})
        if record.ip_range6:
            config[-1]["IPRange"] = record.ip_range6
    return {
        "Name": record.name,
        "Id": record.id,
        "Created": record.created,
        "Scope": "local",
        "Driver": record.driver,
        "EnableIPv4": True,
        "EnableIPv6": bool(record.subnet6),
        "IPAM": {"Driver": "default", "Options": dict(record.ipam_options) or None, "Config": config},
        "Internal": record.internal,
        "Attachable": record.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {
            endpoint.container_id: {
                "Name": endpoint.container_name,
                "EndpointID": endpoint.id,
                "MacAddress": endpoint.mac,
                "IPv4Address": f"{endpoint.address}/{_prefix(record)}" if endpoint.address else "",
                "IPv6Address": f"{endpoint.address6}/{_prefix6(record)}" if endpoint.address6 else "",
            }
            for endpoint in endpoints
            if endpoint.network_id == record.id and endpoint.ready and not endpoint.placeholder
        },
        "Options": dict(record.options),
        "Labels": dict(record.labels),
    }


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
    return EndpointSettings(
        ipam_config=wish.ipam_config,
        links=wish.links,
        aliases=wish.aliases,
        driver_opts=wish.driver_opts,
        gw_priority=wish.gw_priority,
        mac_address=endpoint.mac,
        network_id=record.id,
        endpoint_id=endpoint.id,
        gateway=record.gateway if endpoint.address and not record.internal else "",
        ip_address=endpoint.address,
        ip_prefix_len=_prefix(record) if endpoint.address else 0,
        ipv6_gateway=record.gateway6 if endpoint.address6 and not record.internal else "",
        global_ipv6_address=endpoint.address6,
        global_ipv6_prefix_len=_prefix6(record) if endpoint.address6 else 0,
        dns_names=endpoint.names or None,
    )


def _prefix(record: Network) -> int:
    return IPv4Network(record.subnet).prefixlen


def _prefix6(record: Network) -> int:
    return IPv6Network(record.subnet6).prefixlen


def _boolean(value: bool) -> str:
    return "true" if value else "false"
