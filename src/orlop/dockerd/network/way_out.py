# SPDX-License-Identifier: Apache-2.0
"""The way out of containers whose network plugins name no gateway: an endpoint in a bridge network of ours.

Docker calls that network docker_gwbridge, and the endpoint "gateway_" with the beginning of the sandbox's id. It
is made when it is first needed, and kept. The bridge itself is named as every network's, for a dockerd on this
host may have one of that name.
"""

import asyncio
from collections.abc import Sequence

from orlop.dockerd.network import drivers, options
from orlop.dockerd.network.gateway import Pair
from orlop.dockerd.network.networks import Networks
from orlop.dockerd.network.types import Network
from orlop.engine.types import NetworkCreateRequest
from orlop.errdefs import NotFoundError

NAME = "docker_gwbridge"


class WayOut:
    """Makes the network, and says who needs it."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._making = asyncio.Lock()

    async def network(self) -> Network:
        """The network, which keeps its containers apart. Raises as `Networks.create`."""
        async with self._making:
            try:
                return self._networks.find(NAME)
            except NotFoundError:
                request = NetworkCreateRequest(
                    name=NAME, driver="bridge", options={options.ICC: "false", options.MASQUERADE: "true"}
                )
                return await self._networks.create(request)


def is_needed(pairs: Sequence[Pair]) -> bool:
    """Whether a container with these endpoints has a plugin's network that may lead outside, and no way there."""
    others = [pair for pair in pairs if not pair[1].way_out]
    if any(drivers.of(network).default_routes(network, endpoint) for network, endpoint in others):
        return False
    return any(drivers.of(network).wants_way_out(network, endpoint) for network, endpoint in others)


def present(pairs: Sequence[Pair]) -> Pair | None:
    """The endpoint that a container has for this."""
    return next((pair for pair in pairs if pair[1].way_out), None)
