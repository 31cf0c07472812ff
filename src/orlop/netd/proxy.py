# SPDX-License-Identifier: Apache-2.0
"""Sockets that hold a host port, and the userland proxies behind them."""

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

from orlop.netd.poller import IN, Poller
from orlop.netd.protocol import HeldPort
from orlop.netd.tcp import TcpProxy

UDP_IDLE_SECONDS = 90.0
"""How long a UDP client is remembered after its last datagram, as docker-proxy does."""

_BACKLOG = 1024
_IP_PKTINFO = 8
_IPPROTO_SCTP = 132
_IN_PKTINFO = struct.Struct("=i4s4s")
_IN6_PKTINFO = struct.Struct("=16si")
_MAX_DATAGRAM = 65535
_CONTROL_SIZE = socket.CMSG_SPACE(_IN6_PKTINFO.size)
_BATCH = 32


def bind(port: HeldPort) -> socket.socket:
    """A bound (for a TCP proxy also listening) socket. Raises OSError, with `port.host` as its filename."""
    family = socket.AF_INET6 if ":" in port.host_ip else socket.AF_INET
    kind = socket.SOCK_DGRAM if port.protocol == "udp" else socket.SOCK_STREAM
    try:
        held = socket.socket(family, kind, _IPPROTO_SCTP if port.protocol == "sctp" else 0)
    except OSError as error:
        missing = error.errno == errno.EPROTONOSUPPORT and port.protocol == "sctp"
        why = "the kernel has no SCTP: load its module sctp" if missing else error.strerror
        raise OSError(error.errno, why, port.host) from None
    try:
        held.setblocking(False)
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listens = port.proxy and port.protocol == "tcp"
        # Several sockets may be bound with SO_REUSEADDR as long as none listens: only who listens may set it.
        if listens:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((port.host_ip, port.host_port))
        if listens:
            held.listen(_BACKLOG)
    except OSError as error:
        held.close()
        raise OSError(error.errno, error.strerror, port.host) from None
    except BaseException:
        held.close()
        raise
    return held


class Holder:
    """One held port; `start` puts its proxy to work, `close` frees it and ends its connections."""

    def __init__(self, port: HeldPort, bound: socket.socket | None = None) -> None:
        """Bind the port, unless its socket is there already. Raises OSError."""
        self.port = port
        self._socket = bound or bind(port)
        self._close: Callable[[], None] = self._socket.close

    def start(self, poller: Poller) -> None:
        """Serve the port, if it is to be proxied (SCTP never is)."""
        if self.port.proxy and self.port.protocol == "tcp":
            proxy = TcpProxy(self._socket, self.port, poller)
            proxy.start()
            self._close = proxy.close
        elif self.port.proxy and self.port.protocol == "udp":
            self._close = UdpProxy(self._socket, self.port, poller).close

    def fileno(self) -> int:
        """The descriptor that holds the port."""
        return self._socket.fileno()

    def close(self) -> None:
        """Free the port."""
        self._close()


class UdpProxy:
    """Carries datagrams to a container, with a socket for each client so that answers find their way back."""

    def __init__(self, front: socket.socket, port: HeldPort, poller: Poller) -> None:
        self._front = front
        self._target = (port.address, port.port)
        self._poller = poller
        self._clients: dict[tuple[Any, bytes], _UdpClient] = {}
        # Answers must come from the address that was asked, which a wildcard socket does not know by itself.
        if front.family == socket.AF_INET6:
            front.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            front.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        poller.add(front.fileno(), self._readable, IN)

    def close(self) -> None:
        """Free the port and forget the clients."""
        self._poller.remove(self._front.fileno())
        for client in list(self._clients.values()):
            client.close()
        self._front.close()

    def forget(self, key: tuple[Any, bytes]) -> None:
        """A client's socket has closed."""
        self._clients.pop(key, None)

    def answer(self, key: tuple[Any, bytes], data: bytes) -> None:
        """Send a datagram of the container to the client."""
        address, local = key
        if self._front.family == socket.AF_INET6:
            control = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _IN6_PKTINFO.pack(local, 0))
        else:
            control = (socket.IPPROTO_IP, _IP_PKTINFO, _IN_PKTINFO.pack(0, local, b"\0" * 4))
        with contextlib.suppress(OSError):  # a datagram may get lost: the client is gone or the buffer full
            self._front.sendmsg([data], [control], 0, address)

    def _readable(self, _: int) -> None:
        for _ in range(_BATCH):  # then others get their turn
            try:
                data, control, _, address = self._front.recvmsg(_MAX_DATAGRAM, _CONTROL_SIZE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH):
                    continue  # an ICMP error about an earlier answer
                raise
            self._forward(data, control, address)

    def _forward(self, data: bytes, control: list[tuple[int, int, bytes]], address: Any) -> None:
        key = (address, self._local(control))
        client = self._clients.get(key)
        if client is None:
            try:
                client = self._clients[key] = _UdpClient(self, key, self._target, self._poller)
            except OSError:
                return  # the container's network is gone or descriptors ran out: the datagram is lost
        client.send(data)

    def _local(self, control: list[tuple[int, int, bytes]]) -> bytes:
        for level, kind, value in control:
            if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
                return cast(bytes, _IN6_PKTINFO.unpack_from(value)[0])
            if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
                return cast(bytes, _IN_PKTINFO.unpack_from(value)[1])
        return b"\0" * (16 if self._front.family == socket.AF_INET6 else 4)


class _UdpClient:
    """The socket of one client towards the container."""

    def __init__(self, proxy: UdpProxy, key: tuple[Any, bytes], target: tuple[str, int], poller: Poller) -> None:
        self._proxy = proxy
        self._key = key
        self._poller = poller
        self._loop = asyncio.get_running_loop()
        self._back = socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._back.setblocking(False)
            self._back.connect(target)
        except BaseException:
            self._back.close()
            raise
        poller.add(self._back.fileno(), self._readable, IN)
        self._seen = self._loop.time()
        self._timer = self._loop.call_later(UDP_IDLE_SECONDS, self._idle)

    def send(self, data: bytes) -> None:
        self._seen = self._loop.time()
        with contextlib.suppress(OSError):  # refused or no buffer: UDP loses it, and the client may try again
            self._back.send(data)

    def close(self) -> None:
        self._timer.cancel()
        self._poller.remove(self._back.fileno())
        self._back.close()
        self._proxy.forget(self._key)

    def _readable(self, _: int) -> None:
        try:
            data = self._back.recv(_MAX_DATAGRAM)
        except OSError:
            return  # ICMP: nobody listens in the container yet
        self._seen = self._loop.time()
        self._proxy.answer(self._key, data)

    def _idle(self) -> None:
        left = self._seen + UDP_IDLE_SECONDS - self._loop.time()
        if left <= 0:
            self.close()
        else:
            self._timer = self._loop.call_later(left, self._idle)
