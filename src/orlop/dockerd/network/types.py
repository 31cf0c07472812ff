# SPDX-License-Identifier: Apache-2.0
"""The values that go in and out of the network service, and the records it keeps."""

from typing import Any

import msgspec

from orlop.engine.types import EndpointSettings, PortBinding


class NetworkConfig(msgspec.Struct, kw_only=True, frozen=True):
    """The daemon's network settings, as in daemon.json.

    `bip` is the default bridge's own address with its prefix length ("172.17.0.1/16"; empty: the first of Docker's
    pools that no interface of the host uses). `mtu` in bytes. `userland_proxy` off means that loopback traffic
    to published ports is redirected by the kernel.
    """

    bridge: str = "orlop0"
    bip: str = ""
    fixed_cidr: str = ""
    default_gateway: str = ""
    mtu: int = 1500
    icc: bool = True
    iptables: bool = True
    ip_forward: bool = True
    ip_masq: bool = True
    userland_proxy: bool = True
    default_host_ip: str = "0.0.0.0"
    dns: list[str] = []
    dns_search: list[str] = []
    dns_options: list[str] = []
    host_gateway_ip: str = ""


class SandboxRequest(msgspec.Struct, kw_only=True):
    """What a container wants of the network.

    `mode` is HostConfig.NetworkMode: "bridge", "default" or "" (the default bridge), "none", "host",
    "container:<id>" (then `netns_path` is that container's namespace) or the name or id of a network.
    `endpoints` holds the requested address, MAC and aliases by network name. `ports` is
    HostConfig.PortBindings; `exposed_ports` keys are as "80/tcp"; `publish_all` publishes all of these.
    `links` are "name:alias" with the target's address already looked up in `link_addresses` by name.
    """

    container_id: str
    name: str
    hostname: str = ""
    domainname: str = ""
    mode: str = "default"
    netns_path: str = ""
    endpoints: dict[str, EndpointSettings] = {}
    port_bindings: dict[str, list[PortBinding] | None] = {}
    exposed_ports: list[str] = []
    publish_all: bool = False
    dns: list[str] = []
    dns_search: list[str] = []
    dns_options: list[str] = []
    extra_hosts: list[str] = []
    links: list[str] = []
    link_addresses: dict[str, str] = {}
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


class Network(msgspec.Struct, kw_only=True):
    """A network's record. `driver` is bridge, host or null; `subnet` and `gateway` as text, empty without IPAM."""

    id: str
    name: str
    driver: str
    created: str
    bridge: str = ""
    subnet: str = ""
    gateway: str = ""
    ip_range: str = ""
    internal: bool = False
    options: dict[str, str] = {}
    labels: dict[str, str] = {}


class PortMapping(msgspec.Struct, kw_only=True, frozen=True):
    """One published port: packets for `host_ip`:`host_port` reach `address`:`port` of the container."""

    protocol: str
    host_ip: str
    host_port: int
    address: str
    port: int


class Endpoint(msgspec.Struct, kw_only=True):
    """A container's interface in a network as recorded; `ready` is false while the request is under way."""

    id: str
    network_id: str
    container_id: str
    container_name: str
    sandbox_id: str
    address: str = ""
    mac: str = ""
    veth: str = ""
    netns: str = ""
    ready: bool = False
    ports: list[PortMapping] = []
    exposed: list[str] = []


Description = dict[str, Any]
"""An object of the Engine API as a dict, ready to be written as JSON."""
