# SPDX-License-Identifier: Apache-2.0
"""The log driver syslog (RFC 3164, RFC 5424), over UDP, TCP, TLS or a Unix socket."""

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from orlop.dockerd.logging.collector import Address, Datagrams, Message, Stream, client_tls, parse_address
from orlop.errdefs import InvalidArgumentError

_PORT = 514
_FACILITIES = (
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    "", "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
)  # fmt: skip
_SEVERITIES = {"stdout": 6, "stderr": 3}  # informational, error
_LOCAL = ("/dev/log", "/var/run/syslog", "/var/run/log")


class Settings(NamedTuple):
    """The options, read. `address` None means the machine's own daemon."""

    address: Address | None
    facility: int
    format: str


def settings(options: Mapping[str, str]) -> Settings:
    """Raises InvalidArgumentError."""
    form = options.get("syslog-format", "")
    if form not in _FORMATS:
        raise InvalidArgumentError("Invalid syslog format")
    return Settings(
        _address(options.get("syslog-address", "")), _facility(options.get("syslog-facility", "")), form
    )


def _address(text: str) -> Address | None:
    if not text:
        return None
    address = parse_address(text, _PORT)
    if address.path or address.scheme in ("unix", "unixgram"):
        if not os.path.exists(address.path):
            raise InvalidArgumentError(f"stat {address.path}: no such file or directory")
        return address
    if address.scheme not in ("udp", "tcp", "tcp+tls"):
        raise InvalidArgumentError(f"unsupported scheme: '{address.scheme}'")
    return address


def _facility(text: str) -> int:
    if not text:
        return _FACILITIES.index("daemon")
    if text in _FACILITIES:
        return _FACILITIES.index(text)
    if text.isdecimal() and int(text) < len(_FACILITIES):
        return int(text)
    raise InvalidArgumentError("invalid syslog facility")


class Header(NamedTuple):
    """What a message is marked with; `when` is in local time."""

    priority: int
    when: datetime
    tag: str


def _unix(header: Header, text: str) -> str:
    return f"<{header.priority}>{_stamp(header.when)} {header.tag}[{os.getpid()}]: {text}"


def _rfc3164(header: Header, text: str) -> str:
    host = socket.gethostname()
    return f"<{header.priority}>{_stamp(header.when)} {host} {header.tag}[{os.getpid()}]: {text}"


def _rfc5424(header: Header, text: str) -> str:
    return _version_1(header, text, header.when.isoformat(timespec="seconds"))


def _rfc5424_micro(header: Header, text: str) -> str:
    return _version_1(header, text, header.when.isoformat(timespec="microseconds"))


def _version_1(header: Header, text: str, when: str) -> str:
    about = f"{socket.gethostname()} {header.tag} {os.getpid()} {header.tag}"
    return f"<{header.priority}>1 {when.replace('+00:00', 'Z')} {about} - {text}"


def _stamp(when: datetime) -> str:
    return f"{when:%b} {when.day:2d} {when:%H:%M:%S}"


_FORMATS: Mapping[str, Callable[[Header, str], str]] = {
    "": _unix,
    "rfc3164": _rfc3164,
    "rfc5424": _rfc5424,
    "rfc5424micro": _rfc5424_micro,
}


class Syslog:
    """The collector. Over TLS, messages of RFC 5424 are counted (RFC 5425); else each ends with a newline."""

    def __init__(self, options: Mapping[str, str], tag: str) -> None:
        """Raises InvalidArgumentError."""
        self._settings = settings(options)
        self._tag = tag
        self._candidates = self._connections(options)
        self._connection: Stream | Datagrams | None = None
        address = self._settings.address
        secure = address is not None and address.scheme == "tcp+tls"
        self._counted = secure and self._settings.format.startswith("rfc5424")

    def connects_first(self) -> bool:
        """A container does not start without its syslog."""
        return True

    async def connect(self) -> None:
        """The first that answers, where there is a choice. Raises OSError, TimeoutError."""
        failure: OSError = ConnectionError("Unix syslog delivery error")
        for candidate in self._candidates:
            try:
                await candidate.connect()
            except OSError as error:
                failure = error
                continue
            self._connection = candidate
            return
        raise failure

    async def send(self, messages: Sequence[Message]) -> None:
        """Raises OSError, TimeoutError."""
        if self._connection is None:
            raise ConnectionError("not connected")
        packets = [self._packet(message) for message in messages if message.line]
        if isinstance(self._connection, Stream):
            await self._connection.send(b"".join(packets))
            return
        for packet in packets:
            await self._connection.send(packet)

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.close()
        self._connection = None

    def _packet(self, message: Message) -> bytes:
        priority = self._settings.facility << 3 | _SEVERITIES[message.stream]
        seconds, fraction = divmod(message.time // 1000, 1_000_000)
        when = datetime.fromtimestamp(seconds).replace(microsecond=fraction).astimezone()
        text = _FORMATS[self._settings.format](Header(priority, when, self._tag), message.line) + "\n"
        packet = text.encode("utf-8", "surrogateescape")
        return b"%d %b" % (len(packet), packet) if self._counted else packet

    def _connections(self, options: Mapping[str, str]) -> list[Stream | Datagrams]:
        address = self._settings.address
        if address is None:
            local = [Address("unix", path=path) for path in _LOCAL]
            return [made for each in local for made in (Datagrams(each), Stream(each))]
        if address.scheme in ("udp", "unixgram"):
            return [Datagrams(address)]
        if address.scheme != "tcp+tls":
            return [Stream(address)]
        files = (options.get(f"syslog-tls-{name}", "") for name in ("ca-cert", "cert", "key"))
        return [Stream(address, client_tls(*files, verify="syslog-tls-skip-verify" not in options))]
