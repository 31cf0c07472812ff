# SPDX-License-Identifier: Apache-2.0
"""Published ports of a running container that come and go."""

import asyncio
from collections.abc import Mapping

from orlop.dockerd.network import drivers, gateway, ports
from orlop.dockerd.network.gateway import Pair
from orlop.dockerd.network.steps import Steps
from orlop.dockerd.network.types import PortMapping, SandboxRequest
from orlop.engine.types import PortBinding
from orlop.errdefs import ConflictError, NotFoundError

Bindings = Mapping[str, list[PortBinding] | None]


class Publishing:
    """The change. Calls about one container must not overlap."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    async def change(self, request: SandboxRequest, removed: Bindings) -> dict[str, list[PortBinding] | None]:
        """Take ports away, then publish those of the request; NetworkSettings.Ports as it is then.

        A port in `removed` loses the bindings listed, or all of them where none is. On error everything is as it
        was. Raises NotFoundError (not published), ConflictError (no network to publish in), InternalError in
        Docker's words.
        """
        pairs = self._steps.networks.pairs(self._steps.ready_endpoints(request.container_id))
        leading = gateway.choose(pairs)
        if leading is None or not drivers.of(leading[0]).publishes:
            raise ConflictError(f"container {request.container_id} is in no network that ports are published in")
        going = _matching(leading[1].ports, removed)
        await self._take(leading, going)
        try:
            await self._add(leading, request)
        except BaseException:
            await asyncio.shield(self._restore(leading, going))
            raise
        return self._steps.bindings(pairs)

    async def _take(self, pair: Pair, going: list[PortMapping]) -> None:
        if not going:
            return
        endpoint = pair[1]
        endpoint.ports = [port for port in endpoint.ports if port not in going]
        self._steps.store.put_endpoint(endpoint)
        await self._steps.in_kernel(endpoint, self._steps.kernel.redirect, going, [])
        await self._steps.publisher.retract(endpoint.container_id, going)

    async def _add(self, pair: Pair, request: SandboxRequest) -> None:
        endpoint = pair[1]
        before = endpoint.ports
        endpoint.ports = []
        try:
            await self._steps.publish(pair, request)
        finally:
            added, endpoint.ports = endpoint.ports, before
        if not added:
            return
        try:
            await self._steps.in_kernel(endpoint, self._steps.kernel.redirect, [], added)
        except BaseException:
            await self._steps.publisher.retract(endpoint.container_id, added)
            raise
        endpoint.ports = [*before, *added]
        self._steps.store.put_endpoint(endpoint)

    async def _restore(self, pair: Pair, gone: list[PortMapping]) -> None:
        if gone:
            endpoint = pair[1]
            await self._steps.publisher.resume(endpoint.container_id, gone)
            await self._steps.in_kernel(endpoint, self._steps.kernel.redirect, [], gone)
            endpoint.ports = [*endpoint.ports, *gone]
            self._steps.store.put_endpoint(endpoint)


def _matching(published: list[PortMapping], removed: Bindings) -> list[PortMapping]:
    """What a removal means. Raises NotFoundError for what is not published."""
    going: list[PortMapping] = []
    for text, wanted in removed.items():
        port, protocol = ports.parse_port(text)
        mine = [each for each in published if (each.port, each.protocol) == (port, protocol)]
        for binding in wanted or [PortBinding()]:
            found = [
                each
                for each in mine
                if binding.host_port in ("", str(each.host_port)) and binding.host_ip in ("", each.host_ip)
            ]
            if not found:
                where = f" at {binding.host_ip or '*'}:{binding.host_port or '*'}" if wanted else ""
                raise NotFoundError(f"port {port}/{protocol} is not published{where}")
            going += found
    return going
