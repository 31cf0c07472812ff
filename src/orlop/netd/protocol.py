# SPDX-License-Identifier: Apache-2.0
"""The messages of orlop-netd's socket: one JSON object a line, each answered by one, in order.

    {"op": "hold", "owner": "<id>", "ports": [<port>, …]}   all of them or none
    {"op": "release", "owner": "<id>"}                      no error if it holds nothing
    {"op": "release", "owner": "<id>", "ports": [<port>, …]}   only these
    {"op": "name", "endpoint": "<id>", "network": "<id>", "names": ["web", …], "addresses": ["172.18.0.2"]}
    {"op": "forget", "endpoint": "<id>"}                    no error if it has no names
    {"op": "resolve", "owner": "<id>", "resolver": <resolver>}   serve DNS in a container, or change what it knows
    {"op": "unresolve", "owner": "<id>"}                    no error if there is no resolver
    {"op": "keep", "owner": "<id>", "paths": ["/…", …]}     keep FIFOs open for reading, in place of what it has
    {"op": "drop", "owner": "<id>"}                         no error if it has none
    {"op": "list"}                                          {"ok": true, "owners": {"<id>": [<port>, …]},
                                                             "resolvers": ["<id>", …], "endpoints": ["<id>", …],
                                                             "kept": ["<id>", …]}
    {"op": "ping"}                                          {"ok": true, "pid": 123, "version": "0.1.0"}

    <port>: {"protocol": "tcp", "host_ip": "0.0.0.0", "host_port": 8080,
             "address": "172.17.0.2", "port": 80, "proxy": true}
    <resolver>: {"netns": "/run/orlop/netns/…", "port": 61153, "forward": true, "qualified": false,
                 "networks": [{"id": "<id>", "name": "front", "aliases": {"db": "postgres"}}],
                 "upstreams": [{"address": "192.0.2.53", "from_host": false}]}

An answer is {"ok": true, …} or {"error": "<text>"}; for hold also "errno" and "index" of the port that failed.
A port that its owner holds already, to the same target, is held on. Ports, names, resolvers and
FIFOs survive the connection: only their release, or the end of orlop-netd, ends them.
"""

import json
from ipaddress import ip_address
from typing import Any, NamedTuple

from orlop.errdefs import InvalidArgumentError
from orlop.netd.names import Entry, Member, Upstream, View

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
    return text_of(message, "owner")


def text_of(message: dict[str, Any], field: str) -> str:
    """A field that is a non-empty string. Raises InvalidArgumentError naming it."""
    value = message.get(field)
    if not isinstance(value, str) or not value:
        raise InvalidArgumentError(f"invalid {field}: a non-empty string is needed")
    return value


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


def entry_of(message: dict[str, Any]) -> Entry:
    """The names of an endpoint. Raises InvalidArgumentError naming the field."""
    names, addresses = _texts(message, "names"), _texts(message, "addresses")
    if not names:
        raise InvalidArgumentError("invalid names: at least one is needed")
    for address in addresses:
        _check_address("addresses", address)
    return Entry(text_of(message, "network"), names, addresses)


def paths_of(message: dict[str, Any]) -> list[str]:
    """The paths in a request. Raises InvalidArgumentError."""
    return list(_texts(message, "paths"))


def resolver_of(message: dict[str, Any]) -> tuple[str, int, View]:
    """A resolver's namespace, port and knowledge. Raises InvalidArgumentError naming the field."""
    row = message.get("resolver")
    if not isinstance(row, dict):
        raise InvalidArgumentError("invalid resolver: an object is needed")
    port = row.get("port")
    if type(port) is not int or not 0 < port < 65536:
        raise InvalidArgumentError("invalid port: a number from 1 to 65535 is needed")
    view = View(
        networks=tuple(_member(each) for each in _objects(row, "networks")),
        upstreams=tuple(_upstream(each) for each in _objects(row, "upstreams")),
        forward=_boolean(row, "forward", True),
        qualified=_boolean(row, "qualified", False),
    )
    return text_of(row, "netns"), port, view


def resolver_row(netns: str, port: int, view: View) -> dict[str, Any]:
    """The object that `resolver_of` reads."""
    return {
        "netns": netns,
        "port": port,
        "networks": [each._asdict() for each in view.networks],
        "upstreams": [each._asdict() for each in view.upstreams],
        "forward": view.forward,
        "qualified": view.qualified,
    }


def _member(row: dict[str, Any]) -> Member:
    aliases = row.get("aliases") or {}
    if not isinstance(aliases, dict) or not all(isinstance(name, str) for name in aliases.values()):
        raise InvalidArgumentError("invalid aliases: an object of strings is needed")
    lower = {alias.lower(): name.lower() for alias, name in aliases.items()}
    return Member(text_of(row, "id"), text_of(row, "name"), lower)


def _upstream(row: dict[str, Any]) -> Upstream:
    address = text_of(row, "address")
    _check_address("upstreams.address", address.partition("%")[0])
    return Upstream(address, _boolean(row, "from_host", False))


def _objects(row: dict[str, Any], field: str) -> list[dict[str, Any]]:
    value = row.get(field) or []
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise InvalidArgumentError(f"invalid {field}: a list of objects is needed")
    return value


def _texts(row: dict[str, Any], field: str) -> tuple[str, ...]:
    value = row.get(field)
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise InvalidArgumentError(f"invalid {field}: a list of strings is needed")
    return tuple(value)


def _boolean(row: dict[str, Any], field: str, default: bool) -> bool:
    value = row.get(field, default)
    if type(value) is not bool:
        raise InvalidArgumentError(f"invalid {field}: true or false is needed")
    return value


def _check_address(field: str, text: str) -> None:
    try:
        ip_address(text)
    except ValueError:
        raise InvalidArgumentError(f"invalid {field}: {text!r} is not an ip address") from None
