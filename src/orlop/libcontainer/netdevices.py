# SPDX-License-Identifier: Apache-2.0
"""Moving network devices of the host into a container's network namespace (linux.netDevices), by rtnetlink(7).

`read_devices` and `move_device` run in the parent, `configure_device` in the container: the kernel takes the
addresses off a device that moves, and they are put back there.
"""

import _socket
import os
import struct

import msgspec

from orlop.errdefs import InvalidArgumentError
from orlop.libcontainer.errors import explain
from orlop.oci.runtime import NetDevice

# linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 0x1, 0x4, 0x300
_NLM_F_EXCL, _NLM_F_CREATE = 0x200, 0x400
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWLINK, _RTM_NEWADDR, _RTM_GETADDR = 16, 20, 22
_IFLA_IFNAME, _IFLA_NET_NS_FD = 3, 28
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
_IFA_F_PERMANENT = 0x80
_SCOPE_GLOBAL = 0
_IFF_UP = 1
_KEPT = (_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST)


class Address(msgspec.Struct, frozen=True):
    """An address as the kernel describes it."""

    family: int
    prefix: int
    attributes: list[tuple[int, bytes]]


class MovedDevice(msgspec.Struct):
    """A device of the host and what it is to be in the container."""

    host_name: str
    name: str
    index: int
    addresses: list[Address]


def read_devices(devices: dict[str, NetDevice]) -> list[MovedDevice]:
    """What has to be moved, with the global, permanent addresses of each. Raises InvalidArgumentError."""
    moved = []
    for host_name, device in devices.items():
        try:
            index = _socket.if_nametoindex(host_name)
        except OSError as error:
            raise InvalidArgumentError(
                f"linux.netDevices: link not found for interface {host_name}: {explain(error)}"
            ) from None
        moved.append(MovedDevice(host_name, device.name or host_name, index, []))
    if moved:
        by_index = {device.index: device for device in moved}
        for index, address in _addresses():
            if index in by_index:
                by_index[index].addresses.append(address)
    return moved


def move_device(device: MovedDevice, namespace: int) -> None:
    """Take the device down, and in one step move it into the network namespace (a descriptor) and rename it."""
    down = struct.pack("=BxHiII", 0, 0, device.index, 0, _IFF_UP)
    move = struct.pack("=BxHiII", 0, 0, device.index, 0, 0)
    move += _attribute(_IFLA_IFNAME, device.name.encode() + b"\0")
    move += _attribute(_IFLA_NET_NS_FD, struct.pack("=I", namespace))
    try:
        with _socket_of_namespace() as sock:
            _request(sock, _RTM_NEWLINK, down)
            _request(sock, _RTM_NEWLINK, move)
    except OSError as error:
        raise InvalidArgumentError(
            f"linux.netDevices: cannot move {device.host_name} as {device.name}: {explain(error)}"
        ) from None


def configure_device(device: MovedDevice) -> None:
    """In the container: give the device its addresses back and take it up."""
    try:
        index = _socket.if_nametoindex(device.name)
        with _socket_of_namespace() as sock:
            for address in device.addresses:
                body = struct.pack("=BBBBi", address.family, address.prefix, 0, _SCOPE_GLOBAL, index)
                body += b"".join(_attribute(kind, value) for kind, value in address.attributes)
                _request(sock, _RTM_NEWADDR, body, _NLM_F_CREATE | _NLM_F_EXCL)
            _request(sock, _RTM_NEWLINK, struct.pack("=BxHiII", 0, 0, index, _IFF_UP, _IFF_UP))
    except OSError as error:
        raise InvalidArgumentError(f"linux.netDevices: cannot set up {device.name}: {explain(error)}") from None


def network_namespace_of(pid: int, path: str) -> int:
    """A descriptor of the container's network namespace: that at `path`, or that of `pid`."""
    return os.open(path or f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _socket_of_namespace() -> "_Socket":
    return _Socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, 0)


class _Socket(_socket.socket):
    """A socket that its block closes."""

    def __enter__(self) -> "_Socket":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _request(sock: _Socket, kind: int, body: bytes, flags: int = 0) -> None:
    sock.send(struct.pack("=IHHII", 16 + len(body), kind, _NLM_F_REQUEST | _NLM_F_ACK | flags, 1, 0) + body)
    answer = sock.recv(8192)
    if struct.unpack_from("=H", answer, 4)[0] == _NLMSG_ERROR:
        number = -struct.unpack_from("=i", answer, 16)[0]
        if number:
            raise OSError(number, os.strerror(number))


def _addresses() -> list[tuple[int, Address]]:
    """Every global and permanent address of this network namespace with the index of its device."""
    found: list[tuple[int, Address]] = []
    with _socket_of_namespace() as sock:
        sock.send(struct.pack("=IHHIIBBBBi", 24, _RTM_GETADDR, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0, 0, 0, 0, 0, 0))
        while True:
            answer = sock.recv(65536)
            offset = 0
            while offset < len(answer):
                length, kind = struct.unpack_from("=IH", answer, offset)
                if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    return found
                if kind == _RTM_NEWADDR:
                    entry = _address(answer[offset + 16 : offset + length])
                    if entry is not None:
                        found.append(entry)
                offset += length + 3 & ~3


def _address(body: bytes) -> tuple[int, Address] | None:
    family, prefix, flags, scope, index = struct.unpack_from("=BBBBi", body)
    attributes = _attributes(body[8:])
    if _IFA_FLAGS in attributes:
        (flags,) = struct.unpack("=I", attributes[_IFA_FLAGS])
    if scope != _SCOPE_GLOBAL or not flags & _IFA_F_PERMANENT:
        return None  # bound to the host's network, or to a lease of its
    return index, Address(family, prefix, [(kind, attributes[kind]) for kind in _KEPT if kind in attributes])


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _attributes(raw: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while len(raw) >= 4:
        length, kind = struct.unpack_from("=HH", raw)
        if length < 4:
            break
        found[kind] = raw[4:length]
        raw = raw[length + 3 & ~3 :]
    return found
