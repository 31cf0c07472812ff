# SPDX-License-Identifier: Apache-2.0
"""The firewall as plans: nftables command texts for the base rules and for each published port.

Everything is in one table of our own for each family, installed once. A bridge is an element of its sets and a
published port an element of its maps, so that a container costs at most one small transaction and containers
without ports none. The table for IPv6 exists as long as there are networks with IPv6.

- `prerouting` and `output` redirect published ports. Traffic from containers to the host's own addresses is left
  to orlop-netd's proxy, and so is loopback traffic, unless there is no proxy.
- `guard` and the bridges' route_localnet belong together: without the one, the other would let containers ask what
  listens on the host's loopback addresses.
- `forward` lets into a bridge: answers, the bridge's own containers, and redirected connections; the rest is
  dropped: neither other bridges nor the host's neighbours reach ports that are not published (CVE-2025-54410),
  unless the network's gateway mode or its trusted interfaces say so. Nothing leaves an internal network.
- Ports published on 127.0.0.1 are never redirected for packets from outside (CVE-2025-54388).
"""

import re
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import NamedTuple

from orlop.dockerd.network.linked import Opening
from orlop.dockerd.network.types import PortMapping
from orlop.errdefs import InvalidArgumentError

_TABLE = """\
add table {family} {table}
delete table {family} {table}
table {family} {table} {{
    set bridges {{
        type ifname
    }}
    set peers {{
        type ifname . ifname
    }}
    set internal {{
        type ifname
    }}
    set routed {{
        type ifname
    }}
    set unprotected {{
        type ifname
    }}
    set trusted {{
        type ifname . ifname
    }}
    set reachable {{
        type {address} . inet_proto . inet_service
    }}
    set targets {{
        type {address} . inet_proto . inet_service
    }}
    set linked {{
        type {address} . {address} . inet_proto . inet_service
    }}
    set masqueraded {{
        type {address}
        flags interval
    }}
    map sources {{
        type {address} : {address}
        flags interval
    }}
    map published {{
        type inet_proto . inet_service : {address} . inet_service
    }}
    map published_at {{
        type {address} . inet_proto . inet_service : {address} . inet_service
    }}
    chain publish {{
        dnat {family} to {family} daddr . meta l4proto . th dport map @published_at
        dnat {family} to meta l4proto . th dport map @published
    }}
{guard}    chain prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
        {from_bridges}{local_wire}{family} daddr != {loopback} fib daddr type local jump publish
    }}
    chain output {{
        type nat hook output priority -100; policy accept;
        {not_loopback}fib daddr type local jump publish
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname != @bridges snat {family} to {family} saddr map @sources
        oifname != @bridges {family} saddr @masqueraded masquerade
{loopback_source}{hairpin}    }}
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
        {family} saddr . {family} daddr . meta l4proto . th dport @linked accept
{neighbours}        oifname @internal drop
{mark}        {family} daddr . meta l4proto . th dport @reachable accept
        oifname @routed meta l4proto {{ icmp, ipv6-icmp }} accept
        iifname . oifname @trusted {family} daddr . meta l4proto . th dport @targets accept
{direct}        iifname != @bridges oifname @unprotected accept
        drop
    }}
}}
"""

_USER_TABLE = """\
table inet {table} {{
    chain forward {{
        type filter hook forward priority filter - 10; policy accept;
    }}
}}
"""

_GUARD = """\
    chain guard {{
        type filter hook prerouting priority raw; policy accept;
        iifname @bridges ip daddr 127.0.0.0/8 drop
    }}
"""

_LOOPBACK_SOURCE = "        oifname @bridges ip saddr 127.0.0.0/8 ct status dnat masquerade\n"

_HAIRPIN = "        oifname @bridges {family} saddr @masqueraded ct status dnat masquerade\n"

_DIRECT = "        iifname != @bridges {family} daddr . meta l4proto . th dport @targets accept\n"

_LOOPBACK6 = ip_address("::1")

_WORDS = {
    4: {"family": "ip", "address": "ipv4_addr", "loopback": "127.0.0.0/8", "local_wire": "", "neighbours": ""},
    # A container could not answer an address that means something on one wire only: the proxy can.
    6: {
        "family": "ip6",
        "address": "ipv6_addr",
        "loopback": "::1",
        "local_wire": "ip6 saddr != fe80::/10 ",
        # Linked containers have to find each other; what was routed here is not believed (RFC 4861, 7.1).
        "neighbours": "        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept\n",
    },
}


class SubnetRules(NamedTuple):
    """What happens to one family of a bridge: its subnet, and how the world outside sees its containers.

    `mode` is nat, nat-unprotected, routed or isolated. `source` is the address of the host that stands for its
    containers; empty: whichever leads outside.
    """

    subnet: str
    mode: str = "nat"
    masquerade: bool = True
    source: str = ""


class Guard(NamedTuple):
    """Tables of a network's own beside ours, with the commands that make (again) and remove them."""

    table: str
    install: str
    remove: str


class BridgeRules(NamedTuple):
    """A bridge in the firewall: may its containers talk to each other, and what happens to what leaves it.

    `trusted` are interfaces of the host from which containers' own addresses are reached at published ports.
    """

    name: str
    icc: bool
    four: SubnetRules | None
    six: SubnetRules | None = None
    internal: bool = False
    trusted: tuple[str, ...] = ()
    guards: tuple[Guard, ...] = ()

    def of(self, version: int) -> SubnetRules | None:
        """The part of one family, 4 or 6; None if the network does without."""
        return self.four if version == 4 else self.six


class Firewall(NamedTuple):
    """What shapes the plans.

    `table` is its name; `userland_proxy`: orlop-netd's proxy carries loopback traffic and hairpins; `redirect`
    off: it carries everything, so that the host's own rules for what comes in judge published ports; `direct`:
    containers' own addresses are reached at published ports from everywhere; `mark`: an nftables expression for
    the marks whose packets may enter; `families` that we have tables for.
    """

    table: str
    userland_proxy: bool
    redirect: bool = True
    direct: bool = False
    mark: str = ""
    families: tuple[int, ...] = (4, 6)

    def install(
        self, bridges: Iterable[BridgeRules], ports: Iterable[PortMapping], links: Iterable[Opening] = ()
    ) -> str:
        """Replace our tables, in one transaction, by those for these bridges, published ports and links."""
        known, mapped = list(bridges), list(ports)
        text = ""
        for version in self.families:
            if version == 4 or any(bridge.of(version) for bridge in known):
                text += self._base(version)
            else:
                text += self.remove(version)
        text += "".join(self.add_bridge(bridge) for bridge in known) + self.publish(mapped)
        return text + self._opened(links)

    def link(self, links: Iterable[Opening], *, six: bool) -> str:
        """Let linked containers reach each other so, and no others: what is bridged may meet these rules, too.

        `six`: there are networks with IPv6.
        """
        families = ("ip", "ip6") if six else ("ip",)
        return "".join(f"flush set {each} {self.table} linked\n" for each in families) + self._opened(links)

    @property
    def leads_loopback(self) -> bool:
        """Whether loopback traffic to published ports is redirected, which takes `route_localnet`."""
        return self.redirect and not self.userland_proxy

    @property
    def user_table(self) -> str:
        """The name of the table that is the administrator's: we make it, empty, and never touch it again."""
        return f"{self.table}_user"

    @property
    def links_table(self) -> str:
        """The name of the table, of the bridge family, for links where a bridge keeps containers apart."""
        return f"{self.table}_links"

    def offer_user_chain(self) -> str:
        """Make that table, with a chain that sees what is forwarded to and from containers before our rules do."""
        return _USER_TABLE.format(table=self.user_table)

    def remove(self, version: int) -> str:
        """Take the table of one family away; no error if there is none."""
        family = _WORDS[version]["family"]
        return f"add table {family} {self.table}\ndelete table {family} {self.table}\n"

    def publish(self, ports: Iterable[PortMapping]) -> str:
        """Redirect published ports and let in what is for them; empty if nothing of that is to be done."""
        return "".join(f"add element {element}{value} }}\n" for element, value in self._ports(ports))

    def unpublish(self, ports: Iterable[PortMapping]) -> str:
        """Undo `publish`."""
        # Adding first makes the deletion succeed also where the element is missing: it is all or nothing.
        return "".join(
            f"add element {element}{value} }}\ndelete element {element} }}\n"
            for element, value in self._ports(ports)
        )

    def add_bridge(self, bridge: BridgeRules) -> str:
        """Cover one more bridge; the first one with IPv6 needs `install`."""
        return "".join(f"add element {element}{value} }}\n" for element, value in self._bridge(bridge))

    def remove_bridge(self, bridge: BridgeRules) -> str:
        """Undo `add_bridge`."""
        return self.add_bridge(bridge) + "".join(
            f"delete element {element} }}\n" for element, _ in self._bridge(bridge)
        )

    def _opened(self, links: Iterable[Opening]) -> str:
        return "".join(
            f"add element {'ip6' if ':' in each.linked else 'ip'} {self.table} linked "
            f"{{ {each.linking} . {each.linked} . {each.protocol} . {each.number} }}\n"
            for each in sorted(links)
        )

    def _base(self, version: int) -> str:
        words = {**_WORDS[version], "table": self.table}
        loopback = "{family} daddr != {loopback} ".format(**words)
        return _TABLE.format(
            **words,
            guard=_GUARD.format() if version == 4 else "",
            from_bridges="iifname != @bridges " if self.userland_proxy else "",
            # Without the proxy ::1 is nobody's: the kernel drops what comes back to it.
            not_loopback="" if self.leads_loopback and version == 4 else loopback,
            loopback_source=_LOOPBACK_SOURCE if self.leads_loopback and version == 4 else "",
            hairpin="" if self.userland_proxy else _HAIRPIN.format(**words),
            mark=f"        meta mark {self.mark} accept\n" if self.mark else "",
            direct=_DIRECT.format(**words) if self.direct else "",
        )

    def _bridge(self, bridge: BridgeRules) -> Iterator[tuple[str, str]]:
        for version in self.families:
            subnet = bridge.of(version)
            if subnet is not None:
                place = f"{_WORDS[version]['family']} {self.table}"
                yield from ((f"{place} {element}", value) for element, value in _elements(bridge, subnet))

    def _ports(self, ports: Iterable[PortMapping]) -> Iterator[tuple[str, str]]:
        """The elements for published ports, up to the brace that ends them: the keys, and the values of maps."""
        for port in ports:
            target = ip_address(port.address)
            if target.version not in self.families:
                continue
            place = f"{_WORDS[target.version]['family']} {self.table}"
            reached = f"{{ {port.address} . {port.protocol} . {port.port}"
            if port.routed:
                yield f"{place} reachable {reached}", ""
                continue
            if port.direct or self.direct:
                yield f"{place} targets {reached}", ""
            host = ip_address(port.host_ip)
            if not self.redirect or host.version != target.version or host == _LOOPBACK6:
                continue  # the proxy's
            if host.is_loopback and not self.leads_loopback:
                continue
            value = f" : {port.address} . {port.port}"
            if host.is_unspecified:
                yield f"{place} published {{ {port.protocol} . {port.host_port}", value
            else:
                yield f"{place} published_at {{ {host} . {port.protocol} . {port.host_port}", value


def _elements(bridge: BridgeRules, subnet: SubnetRules) -> Iterator[tuple[str, str]]:
    """A bridge's elements of a table's sets; the last makes the others count."""
    name = f'{{ "{bridge.name}"'
    if bridge.icc:
        yield f'peers {name} . "{bridge.name}"', ""
    if bridge.internal:
        yield f"internal {name}", ""
    elif subnet.mode == "routed":
        yield f"routed {name}", ""
    else:
        if subnet.mode == "nat-unprotected":
            yield f"unprotected {name}", ""
        if subnet.masquerade and subnet.source:
            yield f"sources {{ {subnet.subnet}", f" : {subnet.source}"
        elif subnet.masquerade:
            yield f"masqueraded {{ {subnet.subnet}", ""
    for interface in bridge.trusted:
        yield f'trusted {{ "{interface}" . "{bridge.name}"', ""
    yield f"bridges {name}", ""


def parse_mark(text: str) -> str:
    """`bridge-accept-fwmark` ("0x10" or "0x10/0xf0") as an expression of nftables; empty stays empty.

    Raises InvalidArgumentError.
    """
    if not text:
        return ""
    numbers = [_number(part) for part in text.split("/")]
    if len(numbers) > 2 or None in numbers:
        raise InvalidArgumentError(f"invalid bridge-accept-fwmark: {text!r} is no MARK or MARK/MASK of 32 bits")
    return str(numbers[0]) if len(numbers) == 1 else f"and {numbers[1]} == {numbers[0]}"


def _number(text: str) -> int | None:
    if re.fullmatch(r"0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10}", text) is None:
        return None
    number = int(text, 0 if text[:2].lower() == "0x" else 10)
    return number if number < 1 << 32 else None


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
