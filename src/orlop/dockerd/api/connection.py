# SPDX-License-Identifier: Apache-2.0
"""One client connection: HTTP by aiohttp until a handler takes the raw bytes over (hijack).

Four things that aiohttp's handler does not do are added here:

- *hold*: bytes that follow a request which may be hijacked (attach, exec start) are standard input, not another
  request; they are kept until the handler decides;
- *half-close*: the end of the client's sending direction is the end of its input, and output still flows;
- *gone*: a future by which streaming handlers learn that nobody listens any more;
- *upload*: a large body is left in the socket for a thread to read (`upload`).
"""

import asyncio
import re
import select
import socket
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from orlop.dockerd.api import upload
from orlop.dockerd.api.upload import Upload
from orlop.errdefs import OrlopError

_MAY_HIJACK = re.compile(
    rb"POST /(?:v[0-9.]+/)?(?:containers/[^/ ]+/attach|exec/[^/ ]+/start|session|grpc)(?:\?[^ ]*)?"
    rb" HTTP/1\.[01]\r\n"
)
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r]*chunked", re.IGNORECASE)
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client of HTTP/2 sends first (RFC 9113, section 3.4)."""
_HEADERS_END = b"\r\n\r\n"
_MAX_HEADERS = 64 * 1024
# A client that sends faster than the process reads is held back beyond this.
_INPUT_HIGH_WATER = 256 * 1024


class Hijacked:
    """The raw two-way stream of a hijacked connection."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self.left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the client is known to read no more; its last input may still be waiting here."""
        self._chunks: list[bytes] = []
        self._size = 0
        self._eof = False
        self._wakeup: asyncio.Future[None] | None = None
        self._paused = False

    @property
    def gone(self) -> "asyncio.Future[None]":
        """Done when the connection is closed."""
        return self._connection.gone

    @property
    def socket(self) -> socket.socket | None:
        """The socket below, without TLS."""
        return self._connection.socket

    async def read(self) -> bytes:
        """What the client has sent; empty at the end of its input."""
        while not self._chunks:
            if self._eof:
                return b""
            self._wakeup = asyncio.get_running_loop().create_future()
            await self._wakeup
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._size = 0
        if self._paused:
            self._paused = False
            self._connection.resume_input()
        return data

    def write(self, data: bytes) -> None:
        """Queue bytes for the client; follow with `drain`. Raises ConnectionResetError."""
        transport = self._connection.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("client went away")
        transport.write(data)

    async def drain(self) -> None:
        """Wait until the client has taken enough. Raises ConnectionResetError."""
        await self._connection.drain()

    def close(self) -> None:
        """End the connection when all is sent; for a stream that no request's handler returns from."""
        if self._connection.transport is not None:
            self._connection.transport.close()

    def feed(self, data: bytes) -> None:
        """Bytes from the client (called by the connection)."""
        self._chunks.append(data)
        self._size += len(data)
        if self._size > _INPUT_HIGH_WATER and not self._paused:
            self._paused = True
            self._connection.pause_input()
        self._wake()

    def feed_eof(self, *, closed: bool) -> None:
        """End of the client's input; `closed`: it does not read any more either (called by the connection)."""
        self._eof = True
        if closed and not self.left.done():
            self.left.set_result(None)
        self._wake()

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)
        self._wakeup = None


class Peer(NamedTuple):
    """The name in a client's certificate, and that in DER."""

    name: str
    certificate: bytes


Tunnel = Callable[[Hijacked], Coroutine[Any, Any, None]]
"""Serves a raw stream to its end."""


class Connection(RequestHandler):
    """aiohttp's protocol plus hold, half-close and hijack."""

    def __init__(
        self, manager: web.Server, *, loop: asyncio.AbstractEventLoop, http2: Tunnel, **options: Any
    ) -> None:
        super().__init__(manager, loop=loop, **options)
        self._http2 = http2
        self._tunnel: asyncio.Task[None] | None = None
        self.gone: asyncio.Future[None] = loop.create_future()
        self._hijacked: Hijacked | None = None
        self._partial = b""  # headers of a request that may be hijacked, not complete yet
        self._body_left = 0  # bytes of that request's body still to come
        self._held: list[bytes] | None = None  # what followed that request
        self._upload: Upload | None = None
        self._eof = False
        self._answered = 0
        self.peer: Peer | None = None
        """Who the client is, by TLS; set by whoever ended it."""

    # -- called by asyncio

    def data_received(self, data: bytes) -> None:
        """Route bytes to the hijacked stream, the hold or the HTTP parser."""
        if self._hijacked is not None:
            if data:
                self._hijacked.feed(data)
        elif self._held is not None:
            self._feed_held(data)
        elif not self._request_count and _may_be_http2(self._partial + data):
            self._feed_http2(data)
        elif self._partial or (data[:6] == b"POST /" and self._idle() and _MAY_HIJACK.match(data)):
            self._feed_candidate(data)
        elif data[:5] == b"PUT /" and self._idle():
            self._feed_put(data)
        else:
            super().data_received(data)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The client sends no more: end of input when hijacked; a request in progress is still answered."""
        self._eof = True
        if self._hijacked is not None:
            self._hijacked.feed_eof(closed=self._peer_closed())
            return True
        if self._held is not None:
            return True
        if self._idle():
            return False
        if self._current_request is not None:
            self.check_body(self._current_request)
        self.let_go()
        self.close()
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell everybody who waits on this connection."""
        self.let_go()
        if self._hijacked is not None:
            self._hijacked.feed_eof(closed=True)
        super().connection_lost(exc)

    # -- called by handlers

    def hijack(self) -> Hijacked:
        """Take the connection over from HTTP; what the client has sent after its request is input already."""
        stream = self._hijacked = Hijacked(self)
        self.keep_alive(False)
        held, self._held = self._held or [], None
        for data in held:
            stream.feed(data)
        if self._eof:
            stream.feed_eof(closed=self._peer_closed())
        return stream

    def check_body(self, request: web.BaseRequest) -> None:
        """To be called when a request is begun: if nothing more can come of its body, reading that fails."""
        if self._eof and not request.content.is_eof():
            request.content.set_exception(ConnectionResetError("the request's body ends early"))

    def release(self) -> None:
        """A request is answered; if it was not hijacked, what followed it is the next request after all."""
        self._answered += 1
        if self._upload is not None:
            self._upload.close()
            self._upload = None
        held, self._held = self._held, None
        if self._hijacked is not None or not held:
            if self._eof and self._hijacked is None:
                self.close()
            return
        for data in held:
            self.data_received(data)

    @property
    def upload(self) -> Upload | None:
        """The body of the request, where it is to be read by a thread."""
        return self._upload

    async def end_upload(self) -> None:
        """To be called when a request is about to be answered: what nobody has read of its body is passed over."""
        body = self._upload
        if body is None:
            return
        try:
            if not body.ended:
                await asyncio.to_thread(body.drain)
        except OrlopError:
            self.close()  # after the answer
        else:
            super().data_received(upload.END)
            if rest := body.rest:
                self.data_received(rest)
        self.resume_input()

    async def drain(self) -> None:
        """Wait until the transport's buffer has room. Raises ConnectionResetError."""
        await self._drain_helper()

    def pause_input(self) -> None:
        """Stop reading from the client."""
        if self.transport is not None:
            self.transport.pause_reading()

    def resume_input(self) -> None:
        """Read from the client again."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def _peer_closed(self) -> bool:
        """Whether the client has closed its socket altogether; on Unix sockets one can tell."""
        peer = self.transport.get_extra_info("socket") if self.transport is not None else None
        if peer is None or peer.family != socket.AF_UNIX:
            return False
        poll = select.poll()
        poll.register(peer.fileno(), 0)
        return any(event & select.POLLHUP for _, event in poll.poll(0))

    @property
    def socket(self) -> socket.socket | None:
        """The socket below, without TLS; None when it is closed."""
        found: socket.socket | None = self.transport.get_extra_info("socket") if self.transport else None
        return found

    # -- HTTP/2

    def _feed_http2(self, data: bytes) -> None:
        """A client that speaks HTTP/2 without asking (gRPC by prior knowledge)."""
        self._partial += data
        if len(self._partial) >= len(_HTTP2):
            stream = self.hijack()
            stream.feed(self._partial)
            self._tunnel = asyncio.ensure_future(self._http2(stream))

    # -- uploads

    def _feed_put(self, data: bytes) -> None:
        end = data.find(_HEADERS_END) + 4
        found = upload.framing(data[:end], len(data) - end) if end >= 4 else None
        if found is None or self.socket is None:
            super().data_received(data)
            return
        self._upload = Upload(self.socket, data[end:], found.length)
        self.pause_input()
        super().data_received(found.headers)

    # -- the hold

    def _idle(self) -> bool:
        return self._request_count == self._answered

    def _feed_candidate(self, data: bytes) -> None:
        data, self._partial = self._partial + data, b""
        end = data.find(_HEADERS_END)
        if end < 0:
            if len(data) < _MAX_HEADERS:
                self._partial = data
            else:
                super().data_received(data)
            return
        headers = data[: end + 4]
        if _CHUNKED.search(headers):
            super().data_received(data)
            return
        length = _CONTENT_LENGTH.search(headers)
        self._body_left = int(length[1]) if length else 0
        self._held = []
        super().data_received(headers)
        self._feed_held(data[end + 4 :])

    def _feed_held(self, data: bytes) -> None:
        body, rest = data[: self._body_left], data[self._body_left :]
        if body:
            self._body_left -= len(body)
            super().data_received(body)
        if rest and self._held is not None:
            self._held.append(rest)
            if sum(map(len, self._held)) > _INPUT_HIGH_WATER:
                self.pause_input()

    def let_go(self) -> None:
        """End the streams of this connection; a request that changes something runs to its end."""
        if not self.gone.done():
            self.gone.set_result(None)


def _may_be_http2(data: bytes) -> bool:
    return data[:3] == b"PRI" and data[: len(_HTTP2)] == _HTTP2[: len(data)]


class ConnectionServer(web.Server):
    """aiohttp's low-level server with our connections; `http2` serves those that speak HTTP/2."""

    def __init__(self, handler: Any, *, http2: Tunnel, **options: Any) -> None:
        super().__init__(handler, **options)
        self._http2 = http2

    def __call__(self) -> Connection:
        """A protocol for a new connection."""
        return Connection(self, loop=self._loop, http2=self._http2, **self._kwargs)
