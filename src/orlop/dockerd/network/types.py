# SPDX-License-Identifier: Apache-2.0
"""The values that go in and out of the network service, and the records it keeps."""

from ipaddress import ip_address, ip_network
from typing import Any

import msgspec

from orlop.engine.types import EndpointSettings, PortBinding


class NetworkConfig(msgspec.Struct, kw_only=True, frozen=True):
    """The daemon's network settings, as in daemon.json.

    `bip` is the default bridge's own address with its prefix length ("172.17.0.1/16"; empty: the first of Docker's
    pools that no interface of the host uses). `mtu` in bytes. `userland_proxy` off means that the kernel redirects
    loopback traffic and what containers send to published ports, and that nobody carries what it cannot redirect.
    """

    bridge: str = "orlop0"
    bip: str = ""
    fixed_cidr: str = ""
    default_gateway: str = ""
    ipv6: bool = False
    bip6: str = ""
    fixed_cidr6: str = ""
    default_gateway6: str = ""
    mtu: int = 1500
    icc: bool = True
    iptables: bool = True
    ip6tables: bool = True
    ip_forward: bool = True
    ip_forward_no_drop: bool = False
    """Leave the policy for what is forwarded alone when turning that on."""
    ip_masq: bool = True
    userland_proxy: bool = True
    default_host_ip: str = "0.0.0.0"
    dns: list[str] = []
    dns_search: list[str] = []
    dns_options: list[str] = []
    host_gateway_ip: str = ""
    host_firewall: bool = False
    """Published ports are the proxy's, so that the machine's own rules for what comes in judge them."""
    allow_direct_routing: bool = False
    accept_mark: str = ""
    """Packets with this mark ("0x1/0xff") enter bridges whatever else is said."""
    default_options: dict[str, dict[str, str]] = {}
    """Options of new networks that do not say otherwise, by driver."""
    address_pools: list[tuple[str, int]] = []
    """Where networks without a subnet get one: ranges and the prefix length to cut; empty: Docker's own."""

    @property
    def redirects(self) -> bool:
        """Whether the kernel redirects published ports."""
        return self.iptables and not self.host_firewall


class SandboxRequest(msgspec.Struct, kw_only=True):
    """What a container wants of the network.

    `mode` is HostConfig.NetworkMode: "bridge", "default" or "" (the default bridge), "none", "host",
    "container:<id>" (then `netns_path` is that container's namespace) or the name or id of a network.
    `endpoints` holds the requested address, MAC and aliases by network name. `ports` is
    HostConfig.PortBindings; `exposed_ports` keys are as "80/tcp"; `publish_all` publishes all of these.
    `netns_origin` is the path of a new network namespace to take, where none is to be made.
    `links` are "name:alias"; for the default bridge `link_hosts` is what they are in the hosts file, as (names,
    address), and `linked` are the ids of the containers that they mean.
    """

    container_id: str
    name: str
    hostname: str = ""
    domainname: str = ""
    mode: str = "default"
    netns_path: str = ""
    netns_origin: str = ""
    endpoints: dict[str, EndpointSettings] = {}
    port_bindings: dict[str, list[PortBinding] | None] = {}
    exposed_ports: list[str] = []
    publish_all: bool = False
    dns: list[str] = []
    dns_search: list[str] = []
    dns_options: list[str] = []
    extra_hosts: list[str] = []
    links: list[str] = []
    link_hosts: list[tuple[str, str]] = []
    linked: list[str] = []
    mac_address: str = ""


class Sandbox(msgspec.Struct, kw_only=True):
    """A container's network as it is: what the OCI spec, inspect and the bind-mounted files need.

    `netns_path` is None for the host's network. `ports` is inspect's NetworkSettings.Ports (None: exposed but not
    published). `resolv_conf` and `hosts` are the whole contents of those files.
    """

    sandbox_id: str
    sandbox_key: str
    netns_path: str | None
    endpoints: dict[str, EndpointSettings]
    ports: dict[str, list[PortBinding] | None]
    resolv_conf: str
    hosts: str


class Attached(msgspec.Struct, kw_only=True):
    """What a running container got by entering one more network `name`.

    `resolv_conf` is the whole file where it has to change, else empty; `hosts_lines` are to be added to the other.
    """

    name: str
    settings: EndpointSettings
    ports: dict[str, list[PortBinding] | None]
    resolv_conf: str = ""
    hosts_lines: str = ""


class Detached(msgspec.Struct, kw_only=True):
    """What a running container lost by leaving a network: its `addresses` there; `ports` are what it has now."""

    name: str
    network_id: str
    addresses: list[str]
    ports: dict[str, list[PortBinding] | None]


class Pool(msgspec.Struct, frozen=True):
    """A subnet of a network, where new addresses come from in it (empty: from all of it), and its gateway."""

    subnet: str
    gateway: str = ""
    ip_range: str = ""

    @property
    def version(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.subnet else 4


class Network(msgspec.Struct, kw_only=True):
    """A network's record. `subnet` and `gateway` as text, empty without IPv4; those with a 6 without IPv6.
    `more_pools` are what else it has, where its driver can have several subnets of a family.

    `bridge` is the interface of the host that its containers hang on: a bridge, or a macvlan's parent. `ready` is
    false while the network is being made or removed; `own_bridge` if that interface was made for it. `ipam_pools`
    are the ids that an IPAM plugin gave its subnets, by family ("4", "6"). `config_only`: it is no more than the
    request that is its `template`, which others name as their `config_from`.
    """

    id: str
    name: str
    driver: str
    created: str
    bridge: str = ""
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    subnet: str = ""
    gateway: str = ""
    ip_range: str = ""
    subnet6: str = ""
    gateway6: str = ""
    ip_range6: str = ""
    more_pools: list[Pool] = []
    aux_addresses: dict[str, str] = {}
    ipam_driver: str = "default"
    ipam_options: dict[str, str] | None = None
    ipam_pools: dict[str, str] = {}
    internal: bool = False
    attachable: bool = False
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    config_only: bool = False
    config_from: str = ""
    template: dict[str, Any] = {}
    ready: bool = True
    own_bridge: bool = True

    @property
    def pools(self) -> list[Pool]:
        """All its subnets; the first of each family comes first."""
        first = Pool(self.subnet, self.gateway, self.ip_range), Pool(self.subnet6, self.gateway6, self.ip_range6)
        return [*(pool for pool in first if pool.subnet), *self.more_pools]

    def pool_of(self, address: str) -> Pool | None:
        """The subnet that an address belongs to."""
        if not address:
            return None
        same = [pool for pool in self.pools if (pool.version == 6) == (":" in address)]
        if len(same) == 1:
            return same[0]
        return next((pool for pool in same if ip_address(address) in ip_network(pool.subnet)), None)

    @property
    def predefined(self) -> bool:
        """Whether it is one of Docker's own: bridge, host, none."""
        return self.name in PREDEFINED

    @property
    def families(self) -> tuple[int, ...]:
        """The families of addresses that it has: 4, 6."""
        return (4,) * self.enable_ipv4 + (6,) * self.enable_ipv6

    @property
    def served(self) -> bool:
        """Whether its containers get DNS: it is a user's."""
        return not self.predefined


PREDEFINED = ("bridge", "host", "none")


class DnsSettings(msgspec.Struct, kw_only=True, frozen=True):
    """What a container's resolver does with names that it does not know: upstream servers, and as which of them
    the host can be asked only in the host's namespace; `qualified`: a name needs a dot to be asked there."""

    upstreams: list[str] = []
    host_upstreams: list[str] = []
    qualified: bool = False


class PortMapping(msgspec.Struct, kw_only=True, frozen=True):
    """One published port: packets for `host_ip`:`host_port` reach `address`:`port` of the container.

    `routed`: it is reached at the container's own address, and the host has no port for it (`host_port` is 0);
    `direct`: there, too, from interfaces that the network trusts.
    """

    protocol: str
    host_ip: str
    host_port: int
    address: str
    port: int
    routed: bool = False
    direct: bool = False


NO_ADDRESSES = "null"
"""The IPAM driver that gives no addresses: a network plugin does, or nobody."""


def prefix_lengths(network: Network, endpoint: "Endpoint") -> tuple[int, int]:
    """The lengths of the prefixes of an endpoint's addresses, IPv4's and IPv6's: mostly those of the subnets."""
    pools = (network.pool_of(address) for address in (endpoint.address, endpoint.address6))
    four, six = (int(pool.subnet.rpartition("/")[2]) if pool else 0 for pool in pools)
    return endpoint.prefix or four, endpoint.prefix6 or six


def addresses_of(endpoint: "Endpoint") -> list[str]:
    """An endpoint's addresses, IPv4 first."""
    return [address for address in (endpoint.address, endpoint.address6) if address]


class Joined(msgspec.Struct, kw_only=True, frozen=True):
    """What a network plugin answered when an endpoint joined: the interface that it made, gateways, and routes as
    destination and gateway (empty: on the link); `contained`: without a gateway there shall be no way out."""

    source: str
    gateway: str = ""
    gateway6: str = ""
    routes: list[tuple[str, str]] = []
    contained: bool = False


class Endpoint(msgspec.Struct, kw_only=True):
    """A container's interface in a network as recorded; `ready` is false while the request is under way.

    Several endpoints of a container share `sandbox_id`, `netns` and `dns`. `names` are what others in the network
    call it, `aliases` what it calls others. `prefix` and `prefix6` are lengths where a plugin chose the addresses.
    `ports` are published through the endpoint that has the default route. `link_local` are more addresses,
    `sysctls` settings of the interface below /proc/sys/net. `resolved`: orlop-netd serves DNS in the namespace. A
    `placeholder` keeps the namespace of a running container that has left all its networks. `linked` are the ids
    of the containers whose exposed ports it reaches although its bridge keeps containers apart. `way_out`: it is
    only there for its default route, the user has not asked for it.
    """

    id: str
    network_id: str
    container_id: str
    container_name: str
    sandbox_id: str
    address: str = ""
    address6: str = ""
    prefix: int = 0
    prefix6: int = 0
    mac: str = ""
    veth: str = ""
    netns: str = ""
    link_local: list[str] = []
    sysctls: list[tuple[str, str]] = []
    joined: Joined | None = None
    ready: bool = False
    ports: list[PortMapping] = []
    exposed: list[str] = []
    interface: str = "eth0"
    names: list[str] = []
    aliases: dict[str, str] = {}
    gw_priority: int = 0
    dns: DnsSettings = DnsSettings()
    resolved: bool = False
    placeholder: bool = False
    linked: list[str] = []
    way_out: bool = False

    @property
    def shown(self) -> bool:
        """Whether the container is in this network as far as its user is concerned."""
        return not self.placeholder and not self.way_out


Description = dict[str, Any]
"""An object of the Engine API as a dict, ready to be written as JSON."""
