# SPDX-License-Identifier: Apache-2.0
"""The network service: gives each container its network sandbox and takes it away again."""

import datetime
import os
import secrets
import sqlite3
from ipaddress import IPv4Network

from orlop.dockerd.network import bridge, conntrack, describe, files, ipam, netns, ports, requests
from orlop.dockerd.network.bridge import BridgeState
from orlop.dockerd.network.firewall import Firewall
from orlop.dockerd.network.kernel import Kernel, KernelThread
from orlop.dockerd.network.leaving import LeavingLinks
from orlop.dockerd.network.publisher import Publisher
from orlop.dockerd.network.rules import Rules
from orlop.dockerd.network.store import NetworkStore
from orlop.dockerd.network.types import (
    Description,
    Endpoint,
    Network,
    NetworkConfig,
    Sandbox,
    SandboxRequest,
)
from orlop.engine.types import EndpointSettings, PortBinding
from orlop.errdefs import InternalError, InvalidArgumentError, NotFoundError, OrlopError, ResourceExhaustedError
from orlop.netd.client import NetdClient
from orlop.unix.nftables import NftablesError

_RESOLV_CONF = "/etc/resolv.conf"
_HOSTS = "/etc/hosts"
_IPV6 = "/proc/sys/net/ipv6"
_SHORT_ID = 12


class NetworkService:
    """Networks and the sandboxes of containers.

    Lifecycle: construct, `await start()` once, then `connect` and `release` per container, `await close()`.
    Nothing in the kernel ends with the service: namespaces, interfaces, rules and held ports live on, and the
    next `start` finds them by what is recorded. All methods belong to the event loop's thread. Calls about one
    container must not overlap; calls about different ones may.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        netd: NetdClient,
        config: NetworkConfig,
        exec_root: str = "/run/orlop",
    ) -> None:
        """Use `connection` (its schema made by `init_schema`); namespaces are pinned under `exec_root`/netns."""
        self._store = NetworkStore(connection)
        self._config = config
        self._directory = os.path.join(exec_root, "netns")
        self._thread = KernelThread()
        self._leaving = LeavingLinks(self._thread)
        self._publisher = Publisher(netd, config, self._live_endpoints)
        table = "orlop" if config.bridge == NetworkConfig().bridge else f"orlop_{config.bridge}"
        plan = Firewall(table, config.userland_proxy)
        self._rules = Rules(self._thread, plan) if config.iptables else None
        self._networks: dict[str, Network] = {}
        self._bridge: BridgeState | None = None

    async def start(self) -> None:
        """Make the default bridge, its rules and settings; settle what earlier runs left behind.

        Endpoints whose namespace exists are kept, with their published ports held again; the rest is removed.
        Raises UnavailableError if the kernel refuses a step, naming it.
        """
        os.makedirs(self._directory, mode=0o755, exist_ok=True)
        await self._start_networks()
        await self._drop_dead_endpoints()
        await self._drop_unknown_leftovers()
        if self._rules is not None:
            bridges = [bridge.rules(each, self._config) for each in self._networks.values() if each.bridge]
            await self._rules.start(bridges, [port for each in self._live_endpoints() for port in each.ports])
        await self._publisher.start()

    async def close(self) -> None:
        """Let go of sockets and threads; networks and sandboxes stay."""
        if self._rules is not None:
            await self._rules.close()
        await self._leaving.close()
        await self._thread.close()

    async def connect(self, request: SandboxRequest) -> Sandbox:
        """Make a container's network sandbox; everything is undone on error.

        A sandbox that the container still has is released first. In mode "container:<id>" nothing is made:
        `resolv_conf` and `hosts` are empty, for the other container's files serve both. Raises NotFoundError (no
        such network), InvalidArgumentError (names the field), InternalError for ports in Docker's words.
        """
        if request.mode.startswith("container:"):
            return requests.joined(request)
        network = self._network(requests.network_name(request.mode))
        asked = requests.wishes(request, network)
        extra = requests.extra_hosts(request, self._host_gateway())
        wanted = self._wanted_ports(request) if network.driver == "bridge" else []
        await self.release(request.container_id)
        endpoint = self._allocate(request, network, asked)
        try:
            self._store.put_endpoint(endpoint)  # the intent: whatever happens now can be undone after a crash
            await self._make(endpoint, wanted)
            endpoint.ready = True
            self._store.put_endpoint(endpoint)
            return self._sandbox(network, endpoint, request, asked, extra)
        except BaseException:
            await self._undo(endpoint)
            raise

    async def release(self, container_id: str) -> None:
        """Undo `connect`; no error if there is nothing (any more)."""
        for endpoint in self._store.endpoints_of(container_id):
            await self._undo(endpoint)

    def rename(self, container_id: str, name: str) -> None:
        """A container has another name now: networks show it. No error if it has no sandbox."""
        for endpoint in self._store.endpoints_of(container_id):
            endpoint.container_name = name
            self._store.put_endpoint(endpoint)

    def sandbox(self, container_id: str) -> Sandbox | None:
        """The sandbox that a container has, as recorded; its hosts and resolv.conf are not: they are empty."""
        for endpoint in self._store.endpoints_of(container_id):
            if endpoint.ready:
                network = self._networks[endpoint.network_id]
                return Sandbox(
                    sandbox_id=endpoint.sandbox_id,
                    sandbox_key=self._key(endpoint),
                    netns_path=endpoint.netns or None,
                    endpoints={network.name: describe.endpoint_settings(network, endpoint, None)},
                    ports=_ports(network, endpoint),
                    resolv_conf="",
                    hosts="",
                )
        return None

    def list_networks(self) -> list[Description]:
        """GET /networks: every network, without its containers."""
        return [describe.network(network, ()) for network in self._networks.values()]

    def inspect_network(self, reference: str) -> Description:
        """GET /networks/{id}: by name, id or unambiguous beginning of an id. Raises NotFoundError."""
        return describe.network(self._network(reference), self._store.endpoints())

    # start

    async def _start_networks(self) -> None:
        recorded = {network.name: network for network in self._store.networks()}
        names = {"bridge": "bridge", "host": "host", "none": "null"}
        if self._config.bridge == "none":  # the administrator wants no default bridge
            del names["bridge"]
        else:
            self._bridge = await self._thread.call(
                bridge.set_up, self._config.bridge, self._config, recorded.get("bridge")
            )
        for name, driver in names.items():
            network = recorded.get(name) or Network(
                id=secrets.token_hex(32), name=name, driver=driver, created=_now()
            )
            if self._bridge is not None and driver == "bridge":
                network.bridge = self._config.bridge
                network.subnet, network.gateway = str(self._bridge.subnet), str(self._bridge.gateway)
                network.ip_range = self._config.fixed_cidr
                network.options = describe.bridge_options(self._config)
            self._store.put_network(network)
            self._networks[network.id] = network

    async def _drop_dead_endpoints(self) -> None:
        for endpoint in self._store.endpoints():
            if not endpoint.ready or (endpoint.netns and not netns.is_pinned(endpoint.netns)):
                # its ports are not entered yet, and orlop-netd is told later to free what no live endpoint has
                await self._thread.call(_dismantle, endpoint, None)
                if endpoint.veth:
                    await self._thread.call(bridge.delete_link, endpoint.veth)
                self._store.delete_endpoint(endpoint.id)

    async def _drop_unknown_leftovers(self) -> None:
        live = self._store.endpoints()
        pins = {os.path.basename(endpoint.netns) for endpoint in live}
        for name in os.listdir(self._directory):
            if name not in pins:
                netns.remove(os.path.join(self._directory, name))
        if self._bridge is not None:
            await self._thread.call(bridge.attach_known, self._bridge, {endpoint.veth for endpoint in live})

    def _live_endpoints(self) -> list[Endpoint]:
        return [endpoint for endpoint in self._store.endpoints() if endpoint.ready]

    # connect and release

    def _allocate(self, request: SandboxRequest, network: Network, asked: EndpointSettings) -> Endpoint:
        endpoint_id, sandbox_id = secrets.token_hex(32), secrets.token_hex(32)
        endpoint = Endpoint(
            id=endpoint_id,
            network_id=network.id,
            container_id=request.container_id,
            container_name=request.name,
            sandbox_id=sandbox_id,
            exposed=request.exposed_ports,
        )
        if network.driver != "host":
            endpoint.netns = os.path.join(self._directory, sandbox_id[:_SHORT_ID])
        if network.driver == "bridge":
            used = self._store.addresses(network.id) | self._leaving.addresses() | {network.gateway}
            ip_range = IPv4Network(network.ip_range) if network.ip_range else None
            address = ipam.next_address(IPv4Network(network.subnet), ip_range, used)
            endpoint.address = str(address)
            endpoint.mac = asked.mac_address or ipam.mac_of(address)
            endpoint.veth = bridge.veth_name(endpoint_id)
        return endpoint

    async def _make(self, endpoint: Endpoint, wanted: list[ports.PortRequest]) -> None:
        if wanted:
            try:
                endpoint.ports = await self._publisher.publish(endpoint.container_id, endpoint.address, wanted)
            except (InternalError, ResourceExhaustedError) as error:
                raise _not_published(endpoint, error) from None
        try:
            await self._thread.call(self._build, endpoint)
        except NftablesError as error:
            raise _not_published(endpoint, error) from None
        except OSError as error:
            step = f" ({error.filename})" if error.filename else ""
            raise InternalError(f"failed to set up container networking{step}: {error.strerror}") from None

    def _build(self, kernel: Kernel, endpoint: Endpoint) -> None:
        """In the kernel's thread: everything that one endpoint needs."""
        if not endpoint.netns:
            return
        interface = None
        if endpoint.address:
            assert self._bridge is not None
            interface = bridge.interface_plan(self._bridge, endpoint, self._config)
        netns.create(endpoint.netns, interface, kernel.route)
        if self._rules is not None:
            self._rules.publish(kernel, endpoint.ports)

    async def _undo(self, endpoint: Endpoint) -> None:
        """Take an endpoint away; its record goes last, so that a failure in between is settled later."""
        if endpoint.veth:
            self._leaving.expect(endpoint.veth, endpoint.address)
        await self._thread.call(_dismantle, endpoint, self._rules)
        await self._publisher.withdraw(endpoint.container_id, endpoint.ports)
        self._store.delete_endpoint(endpoint.id)

    # what a request means

    def _network(self, reference: str) -> Network:
        for network in self._networks.values():
            if reference in (network.name, network.id):
                return network
        matches = [
            network for network in self._networks.values() if reference and network.id.startswith(reference)
        ]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise InvalidArgumentError(f"network {reference} is ambiguous ({len(matches)} matches found on id)")
        raise NotFoundError(f"network {reference} not found")

    def _wanted_ports(self, request: SandboxRequest) -> list[ports.PortRequest]:
        default = self._config.default_host_ip
        both = default == "0.0.0.0" and self._config.userland_proxy and os.path.exists(_IPV6)
        return ports.plan(
            request.port_bindings,
            request.exposed_ports,
            publish_all=request.publish_all,
            default_ips=(default, "::") if both else (default,),
        )

    def _host_gateway(self) -> str:
        return self._config.host_gateway_ip or (str(self._bridge.gateway) if self._bridge else "")

    def _sandbox(
        self,
        network: Network,
        endpoint: Endpoint,
        request: SandboxRequest,
        asked: EndpointSettings,
        extra: list[tuple[str, str]],
    ) -> Sandbox:
        own = network.driver != "host"
        resolv_conf = files.resolv_conf(
            files.parse_resolv_conf(_read(_RESOLV_CONF)),
            source=_RESOLV_CONF,
            dns=request.dns or self._config.dns,
            search=request.dns_search or self._config.dns_search,
            options=request.dns_options or self._config.dns_options,
            own_namespace=own,
        )
        hosts = _read(_HOSTS) if not own and not extra else files.hosts(
            hostname=request.hostname,
            domainname=request.domainname,
            addresses=[endpoint.address] if endpoint.address else [],
            extra=extra,
            ipv6=os.path.exists(_IPV6),
        )  # fmt: skip
        return Sandbox(
            sandbox_id=endpoint.sandbox_id,
            sandbox_key=self._key(endpoint),
            netns_path=endpoint.netns or None,
            endpoints={network.name: describe.endpoint_settings(network, endpoint, asked)},
            ports=_ports(network, endpoint),
            resolv_conf=resolv_conf,
            hosts=hosts,
        )

    def _key(self, endpoint: Endpoint) -> str:
        return endpoint.netns or os.path.join(self._directory, "default")


def _dismantle(kernel: Kernel, endpoint: Endpoint, rules: Rules | None) -> None:
    """In the kernel's thread: stop redirecting to an endpoint, and let its namespace go."""
    if rules is not None:
        rules.unpublish(kernel, endpoint.ports)
    if any(port.protocol == "udp" for port in endpoint.ports):
        conntrack.forget_udp({endpoint.address})
    if endpoint.netns:
        netns.remove(endpoint.netns)


def _not_published(endpoint: Endpoint, error: Exception) -> OrlopError:
    text = (error.strerror if isinstance(error, OSError) else "") or str(error)
    return InternalError(
        "driver failed programming external connectivity on endpoint "
        f"{endpoint.container_name} ({endpoint.id}): {text}"
    )


def _ports(network: Network, endpoint: Endpoint) -> dict[str, list[PortBinding] | None]:
    return ports.inspect(endpoint.exposed, endpoint.ports) if network.driver == "bridge" else {}


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
