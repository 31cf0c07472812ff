# SPDX-License-Identifier: Apache-2.0
"""rtnetlink(7) as far as container networks need it: messages as values, and a socket that sends them in batches.

pyroute2 knows far more and takes 90 ms to import and several milliseconds a container; these few messages take
under one. Attribute numbers are from linux/if_link.h, linux/rtnetlink.h, linux/if_addr.h.
"""

import errno
import socket
import struct
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import NamedTuple

from orlop.dockerd.network import netlink
from orlop.dockerd.network.netlink import (
    NLA_F_NESTED,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    attribute,
)

_NETLINK_ROUTE = 0
_SOL_NETLINK = 270
_NETLINK_EXT_ACK = 11
_NETLINK_CAP_ACK = 10

_NLM_F_ACK_TLVS = 0x200
CREATE = 0x400 | 0x200  # NLM_F_CREATE | NLM_F_EXCL
_REPLACE = 0x400 | 0x100  # NLM_F_CREATE | NLM_F_REPLACE
RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK, _RTM_SETLINK = 16, 17, 18, 19
_RTM_NEWADDR, _RTM_GETADDR, _RTM_NEWROUTE, _RTM_GETROUTE = 20, 22, 24, 26
_RTM_NEWNEIGH, _RTM_DELNEIGH = 28, 29
_NUD_NOARP, _NUD_PERMANENT = 0x40, 0x80
_NTF_MASTER = 4
_NDA_DST, _NDA_LLADDR = 1, 2
RTMGRP_LINK = 1
_IFF_UP = 1
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 10, 18
_IFLA_PROTINFO, _IFLA_NET_NS_FD = 12, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFLA_BRPORT_MODE, _IFLA_BRPORT_LEARNING, _IFLA_BRPORT_ISOLATED = 4, 8, 33
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_IFA_F_NODAD = 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK = 0, 253
_RT_TABLE_MAIN = 254
_LINK_LOCAL = b"\xfe\x80"
"""How fe80::/16 begins, which every interface has a route to; no IPv4 network does (240.0.0.0/4 is reserved)."""
_NLMSGERR_ATTR_MSG = 1
_IFINFO = struct.Struct("=BBHiII")
_IFADDR = struct.Struct("=BBBBi")
_RTMSG = struct.Struct("=BBBBBBBBI")
_INTERFACE: dict[int, type[IPv4Interface] | type[IPv6Interface]] = {
    socket.AF_INET: IPv4Interface,
    socket.AF_INET6: IPv6Interface,
}
_NDMSG = struct.Struct("=BxxxiHBx")
_NUMBERS = {0: socket.AF_UNSPEC, 4: socket.AF_INET, 6: socket.AF_INET6}


Address = IPv4Address | IPv6Address
Subnet = IPv4Network | IPv6Network


class Message(NamedTuple):
    """One request: type and flags of its header, its body, and what it does (for the error message)."""

    type: int
    flags: int
    body: bytes
    about: str


class Link(NamedTuple):
    """An interface as the kernel lists it; `master` is the index of its bridge or 0."""

    ifindex: int
    name: str
    up: bool
    master: int
    mac: str
    mtu: int
    kind: str


def bridge_new(name: str, mac: str, mtu: int) -> Message:
    """Make a bridge and set it up. `mtu` 0 leaves it to follow its ports."""
    body = ifinfo(0, up=True) + text(_IFLA_IFNAME, name) + attribute(_IFLA_ADDRESS, mac_bytes(mac))
    if mtu:
        body += attribute(_IFLA_MTU, struct.pack("=I", mtu))
    body += attribute(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "bridge"))
    return Message(RTM_NEWLINK, CREATE, body, f"create bridge {name}")


def veth_new(name: str, *, bridge: int, mtu: int, peer: str, peer_mac: str, netns_fd: int) -> Message:
    """Make a veth pair: `name`, up, a port of the bridge with index `bridge`; `peer` in another namespace."""
    size = attribute(_IFLA_MTU, struct.pack("=I", mtu))
    inner = ifinfo(0) + text(_IFLA_IFNAME, peer) + attribute(_IFLA_ADDRESS, mac_bytes(peer_mac)) + size
    # The peer cannot come up here: the kernel ties the two ends only once both exist.
    inner += attribute(_IFLA_NET_NS_FD, struct.pack("=i", netns_fd))
    info = text(_IFLA_INFO_KIND, "veth") + attribute(_IFLA_INFO_DATA, attribute(_VETH_INFO_PEER, inner))
    body = ifinfo(0, up=True) + text(_IFLA_IFNAME, name) + size
    body += attribute(_IFLA_MASTER, struct.pack("=i", bridge)) + attribute(_IFLA_LINKINFO, info)
    return Message(RTM_NEWLINK, CREATE, body, f"create veth pair {name}")


def port_set(index: int, *, hairpin: bool, isolated: bool) -> Message:
    """Set whether a bridge port sends frames back where they came from, and is cut off from its like.

    It learns no addresses from what comes in: see `forwarding_set`.
    """
    flags = attribute(_IFLA_BRPORT_MODE, bytes([hairpin])) + attribute(_IFLA_BRPORT_ISOLATED, bytes([isolated]))
    flags += attribute(_IFLA_BRPORT_LEARNING, b"\0")
    body = ifinfo(index, family=socket.AF_BRIDGE) + attribute(_IFLA_PROTINFO | NLA_F_NESTED, flags)
    return Message(_RTM_SETLINK, 0, body, f"set the bridge port {index}")


def link_up(index: int, about: str) -> Message:
    """Set an interface up."""
    return Message(RTM_NEWLINK, 0, ifinfo(index, up=True), f"set up {about}")


def link_master(index: int, bridge: int, about: str) -> Message:
    """Make an interface a port of a bridge."""
    body = ifinfo(index, up=True) + attribute(_IFLA_MASTER, struct.pack("=i", bridge))
    return Message(RTM_NEWLINK, 0, body, f"attach {about} to its bridge")


def link_delete(name: str) -> Message:
    """Delete an interface by its name (of a veth pair, both ends)."""
    return Message(_RTM_DELLINK, 0, ifinfo(0) + text(_IFLA_IFNAME, name), f"delete interface {name}")


def address_add(index: int, address: Address, network: Subnet) -> Message:
    """Give an interface an address; no error if it has it."""
    # An IPv6 address of ours is nobody else's: usable at once, without asking the neighbours first.
    body = _IFADDR.pack(_family(address), network.prefixlen, _IFA_F_NODAD * (address.version == 6), 0, index)
    body += attribute(_IFA_LOCAL, address.packed) + attribute(_IFA_ADDRESS, address.packed)
    if address.version == 4:
        body += attribute(_IFA_BROADCAST, network.broadcast_address.packed)
    return Message(_RTM_NEWADDR, _REPLACE, body, f"add address {address}/{network.prefixlen}")


def route(index: int, destination: Subnet, gateway: Address | None) -> Message:
    """Lead to `destination` through the interface with that index, by `gateway` or directly, and nowhere else."""
    family = _NUMBERS[destination.version]
    scope = _RT_SCOPE_UNIVERSE if gateway is not None or family == socket.AF_INET6 else _RT_SCOPE_LINK
    # the main table, RTPROT_BOOT, unicast
    body = _RTMSG.pack(family, destination.prefixlen, 0, 0, 254, 3, scope, 1, 0)
    if destination.prefixlen:
        body += attribute(_RTA_DST, destination.network_address.packed)
    body += attribute(_RTA_OIF, struct.pack("=i", index))
    if gateway is not None:
        body += attribute(_RTA_GATEWAY, gateway.packed)
    return Message(
        _RTM_NEWROUTE, _REPLACE, body, f"add a route to {destination}{f' by {gateway}' if gateway else ''}"
    )


def forwarding_set(port: int, mac: str) -> Message:
    """Have a bridge send to a port, and to no other, what goes to a MAC address."""
    body = _NDMSG.pack(socket.AF_BRIDGE, port, _NUD_NOARP, _NTF_MASTER) + attribute(_NDA_LLADDR, mac_bytes(mac))
    return Message(_RTM_NEWNEIGH, _REPLACE, body, f"lead {mac} to the bridge port {port}")


def neighbour_set(index: int, address: Address, mac: str) -> Message:
    """Make known which MAC address `address` has on an interface, whatever others say about it."""
    body = _NDMSG.pack(_family(address), index, _NUD_PERMANENT, 0)
    body += attribute(_NDA_DST, address.packed) + attribute(_NDA_LLADDR, mac_bytes(mac))
    return Message(_RTM_NEWNEIGH, _REPLACE, body, f"set the neighbour {address}")


def neighbour_delete(index: int, address: Address) -> Message:
    """Forget which MAC address `address` had on an interface (ENOENT if it is not known)."""
    body = _NDMSG.pack(_family(address), index, 0, 0) + attribute(_NDA_DST, address.packed)
    return Message(_RTM_DELNEIGH, 0, body, f"forget the neighbour {address}")


class RouteSocket:
    """A NETLINK_ROUTE socket of the network namespace in which it is made; blocking; belongs to one thread."""

    def __init__(self, groups: int = 0, protocol: int = _NETLINK_ROUTE) -> None:
        """Join the multicast `groups` (RTMGRP_LINK), if any; `protocol` is another one of netlink's families."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._sequence = 0
        try:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            self._socket.bind((0, groups))
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """The descriptor, for an event loop."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def request(self, *messages: Message) -> None:
        """Send `messages` at once and wait for all answers.

        Raises OSError of the first that failed, with what it was about as its filename.
        """
        first = self._sequence + 1
        packets = [self._pack(each, NLM_F_REQUEST | NLM_F_ACK) for each in messages]
        self._socket.send(b"".join(packets))
        pending = len(messages)
        failure: OSError | None = None
        while pending:
            for kind, flags, sequence, payload, _ in netlink.messages(self._socket.recv(1 << 16)):
                if kind != NLMSG_ERROR or sequence < first:
                    continue
                pending -= 1
                error = netlink.error_of(payload, messages[sequence - first].about)
                if error is not None and failure is None:
                    failure = OSError(error.errno, _error_text(payload, flags) or error.strerror, error.filename)
        if failure is not None:
            raise failure

    def link(self, name: str) -> Link:
        """One interface. Raises OSError (ENODEV)."""
        look = Message(_RTM_GETLINK, 0, ifinfo(0) + text(_IFLA_IFNAME, name), f"find interface {name}")
        self._socket.send(self._pack(look, NLM_F_REQUEST))
        while True:
            for kind, _, sequence, payload, _ in netlink.messages(self._socket.recv(1 << 16)):
                if sequence == self._sequence:
                    if kind == NLMSG_ERROR:
                        raise netlink.error_of(payload, look.about) or OSError(errno.EPROTO, "no answer")
                    return _link(payload)

    def links(self) -> list[Link]:
        """All interfaces."""
        return [_link(payload) for payload in self._dump(_RTM_GETLINK, ifinfo(0))]

    def ports(self, bridge: int) -> list[Link]:
        """The ports of the bridge with that index."""
        body = ifinfo(0) + attribute(_IFLA_MASTER, struct.pack("=i", bridge))
        return [_link(payload) for payload in self._dump(_RTM_GETLINK, body)]

    def addresses(self, family: int = 0) -> list[tuple[int, IPv4Interface | IPv6Interface]]:
        """All addresses of a family (4, 6; 0: both) with the index of their interface, without those of one link's
        scope."""
        found = []
        for payload in self._dump(_RTM_GETADDR, _IFADDR.pack(_NUMBERS[family], 0, 0, 0, 0)):
            family, prefix, _, scope, index = _IFADDR.unpack_from(payload)
            if scope == _RT_SCOPE_LINK:  # each interface has one
                continue
            fields = netlink.attributes(payload, _IFADDR.size)
            raw = fields.get(_IFA_LOCAL) or fields.get(_IFA_ADDRESS)
            if raw and family in _INTERFACE:
                found.append((index, _INTERFACE[family]((raw, prefix))))
        return found

    def routes(self, family: int = 0) -> list[tuple[int, Subnet]]:
        """The destinations of the main table's routes of a family and their interface; no default and link-local
        ones."""
        found = []
        for payload in self._dump(_RTM_GETROUTE, _RTMSG.pack(_NUMBERS[family], 0, 0, 0, 0, 0, 0, 0, 0)):
            family, prefix, _, _, table, *_ = _RTMSG.unpack_from(payload)
            if table != _RT_TABLE_MAIN or not prefix or family not in _INTERFACE:
                continue
            fields = netlink.attributes(payload, _RTMSG.size)
            if _RTA_DST in fields and not fields[_RTA_DST].startswith(_LINK_LOCAL):
                index = struct.unpack("=i", fields.get(_RTA_OIF, b"\0\0\0\0"))[0]
                found.append((index, _INTERFACE[family]((fields[_RTA_DST], prefix)).network))
        return found

    def deleted_links(self) -> list[str]:
        """The names of interfaces that have gone, from one datagram of the link group; does not block.

        Raises BlockingIOError when there is no datagram, OSError(ENOBUFS) when some were lost.
        """
        data = self._socket.recv(1 << 16, socket.MSG_DONTWAIT)
        return [_link(payload).name for kind, _, _, payload, _ in netlink.messages(data) if kind == _RTM_DELLINK]

    def _dump(self, kind: int, body: bytes) -> list[bytes]:
        packet = self._pack(Message(kind, 0, body, "dump"), NLM_F_REQUEST | NLM_F_DUMP)
        self._socket.send(packet)
        found: list[bytes] = []
        while True:
            for answer, _, sequence, payload, _ in netlink.messages(self._socket.recv(1 << 18)):
                if sequence != self._sequence:
                    continue
                if answer == NLMSG_DONE:
                    return found
                if answer == NLMSG_ERROR:
                    raise netlink.error_of(payload, f"netlink dump {kind}") or OSError(errno.EPROTO, "no answer")
                found.append(payload)

    def _pack(self, message: Message, flags: int) -> bytes:
        self._sequence += 1
        return netlink.message(message.type, message.flags | flags, self._sequence, message.body)


def _family(address: Address) -> int:
    return _NUMBERS[address.version]


def text(kind: int, value: str) -> bytes:
    """An attribute that is a string."""
    return attribute(kind, value.encode() + b"\0")


def mac_bytes(address: str) -> bytes:
    """A MAC address as in messages."""
    return bytes.fromhex(address.replace(":", ""))


def ifinfo(index: int, *, up: bool = False, down: bool = False, family: int = 0) -> bytes:
    """The head of a message about an interface (struct ifinfomsg)."""
    return _IFINFO.pack(family, 0, 0, index, _IFF_UP * up, _IFF_UP * (up or down))


def _error_text(payload: bytes, flags: int) -> str:
    """The kernel's own sentence about an error (extended acknowledgement), if it gave one."""
    if not flags & _NLM_F_ACK_TLVS:
        return ""
    # NETLINK_CAP_ACK: only the header of the refused request is echoed before the attributes.
    message = netlink.attributes(payload, 4 + netlink.HEADER.size).get(_NLMSGERR_ATTR_MSG, b"")
    return message.rstrip(b"\0").decode(errors="replace")


def _link(payload: bytes) -> Link:
    _, _, _, index, flags, _ = _IFINFO.unpack_from(payload)
    fields = netlink.attributes(payload, _IFINFO.size)
    master = fields.get(_IFLA_MASTER)
    info = netlink.attributes(fields.get(_IFLA_LINKINFO, b""))
    return Link(
        ifindex=index,
        name=fields.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace"),
        up=bool(flags & _IFF_UP),
        master=struct.unpack("=i", master)[0] if master else 0,
        mac=":".join(f"{byte:02x}" for byte in fields.get(_IFLA_ADDRESS, b"")),
        mtu=struct.unpack("=I", fields.get(_IFLA_MTU, b"\0\0\0\0"))[0],
        kind=info.get(_IFLA_INFO_KIND, b"").rstrip(b"\0").decode(errors="replace"),
    )
