# SPDX-License-Identifier: Apache-2.0
"""The host's interfaces, as networks meet them: what is there, whose addresses are taken, how they go."""

import errno
import fcntl
import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Interface, IPv6Interface, ip_address

from orlop.dockerd.network import rtnetlink
from orlop.dockerd.network.kernel import Kernel
from orlop.dockerd.network.rtnetlink import Link, Subnet
from orlop.errdefs import PermissionDeniedError

_SIOCGIFHWADDR = 0x8927
_MAX_NAME = 15


def find(kernel: Kernel, name: str) -> Link | None:
    """The interface of that name. Raises OSError."""
    if len(name.encode()) > _MAX_NAME:
        return None
    try:
        link = kernel.route.link(name)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return None
    return link if link.name == name else None  # an interface may have other names besides


def is_bridge(kernel: Kernel, name: str) -> bool:
    """Whether there is a bridge of that name. Raises PermissionDeniedError for an interface that is none."""
    link = find(kernel, name)
    if link is not None and link.kind != "bridge":
        raise PermissionDeniedError(f"cannot create network: interface {name} exists and is no bridge")
    return link is not None


def addresses(
    kernel: Kernel, name: str, families: Iterable[int]
) -> tuple[list[IPv4Interface | IPv6Interface], list[Subnet]]:
    """An interface's own addresses (none if there is no such interface), and all networks that others use.

    `families` (4, 6) are those looked at: in IPv6 every interface counts, also each container's, and the kernel's
    list is as long.
    """
    route = kernel.route
    own = find(kernel, name)
    index = own.ifindex if own is not None else 0
    existing: list[IPv4Interface | IPv6Interface] = []
    taken: list[Subnet] = []
    for family in families:
        found = [(owner, address) for owner, address in route.addresses(family) if not address.is_link_local]
        existing += [address for owner, address in found if owner == index]
        taken += [address.network for owner, address in found if owner != index]
        routes = route.routes(family)
        taken += [network for owner, network in routes if owner != index and not network.is_link_local]
    return existing, taken


def mac(name: str) -> str:
    """The MAC address of an interface, in the thread's namespace. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, _SIOCGIFHWADDR, struct.pack("16s24x", name.encode()))
    return ":".join(f"{byte:02x}" for byte in answer[18:24])


def forget_neighbours(kernel: Kernel, veth: str, addresses: Iterable[str]) -> None:
    """Strike addresses behind a port of a bridge out of what the host knows; no error for those it does not."""
    try:
        index = kernel.route.link(veth).master
        if index:  # else somebody deleted the bridge
            kernel.route.request(
                *(rtnetlink.neighbour_delete(index, ip_address(address)) for address in addresses)
            )
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise


def delete(kernel: Kernel, name: str) -> None:
    """Delete an interface; no error if there is none."""
    try:
        kernel.route.request(rtnetlink.link_delete(name))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
