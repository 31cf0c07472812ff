# SPDX-License-Identifier: Apache-2.0
"""rtnetlink(7) messages for the kinds of interfaces that networks other than bridges need.

Attribute numbers are from linux/if_link.h, linux/if_vlan.h and linux/neighbour.h.
"""

import os
import socket
import struct
from ipaddress import ip_address

from orlop.dockerd.network.netlink import NLA_F_NESTED, attribute
from orlop.dockerd.network.rtnetlink import CREATE, RTM_NEWLINK, Message, ifinfo, mac_bytes, text

_RTM_NEWNEIGH = 28
_NLM_F_CREATE_APPEND = 0x400 | 0x800
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_NET_NS_FD = (
    1,
    3,
    4,
    5,
    10,
    18,
    28,
)
_IFLA_NET_NS_PID = 19
_IFLA_INFO_KIND, _IFLA_INFO_DATA = 1, 2
_MACVLAN_MODE, _IPVLAN_MODE, _IPVLAN_FLAGS, _VLAN_ID = 1, 1, 2, 1
_VXLAN_ID, _VXLAN_LOCAL, _VXLAN_LEARNING, _VXLAN_PORT, _VXLAN_LOCAL6 = 1, 4, 7, 15, 17
_NDA_DST, _NDA_LLADDR = 1, 2
_NTF_SELF, _NUD_PERMANENT = 2, 0x80

MACVLAN_MODES = {"bridge": 4, "private": 1, "vepa": 2, "passthru": 8}
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IPVLAN_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}


def macvlan_new(name: str, *, parent: int, mode: int, mac: str, mtu: int, netns_fd: int) -> Message:
    """Make a macvlan of the interface with index `parent` in another namespace."""
    data = attribute(_MACVLAN_MODE, struct.pack("=I", mode))
    return _stacked("macvlan", name, parent, data, mac, mtu, netns_fd)


def ipvlan_new(name: str, *, parent: int, mode: int, flags: int, mtu: int, netns_fd: int) -> Message:
    """Make an ipvlan of the interface with index `parent` in another namespace."""
    data = attribute(_IPVLAN_MODE, struct.pack("=H", mode)) + attribute(_IPVLAN_FLAGS, struct.pack("=H", flags))
    return _stacked("ipvlan", name, parent, data, "", mtu, netns_fd)


def dummy_new(name: str) -> Message:
    """Make an interface that leads nowhere, up."""
    return _new("dummy", name, b"", b"")


def vlan_new(name: str, *, parent: int, vlan_id: int) -> Message:
    """Make the part of the interface with index `parent` that has an IEEE 802.1Q tag, up."""
    return _new(
        "vlan",
        name,
        attribute(_IFLA_LINK, struct.pack("=i", parent)),
        attribute(_VLAN_ID, struct.pack("=H", vlan_id)),
    )


def vxlan_new(name: str, *, vni: int, port: int, local: str, bridge: int, mac: str, mtu: int) -> Message:
    """Make a VXLAN tunnel (RFC 7348) with number `vni` over UDP, up, as a port of the bridge with index `bridge`.

    `local` is the host's address to send from; empty: as the routes say.
    """
    data = attribute(_VXLAN_ID, struct.pack("=I", vni)) + attribute(_VXLAN_PORT, struct.pack("!H", port))
    data += attribute(_VXLAN_LEARNING, b"\1")
    if local:
        address = ip_address(local)
        data += attribute(_VXLAN_LOCAL if address.version == 4 else _VXLAN_LOCAL6, address.packed)
    fields = attribute(_IFLA_MASTER, struct.pack("=i", bridge)) + attribute(_IFLA_ADDRESS, mac_bytes(mac))
    fields += attribute(_IFLA_MTU, struct.pack("=I", mtu))
    return _new("vxlan", name, fields, data)


def flood_to(index: int, peer: str) -> Message:
    """Have a VXLAN tunnel send frames whose receiver it does not know to one more peer."""
    body = struct.pack("=BBHiHBB", socket.AF_BRIDGE, 0, 0, index, _NUD_PERMANENT, _NTF_SELF, 0)
    body += attribute(_NDA_LLADDR, bytes(6)) + attribute(_NDA_DST, ip_address(peer).packed)
    return Message(_RTM_NEWNEIGH, _NLM_F_CREATE_APPEND, body, f"add the peer {peer}")


def move(index: int, name: str, netns_fd: int, about: str) -> Message:
    """Move an interface, down, to another namespace, where it is called `name`."""
    body = ifinfo(index) + text(_IFLA_IFNAME, name) + attribute(_IFLA_NET_NS_FD, struct.pack("=i", netns_fd))
    return Message(RTM_NEWLINK, 0, body, f"move interface {about}")


def move_home(index: int, name: str) -> Message:
    """Move an interface, set down, to the namespace of this process's first thread, where it is called `name`."""
    body = (
        ifinfo(index, down=True)
        + text(_IFLA_IFNAME, name)
        + attribute(_IFLA_NET_NS_PID, struct.pack("=i", os.getpid()))
    )
    return Message(RTM_NEWLINK, 0, body, f"move interface {name} back")


def mac_set(index: int, mac: str, about: str) -> Message:
    """Give an interface another MAC address."""
    return Message(
        RTM_NEWLINK, 0, ifinfo(index) + attribute(_IFLA_ADDRESS, mac_bytes(mac)), f"set the MAC of {about}"
    )


def _stacked(kind: str, name: str, parent: int, data: bytes, mac: str, mtu: int, netns_fd: int) -> Message:
    fields = attribute(_IFLA_LINK, struct.pack("=i", parent))
    fields += attribute(_IFLA_NET_NS_FD, struct.pack("=i", netns_fd))
    if mac:
        fields += attribute(_IFLA_ADDRESS, mac_bytes(mac))
    if mtu:
        fields += attribute(_IFLA_MTU, struct.pack("=I", mtu))
    return _new(kind, name, fields, data, up=False)


def _new(kind: str, name: str, fields: bytes, data: bytes, *, up: bool = True) -> Message:
    info = text(_IFLA_INFO_KIND, kind) + attribute(_IFLA_INFO_DATA | NLA_F_NESTED, data)
    body = ifinfo(0, up=up) + text(_IFLA_IFNAME, name) + fields + attribute(_IFLA_LINKINFO | NLA_F_NESTED, info)
    return Message(RTM_NEWLINK, CREATE, body, f"create {kind} interface {name}")
