# SPDX-License-Identifier: Apache-2.0
"""Addresses: the pools networks are cut from, and the next free address of a network (pure functions)."""

from collections.abc import Collection, Iterable, Sequence
from hashlib import sha256
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from orlop.errdefs import InvalidArgumentError, ResourceExhaustedError

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


Pools = Sequence[tuple[IPv4Network, int]]


def next_subnet(taken: Iterable[IPv4Network], pools: Pools = DEFAULT_POOLS) -> IPv4Network:
    """The first network of the pools that overlaps none of `taken`. Raises InvalidArgumentError."""
    occupied = list(taken)
    for base, size in pools:
        for subnet in base.subnets(new_prefix=size):
            if not any(subnet.overlaps(other) for other in occupied):
                return subnet
    raise InvalidArgumentError("all predefined address pools have been fully subnetted")


def unique_subnet(network_id: str) -> IPv6Network:
    """A network of 64 bits that is nobody else's (RFC 4193: drawn at random, here from the network's own id)."""
    drawn = sha256(network_id.encode()).digest()
    return IPv6Network((b"\xfd" + drawn[:7] + bytes(8), 64))


def next_address6(subnet: IPv6Network, ip_range: IPv6Network | None, used: Collection[str]) -> IPv6Address:
    """As `next_address`; the network's own address is the routers' (RFC 4291, 2.6.1) and never given."""
    pool = ip_range or subnet
    for number in range(int(pool.network_address), int(pool.broadcast_address) + 1):
        address = IPv6Address(number)
        if address != subnet.network_address and str(address) not in used:
            return address
    raise ResourceExhaustedError(f"no available IPv6 addresses on this network's address pools: {subnet}")


def next_address(subnet: IPv4Network, ip_range: IPv4Network | None, used: Collection[str]) -> IPv4Address:
    """The lowest address of `ip_range` (default: all of `subnet`) that is not in `used`.

    The network's own and the broadcast address are never given; the gateway has to be in `used`.
    Raises ResourceExhaustedError.
    """
    pool = ip_range or subnet
    reserved = (subnet.network_address, subnet.broadcast_address)
    for number in range(int(pool.network_address), int(pool.broadcast_address) + 1):
        address = IPv4Address(number)
        if address not in reserved and str(address) not in used:
            return address
    raise ResourceExhaustedError(f"no available IPv4 addresses on this network's address pools: {subnet}")


def parse_pools(pools: Iterable[tuple[str, int]]) -> Pools:
    """`default-address-pools` of the configuration; Docker's where it has none. Raises InvalidArgumentError."""
    found = []
    for base, size in pools:
        try:
            network = IPv4Network(base)
        except ValueError as error:
            raise InvalidArgumentError(f"invalid default-address-pools: {base!r}: {error}") from None
        if not network.prefixlen <= size <= 30:
            raise InvalidArgumentError(
                f"invalid default-address-pools: networks of size {size} cannot be cut from {base}"
            )
        found.append((network, size))
    return found or DEFAULT_POOLS


def parse_interface(field: str, text: str) -> tuple[IPv4Address, IPv4Network]:
    """An address with its prefix length ("172.17.0.1/16"). Raises InvalidArgumentError naming `field`."""
    try:
        address, _, prefix = text.partition("/")
        if not prefix:
            raise ValueError("the prefix length is missing")
        return IPv4Address(address), IPv4Network(text, strict=False)
    except ValueError as error:
        raise InvalidArgumentError(f"invalid {field}: {text!r}: {error}") from None


def mac_of(address: IPv4Address) -> str:
    """The MAC address Docker derives from an IPv4 address: 02:42 and its four bytes.

    A next container with the same address has the same MAC, so no neighbour's ARP entry goes stale.
    """
    return ":".join(f"{byte:02x}" for byte in b"\x02\x42" + address.packed)
