# SPDX-License-Identifier: Apache-2.0
"""What a kind of network has to say about itself, and what it does in the kernel."""

from collections.abc import Collection, Iterable, Sequence
from ipaddress import ip_interface

from orlop.dockerd.network.firewall import BridgeRules
from orlop.dockerd.network.kernel import Kernel
from orlop.dockerd.network.links import InterfacePlan, Link, Route
from orlop.dockerd.network.plugins import NetworkPlugins
from orlop.dockerd.network.rtnetlink import Address
from orlop.dockerd.network.source_guard import Source
from orlop.dockerd.network.types import Endpoint, Network, NetworkConfig, SandboxRequest, prefix_lengths
from orlop.engine.types import NetworkCreateRequest
from orlop.errdefs import UnavailableError


class Driver:
    """One kind of network. Drivers keep no state: all there is to know is in the network's record.

    The methods without `kernel` are pure; those with it run in the kernel's thread and raise OSError naming the
    step. What a driver does not override is what a network without interfaces does: nothing.
    """

    name = ""
    creatable = True
    """Users make networks of this kind."""
    own_namespace = True
    """Its containers have a network namespace of their own."""
    has_interfaces = False
    """Its endpoints have an interface and addresses."""
    publishes = False
    """Ports of its containers are published on the host."""
    takes_mac = True
    """Its interfaces may have the MAC address that a user wishes."""
    asks_plugin = False
    """Networks and endpoints are told to a plugin, by the methods with `plugins`."""
    several_subnets = False
    """A network has more than one subnet of a family, if the user says so."""
    options: Collection[str] = ()
    """The names of its options (`-o`)."""

    # -- a network

    def plan(self, network: Network, request: NetworkCreateRequest) -> None:
        """Check what a request asks of this driver, and enter it in the record.

        Raises InvalidArgumentError naming the option.
        """

    def chooses_gateway(self, network: Network, version: int) -> bool:
        """Whether a family (4, 6) whose gateway the user leaves open gets one: an address of the host's bridge."""
        return False

    def settle(self, network: Network, others: Iterable[Network]) -> None:
        """Check a network against the others there are. Raises PermissionDeniedError naming the other one."""

    def adopt(self, kernel: Kernel, network: Network, others: Iterable[Network]) -> None:
        """Look what of it is there already and is not ours to remove. Raises OrlopError if that is in the way."""

    def set_up(self, kernel: Kernel, network: Network, config: NetworkConfig) -> None:
        """Make the host's part where it is missing."""

    def unset(self, kernel: Kernel, network: Network) -> None:
        """Undo what `set_up` has done besides interfaces."""

    def take_down(self, network: Network, others: Iterable[Network]) -> Sequence[str]:
        """The interfaces of the host that go with a network."""
        return ()

    def tidy(self, kernel: Kernel, network: Network, known: Collection[str]) -> None:
        """After a restart: see to the interfaces of the endpoints, whose names are `known`."""

    def rules(self, network: Network) -> BridgeRules | None:
        """A network's part in the firewall."""
        return None

    def opens_links(self, network: Network) -> bool:
        """Whether `--link` opens ports between its containers, which are kept apart otherwise."""
        return False

    # -- an endpoint

    def source(self, network: Network, endpoint: Endpoint) -> Source | None:
        """What an endpoint is held to, where its network keeps containers from speaking for others."""
        return None

    def host_interface(self, endpoint_id: str) -> str:
        """The interface that stays in the host's namespace; empty if there is none."""
        return ""

    def derives_mac(self, network: Network) -> bool:
        """Whether MAC addresses follow from the addresses where the user wishes none."""
        return True

    def interface_prefix(self, network: Network) -> str:
        """What the names of interfaces in containers begin with."""
        return "eth"

    def default_routes(self, network: Network, endpoint: Endpoint) -> Sequence[Route]:
        """The ways out of a network, at most one for each family."""
        return ()

    def other_routes(self, network: Network, endpoint: Endpoint) -> Sequence[Route]:
        """Routes through an endpoint besides the default ones."""
        return ()

    def wants_way_out(self, network: Network, endpoint: Endpoint) -> bool:
        """Whether an endpoint that has no default route needs one in another network."""
        return False

    def link(self, network: Network, endpoint: Endpoint, config: NetworkConfig) -> Link:
        """How the interface of an endpoint is made. Called in the kernel's thread. Raises OSError (the step)."""
        raise NotImplementedError

    def neighbours(self, network: Network) -> Sequence[tuple[Address, str]]:
        """What containers know by heart: addresses and their MAC addresses. Called in the kernel's thread."""
        return ()

    def mtu(self, network: Network) -> int:
        """The size of packets, in bytes; 0 leaves it to the kernel."""
        return 0

    # -- a plugin

    async def announce(self, plugins: NetworkPlugins, network: Network) -> None:
        """A network is made. Raises OrlopError."""

    async def retract(self, plugins: NetworkPlugins, network: Network) -> None:
        """A network goes. Raises OrlopError."""

    async def admit(
        self, plugins: NetworkPlugins, network: Network, endpoint: Endpoint, request: SandboxRequest
    ) -> None:
        """An endpoint is made, with addresses; what the plugin says about it is entered. Raises OrlopError."""

    async def dismiss(self, plugins: NetworkPlugins, network: Network, endpoint: Endpoint) -> None:
        """An endpoint goes; its interface is where the plugin made it, or nowhere. Raises OrlopError."""


def interface_plan(
    network: Network, endpoint: Endpoint, link: Link, routes: Sequence[Route], driver: Driver
) -> InterfacePlan:
    """What has to be made in the kernel for an endpoint; `routes` are the default routes that lead through it."""
    pairs = zip((endpoint.address, endpoint.address6), prefix_lengths(network, endpoint), strict=True)
    given = [f"{address}/{length}" for address, length in pairs if address]
    given += [f"{address}/{64 if ':' in address else 16}" for address in endpoint.link_local]
    return InterfacePlan(
        link=link,
        name=endpoint.interface,
        mac=endpoint.mac,
        mtu=driver.mtu(network),
        addresses=tuple(ip_interface(each) for each in given),
        routes=tuple(routes),
        sysctls=tuple((key.replace("IFNAME", endpoint.interface), value) for key, value in endpoint.sysctls),
        neighbours=driver.neighbours(network),
    )


def unavailable(network: Network, error: OSError) -> UnavailableError:
    """A step of a network's set-up that the kernel refused, in a sentence."""
    step = f" ({error.filename})" if error.filename else ""
    return UnavailableError(f"cannot set up network {network.name}{step}: {error.strerror}")
