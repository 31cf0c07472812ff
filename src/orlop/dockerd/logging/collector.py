# SPDX-License-Identifier: Apache-2.0
"""What brings log messages to a collector, and the connections that collectors share."""

import asyncio
import socket
import ssl
from collections.abc import Sequence
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from orlop.errdefs import InvalidArgumentError
from orlop.tls import client_context

CONNECT_SECONDS = 10.0
SEND_SECONDS = 30.0


class Partial(NamedTuple):
    """A piece of a line that was too long: the line's id, the piece's number from 1, whether it is the last."""

    id: str
    ordinal: int
    last: bool


class Message(NamedTuple):
    """A line of output without its newline; `time` in nanoseconds since 1970."""

    line: str
    stream: str
    time: int
    partial: Partial | None = None


class Collector(Protocol):
    """Life: `connect`, any number of `send`, `close`; after an error of one of them it may be connected again."""

    def connects_first(self) -> bool:
        """Whether a container must not start before there is a connection."""

    async def connect(self) -> None:
        """Raises OSError, TimeoutError."""

    async def send(self, messages: Sequence[Message]) -> None:
        """Bring messages, in order. When it returns, they are out of our hands. Raises OSError, TimeoutError."""

    async def close(self) -> None:
        """Give the connection up."""


class Address(NamedTuple):
    """Where a collector is: `scheme` udp, tcp, tls or tcp+tls with host and port, unix or unixgram with a path."""

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        return self.path or f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def parse_address(text: str, default_port: int) -> Address:
    """Scheme, host and port of a URL, or its path. Raises InvalidArgumentError."""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        raise InvalidArgumentError(f"{text!r}: {error}") from None
    if url.scheme in ("unix", "unixgram"):
        return Address(url.scheme, path=url.path)
    return Address(url.scheme, url.hostname or "", default_port if port is None else port)


class Stream:
    """A connection over TCP, TLS or a Unix socket. Errors are OSError."""

    def __init__(self, address: Address, tls: ssl.SSLContext | None = None) -> None:
        self._address = address
        self._tls = tls
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def connect(self) -> None:
        """Raises OSError, TimeoutError."""
        async with asyncio.timeout(CONNECT_SECONDS):
            if self._address.path:
                opened = await asyncio.open_unix_connection(self._address.path)
            else:
                opened = await asyncio.open_connection(self._address.host, self._address.port, ssl=self._tls)
        self._reader, self._writer = opened

    async def send(self, data: bytes) -> None:
        """Hand bytes to the kernel, all of them. Raises OSError, TimeoutError."""
        if self._reader is None or self._writer is None:
            raise ConnectionError("not connected")
        if self._reader.at_eof():
            raise ConnectionResetError("the collector has closed the connection")
        self._writer.write(data)
        self._writer.transport.set_write_buffer_limits(0)
        async with asyncio.timeout(SEND_SECONDS):
            await self._writer.drain()

    async def receive(self, seconds: float) -> bytes:
        """What the collector answers. Raises OSError, TimeoutError."""
        if self._reader is None:
            raise ConnectionError("not connected")
        async with asyncio.timeout(seconds):
            data = await self._reader.read(65536)
        if not data:
            raise ConnectionResetError("the collector has closed the connection")
        return data

    async def close(self) -> None:
        """Close, not waiting for anything."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


class Datagrams:
    """A connected datagram socket, UDP or Unix. Errors are OSError."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._socket: socket.socket | None = None

    async def connect(self) -> None:
        """Raises OSError."""
        await self.close()
        loop = asyncio.get_running_loop()
        if self._address.path:
            family, target = socket.AF_UNIX, self._address.path
        else:
            found = await loop.getaddrinfo(self._address.host, self._address.port, type=socket.SOCK_DGRAM)
            family, target = found[0][0], found[0][4]  # type: ignore[assignment]
        opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            opened.connect(target)
        except OSError:
            opened.close()
            raise
        self._socket = opened

    async def send(self, data: bytes) -> None:
        """Send one datagram. Raises OSError, TimeoutError."""
        if self._socket is None:
            raise ConnectionError("not connected")
        async with asyncio.timeout(SEND_SECONDS):
            await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def close(self) -> None:
        """Close."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None


def client_tls(authority: str, cert: str, key: str, *, verify: bool) -> ssl.SSLContext:
    """How to talk TLS with a collector. Raises InvalidArgumentError that names the file."""
    context = client_context()
    try:
        if authority:
            context.load_verify_locations(authority)
        if cert or key:
            context.load_cert_chain(cert, key)
    except OSError as error:
        files = ", ".join(filter(None, (authority, cert, key)))
        raise InvalidArgumentError(f"cannot use the TLS files {files}: {error.strerror or error}") from None
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
