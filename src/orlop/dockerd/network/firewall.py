# SPDX-License-Identifier: Apache-2.0
"""The firewall as plans: nftables command texts for the base rules and for each published port.

Everything is in one table of our own, installed once. A bridge is an element of its sets and a published port an
element of its maps, so that a container costs at most one small transaction and containers without ports none.
A second table is for networks with IPv6: it keeps them apart and masquerades; their ports are orlop-netd's.

- `prerouting` and `output` redirect published ports. Traffic from containers to the host's own addresses is left
  to orlop-netd's proxy, and so is loopback traffic, unless there is no proxy.
- `forward` lets into a bridge: answers, the bridge's own containers, and redirected connections; the rest is
  dropped: neither other bridges nor the host's neighbours reach ports that are not published (CVE-2025-54410).
  Nothing leaves an internal network.
- Ports published on 127.0.0.1 are never redirected for packets from outside (CVE-2025-54388).
"""

from collections.abc import Iterable
from ipaddress import ip_address
from typing import NamedTuple

from orlop.dockerd.network.types import PortMapping

_TABLE = """\
add table ip {table}
delete table ip {table}
table ip {table} {{
    set bridges {{
        type ifname
    }}
    set peers {{
        type ifname . ifname
    }}
    set internal {{
        type ifname
    }}
    set masqueraded {{
        type ipv4_addr
        flags interval
    }}
    map published {{
        type inet_proto . inet_service : ipv4_addr . inet_service
    }}
    map published_at {{
        type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
    }}
    chain publish {{
        dnat ip to ip daddr . meta l4proto . th dport map @published_at
        dnat ip to meta l4proto . th dport map @published
    }}
    chain guard {{
        type filter hook prerouting priority raw; policy accept;
        iifname @bridges ip daddr 127.0.0.0/8 drop
    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
        {from_bridges}ip daddr != 127.0.0.0/8 fib daddr type local jump publish
    }}
    chain output {{
        type nat hook output priority -100; policy accept;
        {not_loopback}fib daddr type local jump publish
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname != @bridges ip saddr @masqueraded masquerade
{hairpin}    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname @internal jump from_internal
        oifname @bridges jump into_bridge
    }}
    chain from_internal {{
        iifname . oifname @peers accept
        drop
    }}
    chain into_bridge {{
        ct state established,related accept
        iifname . oifname @peers accept
        ct status dnat accept
        drop
    }}
}}
"""

_TABLE6 = """\
add table ip6 {table}
delete table ip6 {table}
table ip6 {table} {{
    set bridges {{
        type ifname
    }}
    set peers {{
        type ifname . ifname
    }}
    set internal {{
        type ifname
    }}
    set masqueraded {{
        type ipv6_addr
        flags interval
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname != @bridges ip6 saddr @masqueraded masquerade
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname @internal jump from_internal
        oifname @bridges jump into_bridge
    }}
    chain from_internal {{
        iifname . oifname @peers accept
        drop
    }}
    chain into_bridge {{
        ct state established,related accept
        iifname . oifname @peers accept
        drop
    }}
}}
"""

_HAIRPIN = """\
        oifname @bridges ip saddr 127.0.0.0/8 ct status dnat masquerade
        oifname @bridges ip saddr @masqueraded ct status dnat masquerade
"""


class BridgeRules(NamedTuple):
    """A bridge in the firewall: may its containers talk to each other, and what happens to what leaves it."""

    name: str
    subnet: str
    icc: bool
    masquerade: bool
    internal: bool = False
    subnet6: str = ""


class Firewall(NamedTuple):
    """What shapes the plans: the table's name, and whether orlop-netd's proxy carries loopback traffic."""

    table: str
    userland_proxy: bool

    def install(self, bridges: Iterable[BridgeRules], ports: Iterable[PortMapping]) -> str:
        """Replace our table, in one transaction, by one with these bridges and published ports."""
        text = _TABLE.format(
            table=self.table,
            from_bridges="iifname != @bridges " if self.userland_proxy else "",
            not_loopback="ip daddr != 127.0.0.0/8 " if self.userland_proxy else "",
            hairpin="" if self.userland_proxy else _HAIRPIN,
        )
        known = list(bridges)
        six = [bridge for bridge in known if bridge.subnet6]
        if six:
            text += _TABLE6.format(table=self.table)
            text += "".join(self._add("ip6", bridge) for bridge in six)
        return text + "".join(self.add_bridge(bridge) for bridge in known) + self.publish(ports)

    def remove(self) -> str:
        """Take our table away; no error if there is none."""
        return f"add table ip {self.table}\ndelete table ip {self.table}\n"

    def remove6(self) -> str:
        """Take the table for IPv6 away; no error if there is none."""
        return f"add table ip6 {self.table}\ndelete table ip6 {self.table}\n"

    def publish(self, ports: Iterable[PortMapping]) -> str:
        """Redirect published ports; empty if none of them is redirected."""
        lines = [
            f"add element ip {self.table} {key} : {port.address} . {port.port} }}\n"
            for key, port in self._keys(ports)
        ]
        return "".join(lines)

    def unpublish(self, ports: Iterable[PortMapping]) -> str:
        """Undo `publish`."""
        # Adding first makes the deletion succeed also where the element is missing: it is all or nothing.
        lines = []
        for key, port in self._keys(ports):
            lines.append(f"add element ip {self.table} {key} : {port.address} . {port.port} }}\n")
            lines.append(f"delete element ip {self.table} {key} }}\n")
        return "".join(lines)

    def add_bridge(self, bridge: BridgeRules) -> str:
        """Cover one more bridge; one with IPv6 needs `install`."""
        return self._add("ip", bridge)

    def remove_bridge(self, bridge: BridgeRules) -> str:
        """Undo `add_bridge`."""
        return self.add_bridge(bridge) + "".join(
            f"delete element ip {self.table} {element}\n" for element in _elements("ip", bridge)
        )

    def _add(self, family: str, bridge: BridgeRules) -> str:
        return "".join(f"add element {family} {self.table} {element}\n" for element in _elements(family, bridge))

    def _keys(self, ports: Iterable[PortMapping]) -> list[tuple[str, PortMapping]]:
        found = []
        for port in ports:
            host = ip_address(port.host_ip)
            if host.version != 4 or (host.is_loopback and self.userland_proxy):
                continue  # the proxy's
            if host.is_unspecified:
                found.append((f"published {{ {port.protocol} . {port.host_port}", port))
            else:
                found.append((f"published_at {{ {host} . {port.protocol} . {port.host_port}", port))
        return found


def _elements(family: str, bridge: BridgeRules) -> list[str]:
    """A bridge's elements of the table's sets; the first makes the others count, so it comes last."""
    found = []
    if bridge.icc:
        found.append(f'peers {{ "{bridge.name}" . "{bridge.name}" }}')
    if bridge.masquerade and not bridge.internal:
        found.append(f"masqueraded {{ {bridge.subnet6 if family == 'ip6' else bridge.subnet} }}")
    if bridge.internal:
        found.append(f'internal {{ "{bridge.name}" }}')
    return [*found, f'bridges {{ "{bridge.name}" }}']


RESOLVER_PORT = 61153
"""Where orlop-netd serves DNS at 127.0.0.11 in a container: outside of the range for outgoing connections, and not
53, which a DNS server in the container needs for itself (it could not bind 0.0.0.0:53)."""

RESOLVER = f"""\
table ip orlop_dns {{
    chain output {{
        type nat hook output priority -100; policy accept;
        ip daddr 127.0.0.11 meta l4proto {{ tcp, udp }} th dport 53 dnat to 127.0.0.11:{RESOLVER_PORT}
    }}
}}
"""
"""In a container's namespace: queries to 127.0.0.11 reach the resolver.

Not replaced by deleting first, as our main table is: then the library's context would wait 10 ms for the kernel's
destruction of the old one. Twice the same rule does no harm.
"""

FOREIGN_FORWARD = "list chain ip filter FORWARD"
"""Prints iptables' FORWARD chain, if there is one: its policy may be to drop, which no other table can undo."""


def foreign_accept(listing: str, bridge: str) -> str:
    """The commands that let a bridge's traffic pass iptables' FORWARD chain, so that our own rules judge it.

    Empty if `listing` has them. The comment marks them as ours.
    """
    comment = f"orlop {bridge}"
    if f'comment "{comment}"' in listing:
        return ""
    return "".join(
        f'insert rule ip filter FORWARD {direction} "{bridge}" counter accept comment "{comment}"\n'
        for direction in ("iifname", "oifname")
    )


def foreign_withdraw(listing: str, bridge: str) -> str:
    """The commands that undo `foreign_accept`; `listing` has the rules with their handles (nft -a)."""
    comment = f'comment "orlop {bridge}"'
    handles = [line.rpartition("# handle ")[2] for line in listing.splitlines() if comment in line]
    return "".join(f"delete rule ip filter FORWARD handle {handle}\n" for handle in handles)
