# SPDX-License-Identifier: Apache-2.0
"""The userland proxy for TCP: connections of a listening socket carried to a container.

Not on asyncio's transports: what they do in a dozen calls is one recv(2) and one send(2) here. What comes in bulk
goes through a pipe by splice(2) and never enters this process.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import select
import socket
import struct
from socket import SocketType  # the bare class: half the time of socket.socket for a connection

from orlop.netd.poller import GONE, IN, OUT, Poller
from orlop.netd.protocol import HeldPort

_CONNECT_SECONDS = 10.0
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_RETRY_SECONDS = 1.0
_CONNECTIONS_A_TURN = 64
_MOVES_A_TURN = 16
_BUFFER = 1 << 16
_PIPE = 1 << 20
_F_SETPIPE_SZ = 1031
_SPLICE = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_RESET = struct.pack("ii", 1, 0)
_STREAM = int(socket.SOCK_STREAM)
_NONBLOCKING = _STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


class TcpProxy:
    """Carries connections of a listening socket to a container, half-closes and resets included."""

    def __init__(self, listener: socket.socket, port: HeldPort, poller: Poller) -> None:
        self._listener = listener
        self._own_family = int(listener.family)
        self._target = (port.address, port.port)
        self._family = int(socket.AF_INET6 if ":" in port.address else socket.AF_INET)
        self._poller = poller
        self._loop = asyncio.get_running_loop()
        self._connections: set[_Connection] = set()
        self._retry: asyncio.TimerHandle | None = None
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it

    def start(self) -> None:
        """Begin to accept."""
        self._retry = None
        self._poller.add(self._listener.fileno(), self._acceptable, IN)

    def close(self) -> None:
        """Stop accepting and cut the connections."""
        if self._retry is not None:
            self._retry.cancel()
        self._poller.remove(self._listener.fileno())
        self._listener.close()
        for connection in list(self._connections):
            connection.abort()

    def _acceptable(self, _: int) -> None:
        for _ in range(_CONNECTIONS_A_TURN):  # then others get their turn
            try:
                fd, _ = self._listener._accept()  # type: ignore[attr-defined]
                client = SocketType(self._own_family, _STREAM, 0, fd)
                client.setblocking(False)
                self._carry(client)
            except OSError as error:
                if error.errno in _OUT_OF_DESCRIPTORS:  # the listener would be readable again and again
                    self._poller.remove(self._listener.fileno())
                    self._retry = self._loop.call_later(_RETRY_SECONDS, self.start)
                return  # usually: nobody else waits

    def _carry(self, client: SocketType) -> None:
        try:
            server = SocketType(self._family, _NONBLOCKING)
        except BaseException:
            client.close()
            raise
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _Connection(client, server, self._connections, self._poller).connect(self._target)


class _Connection:
    """A client's connection and the one to the container that belongs to it."""

    def __init__(
        self, client: SocketType, server: SocketType, registry: set["_Connection"], poller: Poller
    ) -> None:
        self._client, self._server = _End(client, self), _End(server, self)
        self._client.peer, self._server.peer = self._server, self._client
        self._registry = registry
        self._poller = poller
        self._timer: asyncio.TimerHandle | None = None
        self.loop = asyncio.get_running_loop()
        self.simple = True
        """Nothing waits, nothing has ended, and no bulk came so far."""
        registry.add(self)

    def connect(self, target: tuple[str, int]) -> None:
        """Reach the container; a client of one that cannot be reached sees its connection reset."""
        error = self._server.socket.connect_ex(target)
        if error not in (0, errno.EINPROGRESS):
            self.abort()
            return
        self._timer = self.loop.call_later(_CONNECT_SECONDS, self.abort)
        self._poller.add(self._server.fd, self._connected)

    def abort(self) -> None:
        """Cut both ends with a reset."""
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close()

    def close(self) -> None:
        """Let go of everything."""
        if self._timer is not None:
            self._timer.cancel()
        for end in (self._client, self._server):
            if not end.closed:
                self._poller.drop(end.fd)
                end.close()
        self._registry.discard(self)

    def end_if_done(self) -> None:
        """One direction is at its end; the connection is when both are."""
        if self._client.ended and self._server.ended:
            self.close()

    def _connected(self, events: int) -> None:
        if self._server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.abort()
            return
        assert self._timer is not None
        self._timer.cancel()
        self._timer = None
        self._poller.replace(self._server.fd, self._server.ready)
        self._poller.add(self._client.fd, self._client.ready)
        self._server.ready(events)


class _End:
    """One socket, and the direction that begins at it.

    What the peer does not take at once waits in `_rest` or in the pipe; nothing more is read then.
    """

    __slots__ = (
        "_connection",
        "_in_pipe",
        "_pipe",
        "_receive",
        "_rest",
        "_send",
        "closed",
        "ended",
        "fd",
        "peer",
        "socket",
    )

    def __init__(self, own: SocketType, connection: _Connection) -> None:
        self.socket = own
        self.fd = own.fileno()
        self._receive, self._send = own.recv, own.send
        self.peer: _End = self
        self.ended = self.closed = False
        self._connection = connection
        self._rest = b""
        self._pipe: tuple[int, int] | None = None
        self._in_pipe = 0

    def ready(self, events: int) -> None:
        """The poller's news of the socket."""
        if self._connection.simple and events & (IN | GONE) == IN and self._pass_on():
            return
        if events & select.EPOLLERR:
            self._connection.abort()
            return
        peer = self.peer
        if events & OUT and (peer._rest or peer._in_pipe):
            peer.carry(to_the_end=True)
        if events & (IN | GONE) and not self.ended:
            self.carry(to_the_end=bool(events & GONE))

    def carry(self, *, to_the_end: bool) -> None:
        """Pass on what is there; after less than a buffer there is nothing more, unless `to_the_end` matters."""
        if self.closed:
            return
        self._connection.simple = False
        try:
            for _ in range(_MOVES_A_TURN):
                if not self._send_rest() or self.ended:
                    return  # the peer's next edge goes on
                if self._pipe is not None:
                    self._in_pipe = os.splice(self.fd, self._pipe[1], _PIPE, flags=_SPLICE)
                    if not self._in_pipe:
                        self._end()
                else:
                    self._rest = self._receive(_BUFFER)
                    if not self._rest:
                        self._end()
                    elif len(self._rest) == _BUFFER:
                        self._make_pipe()
                    elif self._send_rest() and not to_the_end:
                        return
            self._connection.loop.call_soon(self._go_on)  # others get their turn, and no edge will tell
        except BlockingIOError:
            return  # nothing more for now
        except OSError:
            self._connection.abort()

    def close(self) -> None:
        """Let go of the socket and the pipe."""
        self.closed = True
        self.socket.close()
        if self._pipe is not None:
            for fd in self._pipe:
                os.close(fd)

    def _pass_on(self) -> bool:
        """The usual case: less than a buffer, which the peer takes at once. False: `carry` has to see to it."""
        try:
            self._rest = self._receive(_BUFFER)
            if 0 < len(self._rest) < _BUFFER:
                self._rest = self._rest[self.peer._send(self._rest) :]
                return not self._rest
        except OSError:  # also that there is nothing, or that the peer takes nothing now
            return False
        return False

    def _go_on(self) -> None:
        self.carry(to_the_end=True)

    def _send_rest(self) -> bool:
        """Whether the peer has taken all there was. Raises OSError."""
        try:
            while self._rest:
                self._rest = self._rest[self.peer._send(self._rest) :]
            while self._in_pipe and self._pipe is not None:
                self._in_pipe -= os.splice(self._pipe[0], self.peer.fd, self._in_pipe, flags=_SPLICE)
        except BlockingIOError:
            return False
        return True

    def _end(self) -> None:
        self.ended = True
        self.peer.socket.shutdown(socket.SHUT_WR)
        self._connection.end_if_done()

    def _make_pipe(self) -> None:
        """Bulk comes: from now on by splice(2), where descriptors are left for it."""
        with contextlib.suppress(OSError):
            self._pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            fcntl.fcntl(self._pipe[1], _F_SETPIPE_SZ, _PIPE)  # EPERM beyond the limit: then it stays smaller
