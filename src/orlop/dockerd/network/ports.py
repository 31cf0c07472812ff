# SPDX-License-Identifier: Apache-2.0
"""Published ports: what a container asks for, as a plan, and the table of what is given away."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from ipaddress import ip_address
from typing import NamedTuple

import msgspec

from orlop.dockerd.network.types import PortMapping
from orlop.engine.types import PortBinding
from orlop.errdefs import InternalError, InvalidArgumentError
from orlop.netd.protocol import PROTOCOLS

DEFAULT_EPHEMERAL = (49153, 65535)
"""First and last port for "any port", where the kernel does not name its own range."""


class PortRequest(NamedTuple):
    """One container port to publish at the same host port of each of `host_ips`.

    `first` and `last` bound the host port; both 0 mean any port.
    """

    protocol: str
    port: int
    host_ips: tuple[str, ...]
    first: int
    last: int


class Target(NamedTuple):
    """Where published ports lead: a container's addresses (either may be empty), and how its network is reached.

    `routed4`, `routed6`: at the container's own address instead of the host's; `direct`: there, too; `proxy`:
    there is a proxy, which leads from IPv6 to a container that has IPv4 only.
    """

    address: str
    address6: str = ""
    routed4: bool = False
    routed6: bool = False
    direct: bool = False
    proxy: bool = True

    def of(self, host_ip: str) -> tuple[str, bool]:
        """The address that a port at `host_ip` leads to (empty: it cannot), and whether it is routed."""
        if ":" not in host_ip:
            return self.address, self.routed4
        if self.address6:
            return self.address6, self.routed6
        return (self.address if self.proxy and not self.routed4 else ""), False


def mappings(request: PortRequest, target: Target, host_port: int) -> list[PortMapping]:
    """What a request comes to at a host port: one mapping for each of its addresses that can lead to the target.

    Raises InvalidArgumentError for an address that was asked for and cannot.
    """
    found = []
    for ip in request.host_ips:
        address, routed = target.of(ip)
        if address:
            found.append(
                PortMapping(
                    protocol=request.protocol,
                    host_ip=ip,
                    host_port=0 if routed else host_port,
                    address=address,
                    port=request.port,
                    routed=routed,
                    direct=target.direct,
                )
            )
        elif len(request.host_ips) == 1:
            other = "IPv6" if ":" not in ip else "IPv4"
            why = " because the userland proxy is disabled" if ":" in ip and not target.proxy else ""
            port = f"{request.port}/{request.protocol}"
            raise InvalidArgumentError(f"cannot publish {port} at {ip}: the container has {other} only{why}")
    return found


def moved(mappings: Iterable[PortMapping], target: Target) -> list[PortMapping]:
    """The same ports of the host, leading to another target; without those that cannot."""
    found = []
    for each in mappings:
        address, routed = target.of(each.host_ip)
        if address and routed == each.routed:
            found.append(msgspec.structs.replace(each, address=address, direct=target.direct))
    return found


def parse_port(text: str) -> tuple[int, str]:
    """A container port ("80/tcp", "80") as number and protocol. Raises InvalidArgumentError."""
    number, _, protocol = text.partition("/")
    protocol = (protocol or "tcp").lower()
    if not number.isascii() or not number.isdigit() or not 0 < int(number) < 65536:
        raise InvalidArgumentError(f"invalid port specification: {text!r}")
    if protocol not in PROTOCOLS:
        raise InvalidArgumentError(f"invalid port specification: {text!r}: unknown protocol {protocol!r}")
    return int(number), protocol


def plan(
    bindings: Mapping[str, list[PortBinding] | None],
    exposed: Collection[str],
    *,
    publish_all: bool,
    default_ips: tuple[str, ...],
) -> list[PortRequest]:
    """What has to be published, fixed host ports first so that ranges and "any port" do not take them.

    `default_ips` stand for a binding without an address. Raises InvalidArgumentError naming the port.
    """
    requests = []
    for text, wanted in bindings.items():
        port, protocol = parse_port(text)
        for binding in wanted or []:
            first, last = _host_range(text, binding.host_port)
            requests.append(
                PortRequest(protocol, port, _host_ips(text, binding.host_ip, default_ips), first, last)
            )
    if publish_all:
        bound = {parse_port(text) for text, wanted in bindings.items() if wanted}
        for port, protocol in sorted({parse_port(text) for text in exposed} - bound):
            requests.append(PortRequest(protocol, port, default_ips, 0, 0))
    return sorted(requests, key=lambda request: (request.first == 0, request.last - request.first, request.port))


def inspect(exposed: Iterable[str], mappings: Iterable[PortMapping]) -> dict[str, list[PortBinding] | None]:
    """NetworkSettings.Ports: each exposed or published port with its bindings, None where there are none."""
    found: dict[str, list[PortBinding] | None] = {}
    for text in exposed:
        port, protocol = parse_port(text)
        found[f"{port}/{protocol}"] = None
    for mapping in mappings:
        key = f"{mapping.port}/{mapping.protocol}"
        found[key] = [
            *(found.get(key) or []),
            PortBinding(host_ip=mapping.host_ip, host_port="" if mapping.routed else str(mapping.host_port)),
        ]
    return dict(sorted(found.items()))


def held(mappings: Iterable[PortMapping]) -> list[PortMapping]:
    """Those of the mappings for which a port of the host is taken."""
    return [mapping for mapping in mappings if not mapping.routed]


class PortTable:
    """Which host ports containers have. A wildcard address takes the port at all addresses of its family."""

    def __init__(self) -> None:
        self._taken: dict[tuple[str, int], set[str]] = {}
        self._last = 0

    def take(self, mappings: Iterable[PortMapping]) -> None:
        """Enter ports that a container has."""
        for mapping in held(mappings):
            self._taken.setdefault((mapping.protocol, mapping.host_port), set()).add(mapping.host_ip)

    def free(self, mappings: Iterable[PortMapping]) -> None:
        """Strike ports out again."""
        for mapping in held(mappings):
            key = (mapping.protocol, mapping.host_port)
            addresses = self._taken.get(key, set())
            addresses.discard(mapping.host_ip)
            if not addresses:
                self._taken.pop(key, None)

    def candidates(self, request: PortRequest, ephemeral: tuple[int, int]) -> Iterator[int]:
        """The host ports to try for a request, in turn.

        Raises InternalError, in Docker's words, for a fixed port that is taken.
        """
        if request.first and request.first == request.last:
            for ip in request.host_ips:
                if self._is_taken(request.protocol, request.first, ip):
                    raise InternalError(f"Bind for {ip}:{request.first} failed: port is already allocated")
            yield request.first
            return
        first, last = (request.first, request.last) if request.first else ephemeral
        count = last - first + 1
        # Any port: go on behind the last one given, so that one just freed is not given to somebody else at once.
        start = self._last + 1 if not request.first and first <= self._last < last else first
        for offset in range(count):
            port = first + (start - first + offset) % count
            if not any(self._is_taken(request.protocol, port, ip) for ip in request.host_ips):
                if not request.first:
                    self._last = port
                yield port

    def _is_taken(self, protocol: str, port: int, ip: str) -> bool:
        version = ip_address(ip).version
        same = [other for other in self._taken.get((protocol, port), ()) if ip_address(other).version == version]
        if ip_address(ip).is_unspecified:
            return bool(same)
        return any(other == ip or ip_address(other).is_unspecified for other in same)


def _host_range(port: str, text: str) -> tuple[int, int]:
    if not text:
        return 0, 0
    first, dash, last = text.partition("-")
    numbers = [int(part) for part in (first, last if dash else first) if part.isascii() and part.isdigit()]
    if len(numbers) != 2 or not 0 <= numbers[0] <= numbers[1] < 65536 or (dash and not numbers[0]):
        raise InvalidArgumentError(f"invalid host port {text!r} for port {port}")
    return numbers[0], numbers[1]


def _host_ips(port: str, text: str, default: tuple[str, ...]) -> tuple[str, ...]:
    if not text:
        return default
    try:
        return (str(ip_address(text.removeprefix("[").removesuffix("]"))),)
    except ValueError:
        raise InvalidArgumentError(f"invalid host ip {text!r} for port {port}") from None
