# SPDX-License-Identifier: Apache-2.0
"""Network namespaces of containers: made, pinned to a file, furnished, and removed.

A thread that enters another namespace must not serve anything else meanwhile, so these functions run in the
network service's own worker thread, which returns to its namespace before each of them ends.
"""

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

from orlop.dockerd.network import rtnetlink
from orlop.dockerd.network.rtnetlink import RouteSocket
from orlop.unix.mount import MS_BIND, mount, umount2
from orlop.unix.nftables import Nftables, NftablesError
from orlop.unix.process import CLONE_NEWNET, setns, unshare

_THREAD_NETNS = "/proc/thread-self/ns/net"
_MNT_DETACH = 2
_LOOPBACK_INDEX = 1
# No router advertisement may reconfigure a container, and an IPv4 network has no IPv6 addresses at all; interfaces
# that arrive later start with these. The loopback interface keeps ::1.
_IPV6_OFF = (("accept_ra", "0"), ("disable_ipv6", "1"))


class InterfacePlan(NamedTuple):
    """A container's interface: the veth pair between a bridge and the namespace, and its addresses."""

    veth: str
    bridge: int
    mtu: int
    name: str
    mac: str
    address: IPv4Address
    network: IPv4Network
    gateway: IPv4Address | None
    hairpin: bool
    isolated: bool
    address6: IPv6Address | None = None
    network6: IPv6Network | None = None
    gateway6: IPv6Address | None = None


def create(path: str, interfaces: Sequence[InterfacePlan], host: RouteSocket, rules: str = "") -> None:
    """Make a namespace pinned at `path`, its loopback up, with `interfaces` in it and `rules` for nft(8).

    `host` is a socket of the bridges' namespace. Raises OSError; then neither pin nor interface is left.
    """
    with contextlib.ExitStack() as undo:
        with _returning_home():
            unshare(CLONE_NEWNET)
            _pin(path, undo)
            _set_ipv6_defaults()
            with contextlib.closing(RouteSocket()) as inside:
                inside.request(rtnetlink.link_up(_LOOPBACK_INDEX, "lo"))
                for interface in interfaces:
                    _furnish(interface, inside, host, undo)
            _apply(rules)
        undo.pop_all()


def attach(path: str, interface: InterfacePlan, host: RouteSocket, rules: str = "") -> None:
    """Put one more interface into the namespace at `path`; its gateway, if it has one, becomes the default.

    Raises OSError; then no interface is left.
    """
    with contextlib.ExitStack() as undo:
        with _entered(path), contextlib.closing(RouteSocket()) as inside:
            _furnish(interface, inside, host, undo)
            _apply(rules)
        undo.pop_all()


def set_gateways(path: str, gateways: Sequence[rtnetlink.Address]) -> None:
    """Lead the default routes of the namespace at `path` through other gateways. Raises OSError."""
    with _entered(path), contextlib.closing(RouteSocket()) as inside:
        inside.request(*(rtnetlink.default_route(gateway, replace=True) for gateway in gateways))


def free_name(path: str, prefix: str) -> str:
    """The first name `prefix`0, `prefix`1 … that no interface at `path` has. Raises OSError."""
    with _entered(path):
        taken = {name for _, name in socket.if_nameindex()}
    number = 0
    while f"{prefix}{number}" in taken:
        number += 1
    return f"{prefix}{number}"


def remove(path: str) -> None:
    """Unpin a namespace. Once no process is left in it the kernel takes it and its interfaces away by itself."""
    with contextlib.suppress(FileNotFoundError):
        if is_pinned(path):
            umount2(path, _MNT_DETACH)
        os.unlink(path)


def is_pinned(path: str) -> bool:
    """Whether a namespace is mounted at `path`."""
    try:
        return os.stat(path).st_dev != os.stat(os.path.dirname(path)).st_dev
    except FileNotFoundError:
        return False


def set_sysctl(key: str, value: str) -> bool:
    """Write a kernel setting ("net/ipv4/ip_forward") of the thread's namespace; False if the kernel lacks it."""
    try:
        with open(f"/proc/sys/{key}", "r+", encoding="ascii") as file:
            # Where /proc/sys is read-only for us the right value may be there already.
            if file.read().strip() != value:
                file.seek(0)
                file.write(value)
    except FileNotFoundError:
        return False
    return True


@contextlib.contextmanager
def _entered(path: str) -> Iterator[None]:
    namespace = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with _returning_home():
            setns(namespace, CLONE_NEWNET)
            yield
    finally:
        os.close(namespace)


def _apply(rules: str) -> None:
    """Commands for nft(8), in the thread's namespace."""
    if not rules:
        return
    with contextlib.closing(Nftables()) as nft:
        try:
            nft.run(rules)
        except NftablesError as error:
            raise OSError(error.errno, error.strerror, "redirect queries to the resolver") from None


@contextlib.contextmanager
def _returning_home() -> Iterator[None]:
    home = os.open(_THREAD_NETNS, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        try:
            setns(home, CLONE_NEWNET)
        finally:
            os.close(home)


def _pin(path: str, undo: contextlib.ExitStack) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400))
    undo.callback(remove, path)
    mount(_THREAD_NETNS, path, flags=MS_BIND)


def _set_ipv6_defaults() -> None:
    for key, value in _IPV6_OFF:
        set_sysctl(f"net/ipv6/conf/default/{key}", value)  # absent in a kernel without IPv6


def _furnish(plan: InterfacePlan, inside: RouteSocket, host: RouteSocket, undo: contextlib.ExitStack) -> None:
    netns = os.open(_THREAD_NETNS, os.O_RDONLY | os.O_CLOEXEC)
    try:
        veth = rtnetlink.veth_new(
            plan.veth, bridge=plan.bridge, mtu=plan.mtu, peer=plan.name, peer_mac=plan.mac, netns_fd=netns
        )
        host.request(veth)
    finally:
        os.close(netns)
    undo.callback(host.request, rtnetlink.link_delete(plan.veth))
    index = socket.if_nametoindex(plan.name)
    messages = [rtnetlink.link_up(index, plan.name), rtnetlink.address_add(index, plan.address, plan.network)]
    if plan.gateway is not None:
        messages.append(rtnetlink.default_route(plan.gateway, replace=True))
    if plan.address6 is not None and plan.network6 is not None:
        set_sysctl(f"net/ipv6/conf/{plan.name}/disable_ipv6", "0")
        messages.append(rtnetlink.address_add(index, plan.address6, plan.network6))
        if plan.gateway6 is not None:
            messages.append(rtnetlink.default_route(plan.gateway6, replace=True))
    inside.request(*messages)
    with contextlib.suppress(FileNotFoundError):  # usually nobody had the address before with another MAC
        host.request(rtnetlink.neighbour_delete(plan.bridge, plan.address))
    if plan.address6 is not None:
        with contextlib.suppress(FileNotFoundError):
            host.request(rtnetlink.neighbour_delete(plan.bridge, plan.address6))
    if plan.hairpin or plan.isolated:
        port = next(link.ifindex for link in host.links() if link.name == plan.veth)
        host.request(rtnetlink.port_set(port, hairpin=plan.hairpin, isolated=plan.isolated))
