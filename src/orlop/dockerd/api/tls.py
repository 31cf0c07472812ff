# SPDX-License-Identifier: Apache-2.0
"""TLS in front of the API's connections.

asyncio's own TLS transport ends a connection at the peer's half-close, which is how a client says that its
input is over while it still wants output (`echo hi | docker run -i …`). So TLS ends here, and what is inside of it
goes through a pair of sockets to an ordinary connection.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

from orlop.dockerd.api.connection import Connection, Peer
from orlop.dockerd.config import Config
from orlop.errdefs import InvalidArgumentError

log = logging.getLogger("orlop.dockerd.tls")

_CHUNK = 64 * 1024
_HANDSHAKE_SECONDS = 30.0
_HANDSHAKE_RECORD = 0x16
_PLAIN_ANSWER = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"


def server_context(config: Config, defaults: str) -> ssl.SSLContext | None:
    """How to talk TLS after `tls`, `tlsverify` and the three files; None: not at all.

    `defaults` is the directory where unnamed files are (`~/.docker`). Raises InvalidArgumentError.
    """
    if not (config.tls or config.tlsverify):
        return None
    cert, key = config.tlscert or f"{defaults}/cert.pem", config.tlskey or f"{defaults}/key.pem"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise InvalidArgumentError(
            "invalid TLS configuration: error reading X509 key pair - make sure the key is not encrypted "
            f'(cert: "{cert}", key: "{key}"): {_reason(error)}'
        ) from None
    if verifies(config):
        authority = config.tlscacert or f"{defaults}/ca.pem"
        try:
            context.load_verify_locations(authority)
        except OSError as error:
            raise InvalidArgumentError(
                f'invalid TLS configuration: could not read CA certificate "{authority}": {_reason(error)}'
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def verifies(config: Config) -> bool:
    """Whether clients need a certificate: with TLS always, unless it was said that they need none."""
    return bool(config.tls or config.tlsverify) and config.tlsverify is not False


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


class TlsServer:
    """Accepts on one listening socket, and makes an API connection of what `make` returns for each client."""

    def __init__(self, context: ssl.SSLContext, make: Callable[[], Connection]) -> None:
        self._context = context
        self._make = make
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def serve(self, listening: socket.socket) -> None:
        """Accept from now on."""
        self._server = await asyncio.start_server(self._accept, sock=listening, backlog=1024, limit=_CHUNK)

    def close(self) -> None:
        """Accept no more; connections go on until `cut`."""
        if self._server is not None:
            self._server.close()

    async def cut(self) -> None:
        """End what is left."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = _Session(self._context, reader, writer)
        try:
            async with asyncio.timeout(_HANDSHAKE_SECONDS):
                await session.handshake()
            await self._join(session)
        except (OSError, TimeoutError) as error:  # SSLError is an OSError
            log.debug("TLS with %s: %s", writer.get_extra_info("peername"), error)
        finally:
            writer.close()

    async def _join(self, session: "_Session") -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)

        def make() -> Connection:
            connection = self._make()
            connection.peer = session.peer()
            return connection

        await asyncio.get_running_loop().connect_accepted_socket(make, theirs)
        reader, writer = await asyncio.open_connection(sock=ours, limit=_CHUNK)
        try:
            await _both(session.copy_in(writer), session.copy_out(reader))
        finally:
            writer.close()


class _Session:
    """One client's TLS: the bytes outside go by the streams, those inside by `copy_in` and `copy_out`."""

    def __init__(
        self, context: ssl.SSLContext, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    async def handshake(self) -> None:
        """Raises SSLError; a client that does not speak TLS is told so first."""
        data = await self._reader.read(_CHUNK)
        if data and data[0] != _HANDSHAKE_RECORD:
            if data[:1].isalpha():
                self._writer.write(_PLAIN_ANSWER)
                await self._writer.drain()
            raise ssl.SSLError("the client does not speak TLS")
        while True:
            self._incoming.write(data)
            if not data:
                self._incoming.write_eof()
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                data = await self._reader.read(_CHUNK)
                continue
            except ssl.SSLError:
                await self._flush()  # the alert that says why
                raise
            await self._flush()
            return

    def peer(self) -> Peer | None:
        """Who the client is, if it has shown a certificate that was verified."""
        certificate = self._tls.getpeercert(binary_form=True)
        about = self._tls.getpeercert()
        if not certificate or not about:
            return None
        subject: Any = about.get("subject", ())
        names = [value for part in subject for key, value in part if key == "commonName"]
        return Peer(names[-1] if names else "", certificate)

    async def copy_in(self, inside: asyncio.StreamWriter) -> None:
        """What the client sends, up to its half-close."""
        data = b"-"
        while data:
            try:
                while plain := self._tls.read(_CHUNK):
                    inside.write(plain)
                break  # close_notify
            except ssl.SSLWantReadError:
                await inside.drain()
            await self._flush()
            data = await self._reader.read(_CHUNK)
            self._incoming.write(data)
        inside.write_eof()

    async def copy_out(self, inside: asyncio.StreamReader) -> None:
        """What the connection answers, up to its end."""
        while data := await inside.read(_CHUNK):
            self._tls.write(data)
            await self._flush()
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()  # our close_notify; that of the client may come or not
        await self._flush()

    async def _flush(self) -> None:
        if data := self._outgoing.read():
            self._writer.write(data)
            await self._writer.drain()


async def _both(incoming: Coroutine[Any, Any, None], outgoing: Coroutine[Any, Any, None]) -> None:
    """Until there is no more output; the end of input alone ends nothing, but an error of either does."""
    tasks = {asyncio.ensure_future(incoming), (last := asyncio.ensure_future(outgoing))}
    try:
        while not last.done():
            pending = {task for task in tasks if not task.done()}
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
