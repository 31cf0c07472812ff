# SPDX-License-Identifier: Apache-2.0
"""The messages of orlop-netd's socket: one JSON object a line, each answered by one, in order.

    {"op": "hold", "owner": "<id>", "ports": [<port>, …]}   all of them or none
    {"op": "release", "owner": "<id>"}                      no error if it holds nothing
    {"op": "list"}                                          {"ok": true, "owners": {"<id>": [<port>, …]}}
    {"op": "ping"}                                          {"ok": true, "pid": 123, "version": "0.1.0"}

    <port>: {"protocol": "tcp", "host_ip": "0.0.0.0", "host_port": 8080,
             "address": "172.17.0.2", "port": 80, "proxy": true}

An answer is {"ok": true, …} or {"error": "<text>"}; for hold also "errno" and "index" of the port that failed.
A port that its owner holds already, to the same target, is held on. Ports survive the connection: only release, or
the end of orlop-netd, frees them.
"""

import json
from typing import Any, NamedTuple

from orlop.errdefs import InvalidArgumentError

PROTOCOLS = ("tcp", "udp", "sctp")
MAX_LINE = 1 << 20


class HeldPort(NamedTuple):
    """A host port and where its traffic goes. Without `proxy` it is only kept from others, not listened on."""

    protocol: str
    host_ip: str
    host_port: int
    address: str
    port: int
    proxy: bool = True

    @property
    def host(self) -> str:
        """The host side as in messages to users: 0.0.0.0:80/tcp, [::]:80/tcp."""
        ip = f"[{self.host_ip}]" if ":" in self.host_ip else self.host_ip
        return f"{ip}:{self.host_port}/{self.protocol}"


def encode(message: dict[str, Any]) -> bytes:
    """A message as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """A line as a message. Raises InvalidArgumentError."""
    try:
        message = json.loads(line)
    except ValueError as error:
        raise InvalidArgumentError(f"invalid message: {error}") from None
    if not isinstance(message, dict):
        raise InvalidArgumentError("invalid message: not an object")
    return message


def owner_of(message: dict[str, Any]) -> str:
    """The owner in a request. Raises InvalidArgumentError."""
    owner = message.get("owner")
    if not isinstance(owner, str) or not owner:
        raise InvalidArgumentError("invalid owner: a non-empty string is needed")
    return owner


def ports_of(message: dict[str, Any]) -> list[HeldPort]:
    """The ports in a request. Raises InvalidArgumentError naming the field."""
    rows = message.get("ports")
    if not isinstance(rows, list):
        raise InvalidArgumentError("invalid ports: a list is needed")
    return [port_from(row, f"ports[{index}]") for index, row in enumerate(rows)]


def port_from(row: object, where: str = "port") -> HeldPort:
    """One port from its JSON object. Raises InvalidArgumentError naming the field."""
    if not isinstance(row, dict):
        raise InvalidArgumentError(f"invalid {where}: an object is needed")
    for field, kind in HeldPort.__annotations__.items():
        value = row.get(field, True if field == "proxy" else None)
        if type(value) is not kind:
            raise InvalidArgumentError(f"invalid {where}.{field}: {kind.__name__} is needed")
    port = HeldPort(**{field: row[field] for field in HeldPort._fields if field in row})
    if port.protocol not in PROTOCOLS:
        raise InvalidArgumentError(
            f"invalid {where}.protocol: {port.protocol!r} is not one of {', '.join(PROTOCOLS)}"
        )
    for field in ("host_port", "port"):
        if not 0 < row[field] < 65536:
            raise InvalidArgumentError(f"invalid {where}.{field}: {row[field]} is not a port")
    return port
