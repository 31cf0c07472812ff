# SPDX-License-Identifier: Apache-2.0
"""IPsec for the tunnels of overlay networks: ESP in transport mode with keys that the administrator gives.

Keys that last want an algorithm that does not break when a counter begins anew: AES-CBC with HMAC-SHA-256
(RFC 3602, RFC 4868). Structures are from linux/xfrm.h.
"""

import contextlib
import errno
import socket
import struct
from hashlib import sha256
from ipaddress import ip_address
from typing import NamedTuple

from orlop.dockerd.network.netlink import attribute
from orlop.dockerd.network.rtnetlink import CREATE, Message, RouteSocket

NETLINK_XFRM = 6
_NEWSA, _DELSA, _NEWPOLICY, _DELPOLICY = 0x10, 0x11, 0x13, 0x14
_ALG_CRYPT, _TMPL, _ALG_AUTH_TRUNC = 2, 5, 20
_OUT = 1
_SELECTOR = struct.Struct("=16s16sHHHHHBBB3xiI")
_ID = struct.Struct("=16s4sB3x")
_UNLIMITED = struct.pack("=8Q", *[(1 << 64) - 1] * 4, 0, 0, 0, 0)
_ALGORITHMS = (b"cbc(aes)", b"hmac(sha256)")
_ICV_BITS = 128


class Tunnel(NamedTuple):
    """One direction between two hosts, at one UDP port, under one secret."""

    source: str
    target: str
    port: int
    secret: bytes

    def derived(self, purpose: bytes) -> bytes:
        """32 bytes that only who knows the secret knows; others for each direction and purpose."""
        about = b"|".join((b"orlop overlay", self.source.encode(), self.target.encode(), purpose))
        return sha256(self.secret + about).digest()

    @property
    def spi(self) -> bytes:
        """The index of the association; those below 256 are reserved."""
        return struct.pack("!I", int.from_bytes(self.derived(b"%d" % self.port)[:4], "big") | 0x100)


def protect(tunnel: Tunnel, *, outgoing: bool) -> None:
    """Have one direction encrypted, or decrypted. Raises OSError."""
    with contextlib.closing(RouteSocket(protocol=NETLINK_XFRM)) as kernel:
        _unless_there(kernel, _association(tunnel))
        if outgoing:
            _unless_there(kernel, _policy(tunnel))


def unprotect(tunnel: Tunnel, *, outgoing: bool) -> None:
    """Undo `protect`; no error if there is nothing. Raises OSError."""
    with contextlib.closing(RouteSocket(protocol=NETLINK_XFRM)) as kernel:
        family = _family(tunnel)
        body = struct.pack("=16s4sHBx", _padded(tunnel.target), tunnel.spi, family, socket.IPPROTO_ESP)
        messages = [Message(_DELSA, 0, body, "delete a security association")]
        if outgoing:
            policy = _selector(tunnel) + struct.pack("=IB3x", 0, _OUT)
            messages.append(Message(_DELPOLICY, 0, policy, "delete a security policy"))
        for message in messages:
            try:
                kernel.request(message)
            except OSError as error:
                if error.errno not in (errno.ESRCH, errno.ENOENT):
                    raise


def _unless_there(kernel: RouteSocket, message: Message) -> None:
    try:
        kernel.request(message)
    except FileExistsError:
        return


def _association(tunnel: Tunnel) -> Message:
    everything = _SELECTOR.pack(b"", b"", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    target = _ID.pack(_padded(tunnel.target), tunnel.spi, socket.IPPROTO_ESP)
    body = everything + target + _padded(tunnel.source) + _UNLIMITED + bytes(32 + 12)
    # sequence, request id, family, transport mode, no replay window: a peer that starts anew counts anew
    body += struct.pack("=IIHBBB7x", 0, 0, _family(tunnel), 0, 0, 0)
    for kind, name, key in zip((_ALG_CRYPT, _ALG_AUTH_TRUNC), _ALGORITHMS, (b"encrypt", b"sign"), strict=True):
        secret = tunnel.derived(key)
        sizes = struct.pack("=I", len(secret) * 8)
        if kind == _ALG_AUTH_TRUNC:
            sizes += struct.pack("=I", _ICV_BITS)
        body += attribute(kind, name.ljust(64, b"\0") + sizes + secret)
    return Message(_NEWSA, CREATE, body, f"add a security association from {tunnel.source} to {tunnel.target}")


def _policy(tunnel: Tunnel) -> Message:
    # priority, index, direction, allow, flags, share
    body = _selector(tunnel) + _UNLIMITED + bytes(32) + struct.pack("=IIBBBB4x", 0, 0, _OUT, 0, 0, 0)
    template = _ID.pack(_padded(tunnel.target), tunnel.spi, socket.IPPROTO_ESP)
    template += struct.pack(
        "=H2x16sIBBBxIII", _family(tunnel), _padded(tunnel.source), 0, 0, 0, 0, *[0xFFFFFFFF] * 3
    )
    body += attribute(_TMPL, template)
    return Message(_NEWPOLICY, CREATE, body, f"add a security policy from {tunnel.source} to {tunnel.target}")


def _selector(tunnel: Tunnel) -> bytes:
    length = ip_address(tunnel.target).max_prefixlen
    port = socket.htons(tunnel.port)
    return _SELECTOR.pack(
        _padded(tunnel.target),
        _padded(tunnel.source),
        port, 0xFFFF, 0, 0, _family(tunnel), length, length, socket.IPPROTO_UDP, 0, 0,
    )  # fmt: skip


def _padded(address: str) -> bytes:
    return ip_address(address).packed.ljust(16, b"\0")


def _family(tunnel: Tunnel) -> int:
    return socket.AF_INET if ip_address(tunnel.target).version == 4 else socket.AF_INET6
