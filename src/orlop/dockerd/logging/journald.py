# SPDX-License-Identifier: Apache-2.0
"""The log driver journald: the journal's own socket and format (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""

import array
import asyncio
import errno
import os
import secrets
import socket
from collections.abc import Mapping, Sequence

from orlop.dockerd import timestamps
from orlop.dockerd.logging.collector import SEND_SECONDS, Message

SOCKET = "/run/systemd/journal/socket"
_PRIORITIES = {"stdout": "6", "stderr": "3"}


def field_name(text: str) -> str:
    """A name as the journal allows it: capitals, digits and underscores, no underscore first."""
    allowed = [char.upper() if char.isascii() and char.isalnum() else "_" for char in text]
    return "".join(allowed).lstrip("_")


class Journald:
    """The collector; `fields` go with every message."""

    def __init__(self, fields: Mapping[str, str], path: str = SOCKET) -> None:
        self._fields = {**fields, "CONTAINER_LOG_EPOCH": secrets.token_hex(32)}
        self._path = path
        self._count = 0
        self._socket: socket.socket | None = None

    def connects_first(self) -> bool:
        """A container does not start on a machine without a journal."""
        return True

    async def connect(self) -> None:
        """Raises OSError."""
        await self.close()
        if not os.path.exists(self._path):
            raise ConnectionError("journald is not enabled on this host")
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            opened.connect(self._path)
        except OSError:
            opened.close()
            raise
        self._socket = opened

    async def send(self, messages: Sequence[Message]) -> None:
        """Raises OSError, TimeoutError."""
        if self._socket is None:
            raise ConnectionError("not connected")
        loop = asyncio.get_running_loop()
        for message in messages:
            packet = self._packet(message)
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await loop.sock_sendall(self._socket, packet)
            except OSError as error:
                if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                    raise
                _send_file(self._socket, packet)

    async def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _packet(self, message: Message) -> bytes:
        self._count += 1
        fields = {
            "MESSAGE": message.line,
            "PRIORITY": _PRIORITIES[message.stream],
            **self._fields,
            "SYSLOG_TIMESTAMP": timestamps.rfc3339(message.time),
            "CONTAINER_LOG_ORDINAL": str(self._count),
        }
        if message.partial is not None:
            fields["CONTAINER_PARTIAL_ID"] = message.partial.id
            fields["CONTAINER_PARTIAL_ORDINAL"] = str(message.partial.ordinal)
            fields["CONTAINER_PARTIAL_LAST"] = "true" if message.partial.last else "false"
            if not message.partial.last:
                fields["CONTAINER_PARTIAL_MESSAGE"] = "true"
        return b"".join(_field(name, value) for name, value in fields.items())


def _field(name: str, value: str) -> bytes:
    raw = value.encode("utf-8", "surrogateescape")
    if b"\n" not in raw:
        return b"%b=%b\n" % (name.encode(), raw)
    return b"%b\n%b%b\n" % (name.encode(), len(raw).to_bytes(8, "little"), raw)


def _send_file(connection: socket.socket, packet: bytes) -> None:
    """What is too large for a datagram goes as a sealed file in memory."""
    fd = os.memfd_create("journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        written = 0
        while written < len(packet):
            written += os.write(fd, packet[written:])
        _seal(fd)
        connection.sendmsg([], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
    finally:
        os.close(fd)


def _seal(fd: int) -> None:
    import fcntl

    fcntl.fcntl(
        fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    )
