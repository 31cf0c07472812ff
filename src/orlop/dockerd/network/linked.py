# SPDX-License-Identifier: Apache-2.0
"""What `--link` opens on a bridge whose containers are kept apart (icc off): the linked container's exposed ports.

The ports of such a bridge are isolated from each other, but those of containers with links. A table of the bridge
family says what passes these: what goes to their linked containers' exposed ports, and what comes from there. It
keeps no state, which kernels may lack for bridges: what answers is known by the port that it comes from.
"""

from collections.abc import Iterable
from typing import NamedTuple

from orlop.dockerd.network.types import Endpoint

_TABLE = """\
table bridge {table} {{
    set linking {{
        type ifname
    }}
    set open4 {{
        type ifname . ipv4_addr . inet_proto . inet_service
    }}
    set open6 {{
        type ifname . ipv6_addr . inet_proto . inet_service
    }}
    set known {{
        type ifname . ipv4_addr
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname @linking jump between
        oifname @linking jump between
    }}
    chain between {{
        iifname . ip daddr . meta l4proto . th dport @open4 accept
        oifname . ip saddr . meta l4proto . th sport @open4 accept
        iifname . ip6 daddr . meta l4proto . th dport @open6 accept
        oifname . ip6 saddr . meta l4proto . th sport @open6 accept
        iifname . arp daddr ip @known accept
        oifname . arp saddr ip @known accept
        icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
        drop
    }}
}}
"""


class Opening(NamedTuple):
    """A port of a linked container, for the container behind a port (`bridge_port`) of the bridge."""

    bridge_port: str
    linking: str
    linked: str
    protocol: str
    number: int


class Links(NamedTuple):
    """The bridge ports of containers that have links, and what these may reach."""

    bridge_ports: frozenset[str] = frozenset()
    openings: frozenset[Opening] = frozenset()


def of(endpoints: Iterable[Endpoint]) -> Links:
    """What the links of the endpoints of one network come to. A linked container that is not there is no error."""
    known = list(endpoints)
    by_container = {endpoint.container_id: endpoint for endpoint in known}
    linking = [endpoint for endpoint in known if endpoint.linked]
    openings = set()
    for endpoint in linking:
        for other in (by_container[each] for each in endpoint.linked if each in by_container):
            pairs = ((endpoint.address, other.address), (endpoint.address6, other.address6))
            for own, address in (pair for pair in pairs if all(pair)):
                for text in other.exposed:
                    number, _, protocol = text.partition("/")
                    openings.add(Opening(endpoint.veth, own, address, protocol or "tcp", int(number)))
    return Links(frozenset(endpoint.veth for endpoint in linking), frozenset(openings))


def install(table: str, links: Links) -> str:
    """Make the table anew for these links."""
    return (
        f"add table bridge {table}\n"
        + remove(table)
        + _TABLE.format(table=table)
        + "".join(
            f"add element bridge {table} {name} {{ {element} }}\n" for name, element in sorted(_elements(links))
        )
    )


def remove(table: str) -> str:
    """Take the table away; an error if there is none."""
    return f"delete table bridge {table}\n"


def _elements(links: Links) -> Iterable[tuple[str, str]]:
    found = {("linking", f'"{name}"') for name in links.bridge_ports}
    for each in links.openings:
        target = f'"{each.bridge_port}" . {each.linked}'
        found.add(("open6" if ":" in each.linked else "open4", f"{target} . {each.protocol} . {each.number}"))
        if ":" not in each.linked:
            found.add(("known", target))
    return found
