# SPDX-License-Identifier: Apache-2.0
"""Addresses: the pools networks are cut from, and the next free address of a network (pure functions)."""

import socket
from collections.abc import Collection, Iterable, Sequence
from hashlib import sha256
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)

from orlop.errdefs import InvalidArgumentError, ResourceExhaustedError

Address = IPv4Address | IPv6Address
Subnet = IPv4Network | IPv6Network
Interface = IPv4Interface | IPv6Interface
_ADDRESS: dict[int, type[IPv4Address] | type[IPv6Address]] = {4: IPv4Address, 6: IPv6Address}

DEFAULT_POOLS: tuple[tuple[IPv4Network, int], ...] = (
    (IPv4Network("172.17.0.0/16"), 16),
    (IPv4Network("172.18.0.0/16"), 16),
    (IPv4Network("172.19.0.0/16"), 16),
    (IPv4Network("172.20.0.0/14"), 16),
    (IPv4Network("172.24.0.0/14"), 16),
    (IPv4Network("172.28.0.0/14"), 16),
    (IPv4Network("192.168.0.0/16"), 20),
)
"""Docker's local pools: base and the prefix length of the networks cut from it (moby, libnetwork/ipamutils)."""


Pools = Sequence[tuple[Subnet, int]]


def next_subnet(taken: Iterable[Subnet], pools: Pools = DEFAULT_POOLS) -> Subnet:
    """The first network of the pools, all of one family, that overlaps none of `taken`.

    Raises InvalidArgumentError.
    """
    ranges = sorted((each.version, int(each.network_address), int(each.broadcast_address)) for each in taken)
    for base, size in pools:
        step = 1 << (base.max_prefixlen - size)
        start = int(base.network_address)
        for version, first, last in ranges:
            if version != base.version or last < start:
                continue
            if first >= start + step:
                break
            start = (last // step + 1) * step
        if start <= int(base.broadcast_address):
            return type(base)((start, size))
    raise InvalidArgumentError("all predefined address pools have been fully subnetted")


def overlaps(one: Subnet, other: Subnet) -> bool:
    """Whether two networks have addresses in common."""
    return one.version == other.version and one.overlaps(other)


def unique_subnet(network_id: str) -> IPv6Network:
    """A network of 64 bits that is nobody else's (RFC 4193: drawn at random, here from the network's own id)."""
    drawn = sha256(network_id.encode()).digest()
    return IPv6Network((b"\xfd" + drawn[:7] + bytes(8), 64))


def next_address(subnet: Subnet, within: Subnet | None, used: Collection[str]) -> Address:
    """The lowest address of `within` (default: all of `subnet`) that is not in `used`.

    The gateway has to be in `used`. Raises ResourceExhaustedError.
    """
    pool = within or subnet
    taken = {int(each) for each in reserved(subnet)}
    family = socket.AF_INET6 if subnet.version == 6 else socket.AF_INET
    # ipaddress takes ten times as long for each of the hundreds that there may be
    same = (text for text in used if text and (":" in text) == (subnet.version == 6))
    taken.update(int.from_bytes(socket.inet_pton(family, text)) for text in same)
    for number in range(int(pool.network_address), int(pool.broadcast_address) + 1):
        if number not in taken:
            return _ADDRESS[subnet.version](number)
    raise ResourceExhaustedError(
        f"no available IPv{subnet.version} addresses on this network's address pools: {pool}"
    )


def usage(subnet: Subnet, within: Subnet | None, used: Collection[str]) -> tuple[int, int]:
    """How many addresses of a subnet are in use, and how many of `within` can still be given to who asks for none.

    Those that are never given count as used, as in Docker, and no number is larger than 64 bits hold.
    """
    addresses = {ip_address(each) for each in used} | reserved(subnet)
    taken = {address for address in addresses if address in subnet}
    pool = within or subnet
    free = pool.num_addresses - sum(1 for address in taken if address in pool)
    return len(taken), min(free, (1 << 64) - 1)


def reserved(subnet: Subnet) -> set[Address]:
    """The addresses that are never given: the network's own, which is IPv6's address of any router, and IPv4's
    broadcast address; IPv4's links of two (RFC 3021) have neither."""
    if subnet.version == 6:
        return {subnet.network_address}
    return {subnet.network_address, subnet.broadcast_address} if subnet.num_addresses > 2 else set()


def parse_pools(pools: Iterable[tuple[str, int]]) -> dict[int, Pools]:
    """`default-address-pools` of the configuration by family; Docker's for IPv4 where it has none.

    Raises InvalidArgumentError.
    """
    found: dict[int, list[tuple[Subnet, int]]] = {4: [], 6: []}
    for base, size in pools:
        try:
            network = ip_network(base)
        except ValueError as error:
            raise InvalidArgumentError(f"invalid default-address-pools: {base!r}: {error}") from None
        if not network.prefixlen <= size <= network.max_prefixlen - 2:
            raise InvalidArgumentError(
                f"invalid default-address-pools: networks of size {size} cannot be cut from {base}"
            )
        found[network.version].append((network, size))
    return {4: found[4] or DEFAULT_POOLS, 6: found[6]}


def parse_interface(field: str, text: str) -> IPv4Interface | IPv6Interface:
    """An address with its prefix length ("172.17.0.1/16"). Raises InvalidArgumentError naming `field`."""
    try:
        if "/" not in text:
            raise ValueError("the prefix length is missing")
        return ip_interface(text)
    except ValueError as error:
        raise InvalidArgumentError(f"invalid {field}: {text!r}: {error}") from None


def mac_of(address: Address) -> str:
    """The MAC address Docker derives from an IPv4 address: 02:42 and its four bytes; likewise from an IPv6 one.

    A next container with the same address has the same MAC, so no neighbour's ARP entry goes stale.
    """
    last = address.packed if address.version == 4 else sha256(address.packed).digest()[:4]
    return ":".join(f"{byte:02x}" for byte in b"\x02\x42" + last)
