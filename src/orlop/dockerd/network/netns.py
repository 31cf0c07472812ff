# SPDX-License-Identifier: Apache-2.0
"""Network namespaces of containers: made, pinned to a file, furnished, and removed.

A thread that enters another namespace must not serve anything else meanwhile, so these functions run in the
network service's own worker thread, which returns to its namespace before each of them ends.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator, Mapping, Sequence

from orlop.dockerd.network import rtnetlink
from orlop.dockerd.network.links import InterfacePlan, Route
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
# Addresses that are given out are nobody else's: they serve at once.
_IPV6_ON = (("accept_dad", "0"), ("disable_ipv6", "0"))


def create(
    path: str, interfaces: Sequence[InterfacePlan], host: RouteSocket, rules: str = "", *, origin: str = ""
) -> None:
    """Make a namespace pinned at `path`, its loopback up, with `interfaces` in it and `rules` for nft(8).

    `host` is a socket of the host's namespace, `origin` the path of a new namespace to take, for one that belongs
    to another user namespace. Raises OSError; then neither pin nor interface is left.
    """
    with _entered(origin) if origin else _returning_home():
        if not origin:
            unshare(CLONE_NEWNET)
        with contextlib.ExitStack() as undo:
            _pin(path, undo)
            _set_ipv6_defaults()
            inside = undo.enter_context(contextlib.closing(RouteSocket()))
            inside.request(rtnetlink.link_up(_LOOPBACK_INDEX, "lo"))
            for interface in interfaces:
                _furnish(interface, inside, host, undo)
            _apply(rules)
            undo.pop_all()
            inside.close()


def attach(path: str, interface: InterfacePlan, host: RouteSocket, rules: str = "") -> None:
    """Put one more interface into the namespace at `path`; it gets the default routes that it has in its plan.

    Raises OSError; then no interface is left.
    """
    with _entered(path), contextlib.ExitStack() as undo:
        inside = undo.enter_context(contextlib.closing(RouteSocket()))
        _furnish(interface, inside, host, undo)
        _apply(rules)
        undo.pop_all()
        inside.close()


def detach(path: str, interface: InterfacePlan, host: RouteSocket) -> None:
    """Take an interface out of the namespace at `path`; no error if it is not there. Raises OSError."""
    with _entered(path), contextlib.closing(RouteSocket()) as inside:
        try:
            interface.link.remove(interface, host, inside)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise


def set_routes(path: str, routes: Sequence[tuple[str, Route]]) -> None:
    """Lead routes of the namespace at `path`, each with the name of its interface, elsewhere. Raises OSError."""
    with _entered(path), contextlib.closing(RouteSocket()) as inside:
        inside.request(
            *(
                rtnetlink.route(socket.if_nametoindex(name), each.destination, each.gateway)
                for name, each in routes
            )
        )


def names(path: str) -> set[str]:
    """The names of the interfaces in the namespace at `path`. Raises OSError."""
    with _entered(path):
        return {name for _, name in socket.if_nameindex()}


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
        file = os.open(f"/proc/sys/{key}", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # What is there already is not written again: for some settings the kernel walks through all interfaces.
        if os.pread(file, 4096, 0).strip() != value.encode():
            os.pwrite(file, value.encode(), 0)
    finally:
        os.close(file)
    return True


def set_sysctls(path: str, values: Mapping[str, str]) -> None:
    """Write settings ("net.ipv4.ip_forward") of the namespace at `path`. Blocks; raises OSError."""
    with _entered(path):
        for key, value in values.items():
            set_sysctl(key.replace(".", "/"), value)


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
        plan.link.create(plan, netns, host)
    finally:
        os.close(netns)
    undo.callback(plan.link.remove, plan, host, inside)
    index = socket.if_nametoindex(plan.name)
    messages = [rtnetlink.link_up(index, plan.name)]
    if any(address.version == 6 for address in plan.addresses):
        for key, value in _IPV6_ON:
            set_sysctl(f"net/ipv6/conf/{plan.name}/{key}", value)
    messages += [rtnetlink.address_add(index, address.ip, address.network) for address in plan.addresses]
    messages += [rtnetlink.route(index, route.destination, route.gateway) for route in plan.routes]
    messages += [rtnetlink.neighbour_set(index, address, mac) for address, mac in plan.neighbours]
    inside.request(*messages)
    for key, value in plan.sysctls:
        _set_endpoint_sysctl(key, value)
    plan.link.connect(plan, host)


def _set_endpoint_sysctl(key: str, value: str) -> None:
    try:
        with open(f"/proc/sys/net/{key}", "w", encoding="ascii") as file:
            file.write(value)
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"set net.{key.replace('/', '.')}={value}") from None
