# SPDX-License-Identifier: Apache-2.0
"""The log driver gelf (Graylog Extended Log Format 1.1): UDP in compressed chunks, or TCP."""

import gzip
import logging
import os
import socket
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from orlop.dockerd.logging.collector import Address, Datagrams, Message, Stream, parse_address
from orlop.errdefs import InvalidArgumentError

log = logging.getLogger("orlop.dockerd.logging")

_CHUNK = 1420
"""Bytes of a datagram that passes any network."""
_HEADER = 12
_MAGIC = b"\x1e\x0f"
LONGEST = 128 * (_CHUNK - _HEADER)
"""Bytes of a document that can be sent in pieces."""
_LEVELS = {"stdout": 6, "stderr": 3}
_FASTEST = 1


class Settings(NamedTuple):
    """The options that have an effect."""

    address: Address
    compression: str
    level: int


def settings(options: Mapping[str, str]) -> Settings:
    """Raises InvalidArgumentError."""
    address = _address(options.get("gelf-address", ""))
    for name in ("compression-level", "compression-type"):
        if f"gelf-{name}" in options and address.scheme != "udp":
            raise InvalidArgumentError("compression is only supported on UDP")
    for key in ("gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"):
        if key not in options:
            continue
        if address.scheme != "tcp":
            raise InvalidArgumentError(f'"{key}" is only valid for TCP')
        if not options[key].isdecimal():
            raise InvalidArgumentError(f'"{key}" must be a positive integer')
    kind = options.get("gelf-compression-type", "gzip")
    if kind not in ("gzip", "zlib", "none"):
        raise InvalidArgumentError(
            f'unknown value "{kind}" for log opt "gelf-compression-type" for gelf log driver'
        )
    level = options.get("gelf-compression-level", str(_FASTEST))
    if level not in map(str, range(-1, 10)):
        raise InvalidArgumentError(
            f'unknown value "{level}" for log opt "gelf-compression-level" for gelf log driver'
        )
    return Settings(address, kind, int(level))


def _address(text: str) -> Address:
    if not text:
        raise InvalidArgumentError("gelf-address is a required parameter")
    address = parse_address(text, 0)
    if address.scheme not in ("udp", "tcp"):
        raise InvalidArgumentError("gelf: endpoint needs to be TCP or UDP")
    if not address.port:
        raise InvalidArgumentError("gelf: please provide gelf-address as proto://host:port")
    return address


class Gelf:
    """The collector; `fields` go with every message, their names beginning with an underscore."""

    def __init__(self, options: Mapping[str, str], fields: Mapping[str, str]) -> None:
        """Raises InvalidArgumentError."""
        self._settings = settings(options)
        self._fields = {name if name.startswith("_") else f"_{name}": value for name, value in fields.items()}
        self._host = socket.gethostname()
        address = self._settings.address
        self._connection: Stream | Datagrams = Datagrams(address) if address.scheme == "udp" else Stream(address)

    def connects_first(self) -> bool:
        """A container does not start without its collector."""
        return True

    async def connect(self) -> None:
        """Raises OSError, TimeoutError."""
        await self._connection.connect()

    async def send(self, messages: Sequence[Message]) -> None:
        """Raises OSError, TimeoutError."""
        documents = [self._document(message) for message in messages if message.line]
        if isinstance(self._connection, Stream):
            await self._connection.send(b"".join(document + b"\0" for document in documents))
            return
        for document in documents:
            packed = self._compress(document)
            if len(packed) > LONGEST:  # it never can be sent: the others shall not wait for it
                log.warning("gelf: a message of %d bytes is too long for UDP, and is dropped", len(packed))
                continue
            for datagram in chunks(packed):
                await self._connection.send(datagram)

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    def _document(self, message: Message) -> bytes:
        document = {
            "version": "1.1",
            "host": self._host,
            "short_message": message.line.encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
            "timestamp": message.time // 1_000_000 / 1000,
            "level": _LEVELS[message.stream],
            **self._fields,
        }
        return msgspec.json.encode(document)

    def _compress(self, document: bytes) -> bytes:
        if self._settings.compression == "gzip":
            return gzip.compress(document, self._settings.level if self._settings.level >= 0 else 6)
        if self._settings.compression == "zlib":
            return zlib.compress(document, self._settings.level)
        return document


def chunks(document: bytes) -> list[bytes]:
    """The datagrams of a document of at most `LONGEST` bytes: itself, or numbered pieces."""
    if len(document) <= _CHUNK:
        return [document]
    size = _CHUNK - _HEADER
    count = -(-len(document) // size)
    head = _MAGIC + os.urandom(8)
    return [
        head + bytes((number, count)) + document[number * size : (number + 1) * size] for number in range(count)
    ]
