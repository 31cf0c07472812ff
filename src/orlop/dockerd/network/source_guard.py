# SPDX-License-Identifier: Apache-2.0
"""Source guard: containers of a network that asks for it send in their own name only (pure functions).

One table of the bridge family has a chain for each endpoint: frames with another MAC address, packets and ARP with
another address than the endpoint's are dropped where they enter the bridge, and so are the neighbour discovery's
messages that speak for others (RFC 4861).
"""

from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

_BASE = """\
table bridge {table} {{
    map guarded {{
        type ifname : verdict
    }}
    chain from_containers {{
        type filter hook prerouting priority -300; policy accept;
        iifname vmap @guarded
    }}
}}
"""
# The target of a neighbour advertisement begins behind 8 bytes (RFC 4861, 4.4). An unspecified source asks whether
# an address is taken.
_CHAIN = """\
table bridge {table} {{
    chain {port} {{
        ether saddr != {mac} drop
        meta protocol != {{ arp, ip, ip6 }} drop
        arp saddr ether != {mac} drop
        {arp}
        ip saddr != {four} drop
        ip6 saddr != {six} drop
        icmpv6 type {{ nd-router-advert, nd-redirect }} drop
        icmpv6 type nd-neighbor-advert @th,64,128 != {{ {targets} }} drop
    }}
}}
add element bridge {table} guarded {{ "{port}" : jump {port} }}
"""


class Source(NamedTuple):
    """An endpoint: the port of the bridge that it is behind, and what it may call itself."""

    port: str
    mac: str
    addresses: tuple[str, ...]


def install(table: str, sources: Iterable[Source]) -> str:
    """Make the table anew for these endpoints."""
    return (
        f"add table bridge {table}\n"
        + remove(table)
        + _BASE.format(table=table)
        + "".join(add(table, source) for source in sources)
    )


def remove(table: str) -> str:
    """Take the table away; an error if there is none."""
    return f"delete table bridge {table}\n"


def add(table: str, source: Source) -> str:
    """Guard one more endpoint."""
    four = [each for each in source.addresses if ":" not in each]
    six = [ip_address(each) for each in (*source.addresses, link_local(source.mac)) if ":" in each]
    return _CHAIN.format(
        table=table,
        port=source.port,
        mac=source.mac,
        arp=f"arp saddr ip != {_set(four)} drop" if four else "meta protocol arp drop",
        four=_set(four or ["255.255.255.255"]),
        six=_set(["::", *map(str, six)]),
        targets=", ".join(f"{int(each):#x}" for each in six),
    )


def withdraw(table: str, port: str) -> str:
    """Guard an endpoint no longer, whether it is there or not."""
    element = f'bridge {table} guarded {{ "{port}"'
    return (
        f"add chain bridge {table} {port}\nadd element {element} : jump {port} }}\ndelete element {element} }}\n"
        f"flush chain bridge {table} {port}\ndelete chain bridge {table} {port}\n"
    )


def link_local(mac: str) -> str:
    """The address of its own that an interface makes from its MAC address (RFC 4291, appendix A)."""
    raw = bytearray.fromhex(mac.replace(":", ""))
    raw[0] ^= 2
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + bytes(raw[:3]) + b"\xff\xfe" + bytes(raw[3:])))


def _set(addresses: Iterable[str]) -> str:
    return f"{{ {', '.join(addresses)} }}"
