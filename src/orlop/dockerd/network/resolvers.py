# SPDX-License-Identifier: Apache-2.0
"""Keeps orlop-netd told of who is called what, and which containers it shall serve DNS in."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence

from orlop.dockerd.network.firewall import RESOLVER_PORT
from orlop.dockerd.network.gateway import in_order, leads_outside
from orlop.dockerd.network.networks import Networks
from orlop.dockerd.network.types import Endpoint, addresses_of
from orlop.errdefs import InternalError
from orlop.netd.client import NetdClient
from orlop.netd.names import Entry, Member, Upstream, View

_log = logging.getLogger(__name__)


class Resolvers:
    """DNS for the containers in users' networks. orlop-netd is the one that answers, also without us."""

    def __init__(self, netd: NetdClient, networks: Networks, live: Callable[[], Sequence[Endpoint]]) -> None:
        """`live` gives the endpoints of all containers."""
        self._netd = netd
        self._networks = networks
        self._live = live

    async def start(self) -> None:
        """Settle with orlop-netd if it runs or is needed. Raises UnavailableError."""
        live = self._live()
        if any(endpoint.resolved for endpoint in live) or os.path.exists(self._netd.socket_path):
            owners, endpoints = await self._netd.resolving()
            containers = {endpoint.container_id for endpoint in live}
            known = {endpoint.id for endpoint in live}
            await _all(self._netd.unresolve(owner) for owner in owners if owner not in containers)
            await _all(self._netd.forget(endpoint) for endpoint in endpoints if endpoint not in known)
            await self.serve_live()

    async def serve_live(self) -> None:
        """Tell orlop-netd everything: it has just started."""
        containers: dict[str, list[Endpoint]] = {}
        for endpoint in self._live():
            containers.setdefault(endpoint.container_id, []).append(endpoint)
        for endpoints in containers.values():
            try:
                await self.serve(endpoints)
            except InternalError as error:  # the others shall have theirs
                _log.error("container %s has no DNS: %s", endpoints[0].container_name, error)

    async def serve(self, endpoints: Sequence[Endpoint]) -> None:
        """One container's endpoints, all of them: enter their names, and serve it what it may see."""
        if not any(endpoint.resolved for endpoint in endpoints):
            return
        first = endpoints[0]
        await _all(
            [
                *(self.enter(endpoint) for endpoint in endpoints),
                self._netd.resolve(first.container_id, first.netns, RESOLVER_PORT, self._view(endpoints)),
            ]
        )

    async def enter(self, endpoint: Endpoint) -> None:
        """An endpoint's names, as they are now."""
        if endpoint.names:
            entry = Entry(endpoint.network_id, tuple(endpoint.names), tuple(addresses_of(endpoint)))
            await self._netd.name(endpoint.id, entry)

    async def leave(self, endpoint: Endpoint, others: Sequence[Endpoint]) -> None:
        """A container keeps `others` of its endpoints, and a server that asks others for what it does not know."""
        if endpoint.names:
            await self._netd.forget(endpoint.id)
        await self.serve(others)

    async def withdraw(self, endpoints: Iterable[Endpoint]) -> None:
        """A container leaves all its networks. Its server keeps the namespace alive until then."""
        resolved = [endpoint for endpoint in endpoints if endpoint.resolved]
        if resolved:
            forgotten = [self._netd.forget(endpoint.id) for endpoint in resolved if endpoint.names]
            await _all([self._netd.unresolve(resolved[0].container_id), *forgotten])

    def _view(self, endpoints: Sequence[Endpoint]) -> View:
        dns = endpoints[0].dns
        pairs = in_order(self._networks.pairs(endpoints))
        return View(
            networks=tuple(
                Member(network.id, network.name, dict(each.aliases))
                for network, each in pairs
                if network.served and each.shown
            ),
            upstreams=(
                *(Upstream(address) for address in dns.upstreams),
                *(Upstream(address, from_host=True) for address in dns.host_upstreams),
            ),
            forward=any(leads_outside(*pair) for pair in pairs),
            qualified=dns.qualified,
        )


async def _all(requests: Iterable[Awaitable[None]]) -> None:
    """Requests on one connection: sent at once, answered in order."""
    await asyncio.gather(*requests)
