# SPDX-License-Identifier: Apache-2.0
"""A client of D-Bus, as much of it as asking systemd and firewalld takes: calls, their answers, and signals.

The wire format is that of the D-Bus specification (dbus.freedesktop.org), in the byte order of the machines that
orlop runs on. Values: int, str, bool, list for an array, tuple for a struct, (signature, value) for a variant.
"""

import _socket
import os
import struct
import time
from typing import Any

from orlop.errdefs import OrlopError, UnavailableError

PRIVATE = "/run/systemd/private"
"""systemd's own socket, for root, which needs no message bus to run."""
SYSTEM_BUS = "/run/dbus/system_bus_socket"
_SYSTEMD = "systemd"
_BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")

_CALL, _RETURN, _ERROR, _SIGNAL = 1, 2, 3, 4
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SIGNATURE = 1, 2, 3, 4, 5, 6, 8
_LARGEST = 1 << 27

_FIXED = {"y": "<B", "b": "<I", "n": "<h", "q": "<H", "i": "<i", "u": "<I", "x": "<q", "t": "<Q", "d": "<d"}
_ALIGNMENT = {"y": 1, "g": 1, "v": 1, "n": 2, "q": 2, "x": 8, "t": 8, "d": 8, "(": 8, "{": 8}


class DBusError(OrlopError):
    """The other side's error: its name, such as org.freedesktop.systemd1.UnitExists, and text."""

    def __init__(self, text: str, name: str = "") -> None:
        super().__init__(text or name)
        self.name = name


class Message:
    """A message that has come in."""

    __slots__ = ("_body", "fields", "kind", "signature")

    def __init__(self, kind: int, fields: dict[int, Any], body: bytes) -> None:
        self.kind = kind
        self.fields = fields
        self.signature = str(fields.get(_SIGNATURE, ""))
        self._body = body

    @property
    def member(self) -> str:
        """The name of the signal."""
        return str(self.fields.get(_MEMBER, ""))

    def values(self) -> tuple[Any, ...]:
        """The arguments."""
        return unmarshal(self.signature, self._body)


class Connection:
    """A connection to systemd, or with `user` to that of this user, by its own socket or else by the bus.

    With another `peer` it is one to the bus, and the name is what errors call the other side. A call takes at most
    `seconds`. Raises UnavailableError.
    """

    def __init__(self, seconds: float = 30.0, *, user: bool = False, peer: str = _SYSTEMD) -> None:
        self._seconds = seconds
        self._user = user
        self._peer = peer
        self._serial = 0
        self._input = b""
        self._signals: list[Message] = []
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            self.is_bus = self._connect()
            self._deadline = time.monotonic() + seconds
            self._socket.settimeout(seconds)
            self._authenticate()
            if self.is_bus:
                self.call(*_BUS, "Hello")
        except OSError as error:
            self.close()
            raise UnavailableError(f"cannot talk to {self._peer} over D-Bus: {_reason(error)}") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the connection."""
        self._socket.close()

    def call(
        self, destination: str, path: str, interface: str, member: str, signature: str = "", *values: Any
    ) -> tuple[Any, ...]:
        """Call a method and wait for what it returns. Raises DBusError, UnavailableError."""
        self._serial += 1
        serial = self._serial
        self._deadline = time.monotonic() + self._seconds
        try:
            self._socket.sendall(_encode(serial, destination, path, interface, member, signature, values))
            while True:
                message = self._receive()
                if message.kind == _SIGNAL:
                    self._signals.append(message)
                elif message.fields.get(_REPLY_SERIAL) != serial:
                    continue
                elif message.kind == _ERROR:
                    text = message.values()[0] if message.signature.startswith("s") else ""
                    raise DBusError(str(text), str(message.fields.get(_ERROR_NAME, "")))
                else:
                    return message.values()
        except OSError as error:
            raise UnavailableError(f"{self._peer} does not answer {member}: {_reason(error)}") from error

    def subscribe(self, rule: str) -> None:
        """Ask the bus for the signals of a match rule; on a private socket they come by themselves."""
        if self.is_bus:
            self.call(*_BUS, "AddMatch", "s", rule)

    def signal(self) -> Message:
        """The next signal, one that came during a call first. Raises UnavailableError after the time for it."""
        if self._signals:
            return self._signals.pop(0)
        self._deadline = time.monotonic() + self._seconds
        try:
            while (message := self._receive()).kind != _SIGNAL:
                continue
        except OSError as error:
            raise UnavailableError(f"{self._peer} does not report: {_reason(error)}") from error
        return message

    def _connect(self) -> bool:
        """Whether it is the bus that answered."""
        private, variable, bus = PRIVATE, "DBUS_SYSTEM_BUS_ADDRESS", SYSTEM_BUS
        if self._user:
            directory = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{_uid()}"
            private, variable, bus = f"{directory}/systemd/private", "DBUS_SESSION_BUS_ADDRESS", f"{directory}/bus"
        try:
            if self._peer == _SYSTEMD:
                self._socket.connect(private)
                return False
        except OSError:
            pass  # then by the bus
        address = os.environ.get(variable, "")
        self._socket.connect(address.removeprefix("unix:path=").partition(",")[0] if address else bus)
        return True

    def _authenticate(self) -> None:
        identity = str(_uid()).encode().hex()
        self._socket.sendall(b"\0AUTH EXTERNAL " + identity.encode() + b"\r\nBEGIN\r\n")
        while b"\r\n" not in self._input:
            self._read_more()
        line, _, self._input = self._input.partition(b"\r\n")
        if not line.startswith(b"OK"):
            raise ConnectionRefusedError(0, f"authentication failed ({line.decode(errors='replace')})")

    def _receive(self) -> Message:
        while len(self._input) < 16:
            self._read_more()
        if self._input[:1] != b"l":
            raise ConnectionAbortedError(0, "a message in the other byte order")
        body_length, _, fields_length = struct.unpack_from("<III", self._input, 4)
        header = 16 + fields_length + (-fields_length % 8)
        if header + body_length > _LARGEST:
            raise ConnectionAbortedError(0, "a message that is too long")
        while len(self._input) < header + body_length:
            self._read_more()
        raw, self._input = self._input[: header + body_length], self._input[header + body_length :]
        (fields,), _ = _read_all("a(yv)", raw[: 16 + fields_length], 12)
        return Message(raw[1], {code: value for code, (_, value) in fields}, raw[header:])

    def _read_more(self) -> None:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError(0, "timed out")
        self._socket.settimeout(remaining)
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionResetError(0, "it closed the connection")
        self._input += data


def _uid() -> int:
    """This process's user as seen from outside of its user namespace, which is what the other side sees."""
    own = os.geteuid()
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            ranges = [tuple(int(number) for number in line.split()) for line in file]
    except FileNotFoundError:
        return own  # a kernel without user namespaces
    return next((outside + own - inside for inside, outside, size in ranges if inside <= own < inside + size), own)


def _reason(error: OSError) -> str:
    return (os.strerror(error.errno) if error.errno else str(error.strerror or error)).lower()


def _encode(
    serial: int,
    destination: str,
    path: str,
    interface: str,
    member: str,
    signature: str,
    values: tuple[Any, ...],
) -> bytes:
    body = marshal(signature, *values)
    fields: list[tuple[int, tuple[str, str]]] = [
        (_PATH, ("o", path)),
        (_INTERFACE, ("s", interface)),
        (_MEMBER, ("s", member)),
        (_DESTINATION, ("s", destination)),
    ]
    if signature:
        fields.append((_SIGNATURE, ("g", signature)))
    message = bytearray(struct.pack("<cBBBII", b"l", _CALL, 0, 1, len(body), serial))
    _write(message, "a(yv)", fields)
    _pad(message, 8)
    return bytes(message) + body


def marshal(signature: str, *values: Any) -> bytes:
    """Values of a signature in wire format."""
    out = bytearray()
    for kind, value in zip(complete_types(signature), values, strict=True):
        _write(out, kind, value)
    return bytes(out)


def unmarshal(signature: str, data: bytes) -> tuple[Any, ...]:
    """The values of a signature in wire format."""
    return _read_all(signature, data, 0)[0]


def complete_types(signature: str) -> list[str]:
    """A signature parted into its complete types."""
    types: list[str] = []
    at = 0
    while at < len(signature):
        end = _end_of_type(signature, at)
        types.append(signature[at:end])
        at = end
    return types


def _end_of_type(signature: str, at: int) -> int:
    while signature[at] == "a":
        at += 1
    if signature[at] not in "({":
        return at + 1
    depth = 0
    while True:
        depth += (signature[at] in "({") - (signature[at] in ")}")
        at += 1
        if not depth:
            return at


def _pad(out: bytearray, alignment: int) -> None:
    out += bytes(-len(out) % alignment)


def _write(out: bytearray, kind: str, value: Any) -> None:
    first = kind[0]
    _pad(out, _ALIGNMENT.get(first, 4))
    if first in _FIXED:
        out += struct.pack(_FIXED[first], value)
    elif first in "sog":
        raw = value.encode()
        out += struct.pack("<B" if first == "g" else "<I", len(raw)) + raw + b"\0"
    elif first == "v":
        _write(out, "g", value[0])
        _write(out, value[0], value[1])
    elif first == "a":
        out += bytes(4)
        length_at = len(out) - 4
        _pad(out, _ALIGNMENT.get(kind[1], 4))
        begin = len(out)
        for item in value:
            _write(out, kind[1:], item)
        struct.pack_into("<I", out, length_at, len(out) - begin)
    else:
        for inner, item in zip(complete_types(kind[1:-1]), value, strict=True):
            _write(out, inner, item)


def _read_all(signature: str, data: bytes, at: int) -> tuple[tuple[Any, ...], int]:
    values: list[Any] = []
    for kind in complete_types(signature):
        value, at = _read(kind, data, at)
        values.append(value)
    return tuple(values), at


def _read(kind: str, data: bytes, at: int) -> tuple[Any, int]:
    first = kind[0]
    at += -at % _ALIGNMENT.get(first, 4)
    if first in _FIXED:
        (value,) = struct.unpack_from(_FIXED[first], data, at)
        return (bool(value) if first == "b" else value), at + struct.calcsize(_FIXED[first])
    if first in "sog":
        size = 1 if first == "g" else 4
        length = int.from_bytes(data[at : at + size], "little")
        at += size
        return data[at : at + length].decode(errors="surrogateescape"), at + length + 1
    if first == "v":
        inner, at = _read("g", data, at)
        value, at = _read(inner, data, at)
        return (inner, value), at
    if first == "a":
        (length,) = struct.unpack_from("<I", data, at)
        at += 4
        at += -at % _ALIGNMENT.get(kind[1], 4)
        end = at + length
        items: list[Any] = []
        while at < end:
            item, at = _read(kind[1:], data, at)
            items.append(item)
        return items, at
    return _read_all(kind[1:-1], data, at)
