# SPDX-License-Identifier: Apache-2.0
"""Addresses from a plugin, over Docker's remote IPAM protocol (moby, daemon/libnetwork/docs/ipam.md)."""

from ipaddress import ip_interface, ip_network
from typing import Any

from orlop.dockerd.network import drivers
from orlop.dockerd.network.plugins import NetworkPlugins
from orlop.dockerd.network.types import Endpoint, Network
from orlop.engine.types import EndpointIPAMConfig, EndpointSettings
from orlop.errdefs import InternalError

_REQUEST_TYPE = "RequestAddressType"
_GATEWAY = "com.docker.network.gateway"
_MAC = "com.docker.network.endpoint.macaddress"


class RemoteIpam:
    """One plugin's pools and addresses."""

    def __init__(self, plugins: NetworkPlugins, name: str) -> None:
        self._plugins = plugins
        self._name = name

    async def request_pools(self, network: Network) -> None:
        """Have the subnets and gateways of a network chosen or confirmed, and enter them with their pools' ids.

        Raises OrlopError; then the pools that it has are to be given back.
        """
        spaces = await self._call("GetDefaultAddressSpaces", {})
        for version, wanted in ((4, network.enable_ipv4), (6, network.enable_ipv6)):
            if wanted:
                await self._request_pool(network, version, spaces.get("LocalDefaultAddressSpace", ""))

    async def release_pools(self, network: Network) -> None:
        """Give the gateways and pools back."""
        for version, pool in list(network.ipam_pools.items()):
            for address in (network.gateway, *network.aux_addresses.values()):
                if address and (":" in address) == (version == "6"):
                    await self._call("ReleaseAddress", {"PoolID": pool, "Address": address})
            await self._call("ReleasePool", {"PoolID": pool})
            del network.ipam_pools[version]

    async def request_addresses(self, network: Network, asked: EndpointSettings) -> EndpointSettings:
        """The wishes for an endpoint with addresses that the plugin gave. Raises OrlopError."""
        wish = asked.ipam_config or EndpointIPAMConfig()
        found = {"4": wish.ipv4_address, "6": wish.ipv6_address}
        options = {_MAC: asked.mac_address} if asked.mac_address else {}
        for version, pool in network.ipam_pools.items():
            found[version] = await self._request_address(pool, found[version], options)
        return EndpointSettings(
            ipam_config=EndpointIPAMConfig(
                ipv4_address=found["4"], ipv6_address=found["6"], link_local_ips=wish.link_local_ips
            ),
            links=asked.links,
            aliases=asked.aliases,
            driver_opts=asked.driver_opts,
            gw_priority=asked.gw_priority,
            mac_address=asked.mac_address,
        )

    async def release_addresses(self, network: Network, endpoint: Endpoint) -> None:
        """Give an endpoint's addresses back."""
        for version, address in (("4", endpoint.address), ("6", endpoint.address6)):
            if address and version in network.ipam_pools:
                await self._call("ReleaseAddress", {"PoolID": network.ipam_pools[version], "Address": address})

    async def _request_pool(self, network: Network, version: int, space: str) -> None:
        four = version == 4
        subnet, ip_range = (network.subnet, network.ip_range) if four else (network.subnet6, network.ip_range6)
        answer = await self._call(
            "RequestPool",
            {
                "AddressSpace": space,
                "Pool": subnet,
                "SubPool": ip_range,
                "Options": dict(network.ipam_options or {}),
                "V6": not four,
            },
        )
        pool = str(answer.get("PoolID") or "")
        network.ipam_pools[str(version)] = pool
        chosen = self._subnet(answer.get("Pool"))
        gateway = network.gateway if four else network.gateway6
        if gateway or drivers.of(network).chooses_gateway(network, version):
            gateway = await self._request_address(pool, gateway, {_REQUEST_TYPE: _GATEWAY})
        for address in network.aux_addresses.values():
            if (":" in address) != four:
                await self._request_address(pool, address, {})
        if four:
            network.subnet, network.gateway = chosen, gateway
        else:
            network.subnet6, network.gateway6 = chosen, gateway

    async def _request_address(self, pool: str, address: str, options: dict[str, str]) -> str:
        answer = await self._call("RequestAddress", {"PoolID": pool, "Address": address, "Options": options})
        try:
            return str(ip_interface(answer.get("Address") or "").ip)
        except ValueError as error:
            raise InternalError(f'plugin "{self._name}": IpamDriver.RequestAddress: {error}') from None

    def _subnet(self, text: Any) -> str:
        try:
            return str(ip_network(text))
        except ValueError as error:
            raise InternalError(f'plugin "{self._name}": IpamDriver.RequestPool: {error}') from None

    async def _call(self, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return await self._plugins.call(self._name, f"IpamDriver.{method}", arguments)
