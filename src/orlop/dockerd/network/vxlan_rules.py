# SPDX-License-Identifier: Apache-2.0
"""The rules that guard a VXLAN tunnel, as nftables command texts (pure functions).

VXLAN itself takes a frame from whoever sends one to its port: only the peers are listened to. And nobody but this
host's own bridge is the gateway of this host's containers.
"""

from ipaddress import ip_address
from typing import NamedTuple

from orlop.dockerd.network.firewall import Guard

_GATEWAY = """\
add table netdev {table}
delete table netdev {table}
table netdev {table} {{
    chain leaving_tunnel {{
        type filter hook ingress device "{tunnel}" priority 0; policy accept;
        ether saddr {mac} drop
{gateways}    }}
}}
"""
_ARP = "        arp daddr ip {address} drop\n"
# the target of a neighbour solicitation begins behind 8 bytes (RFC 4861, 4.3)
_SOLICITATION = "        icmpv6 type nd-neighbor-solicit @th,64,128 {number:#x} drop\n"
_PEERS = """\
add table inet {table}
delete table inet {table}
table inet {table} {{
    chain from_strangers {{
        type filter hook input priority filter; policy accept;
        udp dport {port} @th,96,24 {vni} {family} saddr != {{ {peers} }} drop
        udp dport {port} @th,96,24 {vni} meta nfproto != {protocol} drop
    }}
{encrypted}}}
"""


_ENCRYPTED = """\
    chain encrypted_in {{
        type filter hook input priority filter; policy accept;
        udp dport {port} meta ipsec missing drop
    }}
    chain encrypted_out {{
        type filter hook output priority filter; policy accept;
        udp dport {port} rt ipsec missing drop
    }}
"""


class Tunnel(NamedTuple):
    """What of a tunnel counts here; `mac` and `gateways` are those of the bridge that it is a port of.

    `encrypted`: nothing comes in or leaves at its port as clear text, whatever becomes of IPsec's settings
    (CVE-2023-28840, CVE-2023-28841).
    """

    name: str
    vni: int
    port: int
    mac: str
    gateways: tuple[str, ...]
    peers: tuple[str, ...]
    encrypted: bool = False


def guard(tunnel: Tunnel) -> Guard:
    """The tables of a tunnel."""
    table = f"orlop_{tunnel.name}"
    gateways = "".join(
        _ARP.format(address=text) if ":" not in text else _SOLICITATION.format(number=int(ip_address(text)))
        for text in tunnel.gateways
    )
    family, protocol = ("ip6", "ipv6") if any(":" in peer for peer in tunnel.peers) else ("ip", "ipv4")
    words = {"table": table, "port": tunnel.port, "vni": tunnel.vni}
    install = _GATEWAY.format(**words, tunnel=tunnel.name, mac=tunnel.mac, gateways=gateways)
    install += _PEERS.format(
        **words,
        family=family,
        protocol=protocol,
        peers=", ".join(tunnel.peers),
        encrypted=_ENCRYPTED.format(**words) if tunnel.encrypted else "",
    )
    remove = "".join(f"add table {kind} {table}\ndelete table {kind} {table}\n" for kind in ("netdev", "inet"))
    return Guard(table, install, remove)
