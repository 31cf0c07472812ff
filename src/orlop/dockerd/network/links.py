# SPDX-License-Identifier: Apache-2.0
"""A container's interface as a plan, and the ways in which interfaces come into a namespace."""

from collections.abc import Sequence
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import NamedTuple, Protocol

from orlop.dockerd.network import linkkinds, rtnetlink
from orlop.dockerd.network.rtnetlink import Address, RouteSocket

Interface = IPv4Interface | IPv6Interface


class Route(NamedTuple):
    """A route through a container's interface; without a `gateway` the destination is on the link itself."""

    destination: IPv4Network | IPv6Network
    gateway: Address | None = None

    @property
    def family(self) -> int:
        """4 or 6."""
        return self.destination.version


EVERYWHERE: dict[int, IPv4Network | IPv6Network] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}
"""The destination of a default route, by family."""


class Link(Protocol):
    """How an interface is made. `host` is a socket of the host's namespace, `inside` one of the container's."""

    def create(self, plan: "InterfacePlan", netns: int, host: RouteSocket) -> None:
        """Make the interface in the namespace with descriptor `netns`. Raises OSError."""

    def connect(self, plan: "InterfacePlan", host: RouteSocket) -> None:
        """What is left to do once the interface has its addresses. Raises OSError."""

    def remove(self, plan: "InterfacePlan", host: RouteSocket, inside: RouteSocket) -> None:
        """Undo `create`. Raises OSError."""


class InterfacePlan(NamedTuple):
    """A container's interface: how it is made, its addresses and the routes that lead through it.

    `mac` may be empty and `mtu` 0: what the kernel chooses. `sysctls` are pairs of a path below /proc/sys/net and
    a value; `neighbours` are addresses that the container knows by heart, with their MAC addresses.
    """

    link: Link
    name: str
    mac: str
    mtu: int
    addresses: Sequence[Interface]
    routes: Sequence[Route] = ()
    sysctls: Sequence[tuple[str, str]] = ()
    neighbours: Sequence[tuple[Address, str]] = ()


class Veth(NamedTuple):
    """A veth pair: `name` stays on the host, as a port of the bridge with index `bridge`."""

    name: str
    bridge: int
    hairpin: bool = False
    isolated: bool = False

    def create(self, plan: InterfacePlan, netns: int, host: RouteSocket) -> None:
        """Make both ends."""
        pair = rtnetlink.veth_new(
            self.name, bridge=self.bridge, mtu=plan.mtu, peer=plan.name, peer_mac=plan.mac, netns_fd=netns
        )
        host.request(pair)

    def connect(self, plan: InterfacePlan, host: RouteSocket) -> None:
        """Set up the bridge's port, and have bridge and host know the addresses.

        What a container says of addresses is not believed: else one that may send raw frames would get what is
        meant for others.
        """
        port = host.link(self.name).ifindex
        host.request(
            rtnetlink.port_set(port, hairpin=self.hairpin, isolated=self.isolated),
            rtnetlink.forwarding_set(port, plan.mac),
            *(rtnetlink.neighbour_set(self.bridge, address.ip, plan.mac) for address in plan.addresses),
        )

    def remove(self, plan: InterfacePlan, host: RouteSocket, inside: RouteSocket) -> None:
        """Delete both ends."""
        host.request(rtnetlink.link_delete(self.name))


class _Stacked:
    """What is made on top of an interface of the host, and lives in the container alone."""

    def connect(self, plan: InterfacePlan, host: RouteSocket) -> None:
        """Nothing is left to do."""

    def remove(self, plan: InterfacePlan, host: RouteSocket, inside: RouteSocket) -> None:
        """Delete it."""
        inside.request(rtnetlink.link_delete(plan.name))


class Macvlan(_Stacked):
    """A macvlan of the interface `parent`."""

    def __init__(self, parent: str, mode: int) -> None:
        self._parent = parent
        self._mode = mode

    def create(self, plan: InterfacePlan, netns: int, host: RouteSocket) -> None:
        """Make it."""
        parent = _find(host, self._parent, "parent interface").ifindex
        message = linkkinds.macvlan_new(
            plan.name, parent=parent, mode=self._mode, mac=plan.mac, mtu=plan.mtu, netns_fd=netns
        )
        host.request(message)


class Ipvlan(_Stacked):
    """An ipvlan of the interface `parent`."""

    def __init__(self, parent: str, mode: int, flags: int) -> None:
        self._parent = parent
        self._mode = mode
        self._flags = flags

    def create(self, plan: InterfacePlan, netns: int, host: RouteSocket) -> None:
        """Make it."""
        parent = _find(host, self._parent, "parent interface").ifindex
        message = linkkinds.ipvlan_new(
            plan.name, parent=parent, mode=self._mode, flags=self._flags, mtu=plan.mtu, netns_fd=netns
        )
        host.request(message)


class Given(NamedTuple):
    """An interface that somebody else made on the host, as `source`: it is moved into the container, and back."""

    source: str

    def create(self, plan: InterfacePlan, netns: int, host: RouteSocket) -> None:
        """Move it in."""
        link = _find(host, self.source, "interface")
        messages = (
            [linkkinds.mac_set(link.ifindex, plan.mac, self.source)] if plan.mac not in ("", link.mac) else []
        )
        host.request(*messages, linkkinds.move(link.ifindex, plan.name, netns, self.source))

    def connect(self, plan: InterfacePlan, host: RouteSocket) -> None:
        """Nothing is left to do."""

    def remove(self, plan: InterfacePlan, host: RouteSocket, inside: RouteSocket) -> None:
        """Move it back to where the daemon is."""
        index = next((link.ifindex for link in inside.links() if link.name == plan.name), 0)
        if index:
            inside.request(linkkinds.move_home(index, self.source))


def _find(host: RouteSocket, name: str, what: str) -> rtnetlink.Link:
    try:
        return host.link(name)
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"find {what} {name}") from None
