# SPDX-License-Identifier: Apache-2.0
"""Network plugins: drivers in other processes, over Docker's remote driver protocol.

Source: moby, daemon/libnetwork/docs/remote.md (messages NetworkDriver.*).
"""

from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from orlop.dockerd.network import options
from orlop.dockerd.network.drivers.base import Driver
from orlop.dockerd.network.links import EVERYWHERE, Given, Link, Route
from orlop.dockerd.network.plugins import NetworkPlugins
from orlop.dockerd.network.types import (
    NO_ADDRESSES,
    Endpoint,
    Joined,
    Network,
    NetworkConfig,
    SandboxRequest,
)
from orlop.errdefs import InternalError

_GENERIC = "com.docker.network.generic"
_PORT_MAP = "com.docker.network.portmap"
_EXPOSED = "com.docker.network.endpoint.exposedports"
_MAC = "com.docker.network.endpoint.macaddress"
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_BY_NEXT_HOP = 0
"""StaticRoute.RouteType; 1 is: on the link."""


class RemoteDriver(Driver):
    """The plugin makes the interface; it is moved into the container, and back at the end."""

    has_interfaces = True
    asks_plugin = True
    several_subnets = True

    def __init__(self, name: str) -> None:
        """`name` is the plugin's."""
        self.name = name

    def chooses_gateway(self, network: Network, version: int) -> bool:
        """The first address is kept for the plugin's gateway, as in Docker."""
        return True

    def derives_mac(self, network: Network) -> bool:
        """The plugin does, where the user does not."""
        return False

    def default_routes(self, network: Network, endpoint: Endpoint) -> Sequence[Route]:
        """By the gateways that the plugin named."""
        joined = endpoint.joined
        if network.internal or joined is None:
            return ()
        return [
            Route(EVERYWHERE[ip_address(text).version], ip_address(text))
            for text in (joined.gateway, joined.gateway6)
            if text
        ]

    def wants_way_out(self, network: Network, endpoint: Endpoint) -> bool:
        """Unless the network is internal, or the plugin wants none or has a route of its own to everywhere."""
        joined = endpoint.joined
        if network.internal or joined is None or joined.contained:
            return False
        return str(EVERYWHERE[4]) not in (destination for destination, _ in joined.routes)

    def other_routes(self, network: Network, endpoint: Endpoint) -> Sequence[Route]:
        """Those that the plugin wants."""
        if endpoint.joined is None:
            return ()
        return [
            Route(ip_network(destination), ip_address(gateway) if gateway else None)
            for destination, gateway in endpoint.joined.routes
        ]

    def link(self, network: Network, endpoint: Endpoint, config: NetworkConfig) -> Link:
        """The interface that the plugin made."""
        return Given(endpoint.joined.source if endpoint.joined else "")

    # -- the plugin

    async def announce(self, plugins: NetworkPlugins, network: Network) -> None:
        """CreateNetwork."""
        capabilities = await plugins.call(self.name, "NetworkDriver.GetCapabilities")
        if (scope := capabilities.get("Scope")) not in ("local", "global"):
            text = f'plugin "{self.name}": NetworkDriver.GetCapabilities: Scope: {scope!r} is not local or global'
            raise InternalError(text)
        arguments = {
            "NetworkID": network.id,
            "Options": {
                _GENERIC: dict(network.options),
                options.ENABLE[4]: network.enable_ipv4,
                options.ENABLE[6]: network.enable_ipv6,
                "com.docker.network.internal": network.internal,
            },
            "IPv4Data": _addresses(network, 4),
            "IPv6Data": _addresses(network, 6),
        }
        await plugins.call(self.name, "NetworkDriver.CreateNetwork", arguments)

    async def retract(self, plugins: NetworkPlugins, network: Network) -> None:
        """DeleteNetwork."""
        await plugins.call(self.name, "NetworkDriver.DeleteNetwork", {"NetworkID": network.id})

    async def admit(
        self, plugins: NetworkPlugins, network: Network, endpoint: Endpoint, request: SandboxRequest
    ) -> None:
        """CreateEndpoint, Join and ProgramExternalConnectivity."""
        who = {"NetworkID": network.id, "EndpointID": endpoint.id}
        settings: dict[str, Any] = {_EXPOSED: _exposed(request)} | ({_MAC: endpoint.mac} if endpoint.mac else {})
        interface = {
            "Address": _in_pool(network, endpoint.address),
            "AddressIPv6": _in_pool(network, endpoint.address6),
            "MacAddress": endpoint.mac,
        }
        arguments = {**who, "Options": settings, "Interface": interface}
        answer = await plugins.call(self.name, "NetworkDriver.CreateEndpoint", arguments)
        _complete(endpoint, answer.get("Interface") or {}, self.name)
        answer = await plugins.call(
            self.name, "NetworkDriver.Join", {**who, "SandboxKey": endpoint.netns, "Options": settings}
        )
        endpoint.joined = _joined(answer, self.name)
        prefix = (answer.get("InterfaceName") or {}).get("DstPrefix") or ""
        if prefix and endpoint.interface.startswith(self.interface_prefix(network)):
            endpoint.interface = prefix + endpoint.interface.removeprefix(self.interface_prefix(network))
        connectivity = {**who, "Options": settings | {_PORT_MAP: _port_map(request)}}
        await plugins.call(self.name, "NetworkDriver.ProgramExternalConnectivity", connectivity)

    async def dismiss(self, plugins: NetworkPlugins, network: Network, endpoint: Endpoint) -> None:
        """RevokeExternalConnectivity, Leave and DeleteEndpoint, each even if the one before fails."""
        who = {"NetworkID": network.id, "EndpointID": endpoint.id}
        failure: Exception | None = None
        for method in ("RevokeExternalConnectivity", "Leave", "DeleteEndpoint"):
            try:
                await plugins.call(self.name, f"NetworkDriver.{method}", who)
            except InternalError as error:
                failure = failure or error
        if failure is not None:
            raise failure


def _addresses(network: Network, version: int) -> list[dict[str, Any]]:
    if version in network.families and network.ipam_driver == NO_ADDRESSES:
        return [{"AddressSpace": NO_ADDRESSES, "Pool": str(EVERYWHERE[version])}]
    return [
        {
            "AddressSpace": "LocalDefault",
            "Pool": pool.subnet,
            "Gateway": _with_prefix(pool.gateway, pool.subnet),
            "AuxAddresses": {
                name: _with_prefix(text, pool.subnet)
                for name, text in network.aux_addresses.items()
                if network.pool_of(text) == pool
            },
        }
        for pool in network.pools
        if pool.version == version
    ]


def _in_pool(network: Network, address: str) -> str:
    pool = network.pool_of(address)
    return _with_prefix(address, pool.subnet) if pool is not None else ""


def _with_prefix(address: str, subnet: str) -> str:
    return f"{address}/{subnet.rpartition('/')[2]}" if address else ""


def _exposed(request: SandboxRequest) -> list[dict[str, int]]:
    found = []
    for text in request.exposed_ports:
        port, _, protocol = text.partition("/")
        found.append({"Proto": _PROTOCOLS.get(protocol or "tcp", 0), "Port": int(port)})
    return found


def _port_map(request: SandboxRequest) -> list[dict[str, Any]]:
    found = []
    for text, bindings in request.port_bindings.items():
        port, _, protocol = text.partition("/")
        for binding in bindings or ():
            first, _, last = binding.host_port.partition("-")
            found.append(
                {
                    "Proto": _PROTOCOLS.get(protocol or "tcp", 0),
                    "IP": "",
                    "Port": int(port),
                    "HostIP": binding.host_ip,
                    "HostPort": int(first or 0),
                    "HostPortEnd": int(last or first or 0),
                }
            )
    return found


def _complete(endpoint: Endpoint, interface: Mapping[str, str], name: str) -> None:
    """What the plugin chose; it may not contradict what was chosen before."""
    fields = (("Address", "address", "prefix"), ("AddressIPv6", "address6", "prefix6"), ("MacAddress", "mac", ""))
    for key, field, prefix in fields:
        value = interface.get(key) or ""
        if not value:
            continue
        length = 0
        if prefix:
            try:
                given = ip_interface(value)
            except ValueError:
                text = f'plugin "{name}": CreateEndpoint: {key}: {value!r} is no address'
                raise InternalError(text) from None
            value, length = str(given.ip), given.network.prefixlen
        value = value.lower()
        known = getattr(endpoint, field)
        if known and known != value:
            raise InternalError(
                f'plugin "{name}": CreateEndpoint: it may not change {key} from {known} to {value}'
            )
        if not known and prefix:
            setattr(endpoint, prefix, length)
        setattr(endpoint, field, value)


def _joined(answer: Mapping[str, Any], name: str) -> Joined:
    source = (answer.get("InterfaceName") or {}).get("SrcName") or ""
    if not source or len(source) > 15 or "/" in source:
        raise InternalError(f'plugin "{name}": Join: InterfaceName.SrcName: {source!r} is no interface name')
    routes = [
        (each["Destination"], each.get("NextHop", "") if each.get("RouteType", 0) == _BY_NEXT_HOP else "")
        for each in answer.get("StaticRoutes") or ()
    ]
    joined = Joined(
        source=source,
        gateway=answer.get("Gateway") or "",
        gateway6=answer.get("GatewayIPv6") or "",
        routes=routes,
        contained=bool(answer.get("DisableGatewayService")),
    )
    try:
        for destination, gateway in [*routes, ("", joined.gateway), ("", joined.gateway6)]:
            if destination:
                ip_network(destination)
            if gateway:
                ip_address(gateway)
    except ValueError as error:
        raise InternalError(f'plugin "{name}": Join: {error}') from None
    return joined
