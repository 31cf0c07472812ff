# SPDX-License-Identifier: Apache-2.0
"""Connection tracking: forgets UDP flows to containers that are gone.

A client that keeps its source port would otherwise go on being redirected to the old container's address, also
when a new container has the published port (linux/netfilter/nfnetlink_conntrack.h).
"""

import errno
import socket
import struct
from collections.abc import Collection
from ipaddress import ip_address

from orlop.dockerd.network.netlink import (
    NLA_F_NESTED,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    attribute,
    attributes,
    error_of,
    message,
    messages,
)

_NETLINK_NETFILTER = 12
_CT_GET, _CT_DELETE = 0x101, 0x102  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_…
_TUPLE_ORIG, _TUPLE_REPLY, _ID = 1, 2, 12
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP_V4_SRC, _IP_V6_SRC, _PROTO_NUM = 1, 3, 1
_GENMSG = struct.Struct("=BBH")
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def forget_udp(addresses: Collection[str]) -> int:
    """Forget the UDP flows that lead to any of `addresses`; returns how many there were. Raises OSError."""
    parsed = [ip_address(address) for address in addresses]
    return sum(
        _forget(_FAMILIES[version], {each.packed for each in parsed if each.version == version})
        for version in sorted({each.version for each in parsed})
    )


def _forget(family: int, wanted: set[bytes]) -> int:
    head = _GENMSG.pack(family, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as netlink:
        flows = [flow for flow in _dump(netlink, head) if _answers_from(flow) in wanted]
        for number, flow in enumerate(flows):
            body = head + attribute(_TUPLE_ORIG | NLA_F_NESTED, flow[_TUPLE_ORIG]) + attribute(_ID, flow[_ID])
            netlink.send(message(_CT_DELETE, NLM_F_REQUEST | NLM_F_ACK, number, body))
            for packet in messages(netlink.recv(1 << 16)):
                error = error_of(packet.payload, "forget a flow")
                if error is not None and error.errno != errno.ENOENT:  # it may end by itself
                    raise error
    return len(flows)


def _dump(netlink: socket.socket, head: bytes) -> list[dict[int, bytes]]:
    netlink.send(message(_CT_GET, NLM_F_REQUEST | NLM_F_DUMP, 0, head))
    flows: list[dict[int, bytes]] = []
    while True:
        for packet in messages(netlink.recv(1 << 18)):
            if packet.type == NLMSG_DONE:
                return flows
            if packet.type == NLMSG_ERROR:
                raise error_of(packet.payload, "list flows") or OSError(errno.EPROTO, "unexpected acknowledgement")
            flows.append(attributes(packet.payload, _GENMSG.size))


def _answers_from(flow: dict[int, bytes]) -> bytes:
    """Who answers in a UDP flow: after a redirection that is the container. Empty for other protocols."""
    reply = attributes(flow.get(_TUPLE_REPLY, b""))
    if attributes(reply.get(_TUPLE_PROTO, b"")).get(_PROTO_NUM) != bytes([socket.IPPROTO_UDP]):
        return b""
    address = attributes(reply.get(_TUPLE_IP, b""))
    return address.get(_IP_V4_SRC) or address.get(_IP_V6_SRC, b"")
