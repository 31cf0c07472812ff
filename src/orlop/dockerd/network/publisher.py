# SPDX-License-Identifier: Apache-2.0
"""Gives out host ports: chooses them, has orlop-netd hold them, and keeps them held when orlop-netd restarts."""

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Iterable

from orlop.dockerd.network import ports
from orlop.dockerd.network.ports import DEFAULT_EPHEMERAL, PortRequest, PortTable, Target, held
from orlop.dockerd.network.types import Endpoint, NetworkConfig, PortMapping
from orlop.errdefs import InternalError, ResourceExhaustedError, UnavailableError
from orlop.netd.client import NetdClient, PortUnavailableError
from orlop.netd.protocol import HeldPort

_log = logging.getLogger(__name__)
_MAX_TRIES = 1000
_AT_ONCE = 100


class Publisher:
    """Published ports of all containers."""

    def __init__(self, netd: NetdClient, config: NetworkConfig, live: Callable[[], Iterable[Endpoint]]) -> None:
        """`live` gives the endpoints whose ports are to be held."""
        self._netd = netd
        self._config = config
        self._live = live
        self._table = PortTable()

    async def start(self) -> None:
        """Enter what live endpoints have, and settle with orlop-netd if it runs or is needed."""
        live = [endpoint for endpoint in self._live() if endpoint.ports]
        for endpoint in live:
            self._table.take(endpoint.ports)
        if live or os.path.exists(self._netd.socket_path):
            known: dict[str, set[HeldPort]] = {}
            for endpoint in live:
                known.setdefault(endpoint.container_id, set()).update(map(self._held, held(endpoint.ports)))
            for owner, ports_ in (await self._netd.held()).items():
                if owner not in known:
                    await self._netd.release(owner)
                elif extra := [port for port in ports_ if port not in known[owner]]:
                    await self._netd.release(owner, extra)
            await self.hold_live()

    async def hold_live(self) -> None:
        """Have orlop-netd hold the ports of the live endpoints; one that is somebody else's by now is logged."""
        for endpoint in self._live():
            wanted = [self._held(port) for port in held(endpoint.ports)]
            for start in range(0, len(wanted), _AT_ONCE):
                some = wanted[start : start + _AT_ONCE]
                try:
                    await self._netd.hold(endpoint.container_id, some)
                except PortUnavailableError:  # then it holds none of them
                    await self._hold_each(endpoint, some)

    async def _hold_each(self, endpoint: Endpoint, wanted: Iterable[HeldPort]) -> None:
        for port in wanted:
            try:
                await self._netd.hold(endpoint.container_id, [port])
            except PortUnavailableError as error:
                _log.error("port of container %s is lost: %s", endpoint.container_name, error)

    async def publish(self, owner: str, target: Target, requests: Iterable[PortRequest]) -> list[PortMapping]:
        """Get a host port for each request, held; none of them on error.

        Raises InternalError in Docker's words ("Bind for …: port is already allocated", "failed to bind host port
        …: address already in use"), ResourceExhaustedError if every port of a range is taken.
        """
        taken: list[PortMapping] = []
        try:
            for request in requests:
                taken += await self._publish_one(owner, target, request)
        except BaseException:
            with contextlib.suppress(UnavailableError):  # it is dead: then it holds nothing
                await self.retract(owner, taken)
            raise
        return taken

    async def retract(self, owner: str, mappings: Iterable[PortMapping]) -> None:
        """Free some of an owner's ports; the others are not touched."""
        known = held(mappings)
        self._table.free(known)
        if known:
            await self._netd.release(owner, [self._held(mapping) for mapping in known])

    async def resume(self, owner: str, mappings: Iterable[PortMapping]) -> None:
        """Take up ports that have just been retracted. Raises PortUnavailableError: somebody else was faster."""
        known = held(mappings)
        self._table.take(known)
        await self._netd.hold(owner, [self._held(mapping) for mapping in known])

    async def withdraw(self, owner: str, mappings: Iterable[PortMapping]) -> None:
        """Free ports; no error for those that are free."""
        known = list(mappings)
        if held(known):
            await self._netd.release(owner)
            self._table.free(known)

    async def move(self, owner: str, mappings: Iterable[PortMapping]) -> None:
        """Lead an owner's ports, all of them and the same ones as before, to another address."""
        await self._netd.release(owner)
        await self._netd.hold(owner, [self._held(mapping) for mapping in held(mappings)])

    async def _publish_one(self, owner: str, target: Target, request: PortRequest) -> list[PortMapping]:
        planned = ports.mappings(request, target, request.first)
        if not held(planned):  # no port of the host is needed
            return planned
        request = request._replace(host_ips=tuple(mapping.host_ip for mapping in held(planned)))
        return [*await self._hold(owner, target, request), *(each for each in planned if each.routed)]

    async def _hold(self, owner: str, target: Target, request: PortRequest) -> list[PortMapping]:
        tried = 0
        for host_port in self._table.candidates(request, ephemeral_range()):
            mappings = ports.mappings(request, target, host_port)
            self._table.take(mappings)  # before the first await: nobody else may choose the same
            try:
                await self._netd.hold(owner, [self._held(mapping) for mapping in mappings])
            except PortUnavailableError as error:
                self._table.free(mappings)
                tried += 1
                if error.errno != errno.EADDRINUSE or request.first == request.last != 0 or tried == _MAX_TRIES:
                    raise InternalError(f"failed to bind host port {error}") from None
            except BaseException:
                # The request may have been sent when somebody lost patience with us.
                with contextlib.suppress(UnavailableError):
                    await self.retract(owner, mappings)
                raise
            else:
                return mappings
        raise ResourceExhaustedError("all ports are allocated")

    def _held(self, mapping: PortMapping) -> HeldPort:
        return HeldPort(
            protocol=mapping.protocol,
            host_ip=mapping.host_ip,
            host_port=mapping.host_port,
            address=mapping.address,
            port=mapping.port,
            proxy=self._config.userland_proxy,
        )


def ephemeral_range() -> tuple[int, int]:
    """The kernel's range of ports for "any port", which is what Docker uses too."""
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
            first, last = file.read().split()
    except FileNotFoundError:
        return DEFAULT_EPHEMERAL
    return int(first), int(last)
