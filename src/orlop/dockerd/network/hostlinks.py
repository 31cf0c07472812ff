# SPDX-License-Identifier: Apache-2.0
"""The host's interfaces, as networks meet them: what is there, whose addresses are taken, how they go."""

import errno
from ipaddress import IPv4Interface, IPv6Interface

from orlop.dockerd.network import rtnetlink
from orlop.dockerd.network.kernel import Kernel
from orlop.dockerd.network.rtnetlink import Link, Subnet
from orlop.errdefs import PermissionDeniedError


def find(kernel: Kernel, name: str) -> Link | None:
    """The interface of that name."""
    return next((link for link in kernel.route.links() if link.name == name), None)


def is_bridge(kernel: Kernel, name: str) -> bool:
    """Whether there is a bridge of that name. Raises PermissionDeniedError for an interface that is none."""
    link = find(kernel, name)
    if link is not None and link.kind != "bridge":
        raise PermissionDeniedError(f"cannot create network: interface {name} exists and is no bridge")
    return link is not None


def addresses(kernel: Kernel, name: str) -> tuple[list[IPv4Interface | IPv6Interface], list[Subnet]]:
    """An interface's own addresses (none if there is no such interface), and all networks that others use."""
    route = kernel.route
    index = next((link.ifindex for link in route.links() if link.name == name), 0)
    found = [(owner, address) for owner, address in route.addresses() if not address.is_link_local]
    existing = [address for owner, address in found if owner == index]
    taken = [address.network for owner, address in found if owner != index]
    taken += [network for owner, network in route.routes() if owner != index and not network.is_link_local]
    return existing, taken


def delete(kernel: Kernel, name: str) -> None:
    """Delete an interface; no error if there is none."""
    try:
        kernel.route.request(rtnetlink.link_delete(name))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
