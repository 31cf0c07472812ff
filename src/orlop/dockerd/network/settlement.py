# SPDX-License-Identifier: Apache-2.0
"""What the start of the daemon makes of endpoints and namespaces that earlier runs left behind."""

import asyncio
import os

from orlop.dockerd.network import drivers, gateway, hostlinks, netns
from orlop.dockerd.network.steps import Steps
from orlop.dockerd.network.types import Endpoint

_PLUGIN_SECONDS = 10.0
"""How long plugins that do not answer may hold up the start."""


class Settlement:
    """To be called once the networks are there, and before the rules are."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    async def drop_dead_endpoints(self) -> None:
        """Keep the endpoints whose namespace exists; the rest is removed."""
        store, networks, thread, kernel = (
            self._steps.store,
            self._steps.networks,
            self._steps.thread,
            self._steps.kernel,
        )
        endpoints = store.endpoints()
        live = {each.id for each in endpoints if self._is_live(each)}
        pins = {each.netns for each in endpoints if each.id in live}
        until = asyncio.get_running_loop().time() + _PLUGIN_SECONDS
        for endpoint in endpoints:
            if endpoint.id in live:
                continue
            for pair in networks.pairs([endpoint]):
                if drivers.of(pair[0]).asks_plugin:
                    await thread.call(kernel.withdraw, pair)
                await self._steps.dismiss(*pair, until)
            # its ports are not entered yet, and orlop-netd is told later to free what no live endpoint has
            pinned = endpoint.netns in pins
            await thread.call(kernel.dismantle, endpoint, published=False, pinned=pinned)
            if endpoint.veth:
                await thread.call(hostlinks.delete, endpoint.veth)
            store.delete_endpoint(endpoint.id)
            if pinned:  # it was being attached or detached
                routes = gateway.routes(networks.pairs(self._steps.ready_endpoints(endpoint.container_id)))
                await thread.call(kernel.lead, routes)

    def drop_unknown_pins(self) -> None:
        """Let go of namespaces that no endpoint has."""
        pins = {os.path.basename(endpoint.netns) for endpoint in self._steps.store.endpoints()}
        for name in os.listdir(self._steps.directory):
            if name not in pins:
                netns.remove(os.path.join(self._steps.directory, name))

    def _is_live(self, endpoint: Endpoint) -> bool:
        known = endpoint.network_id in self._steps.networks
        return endpoint.ready and known and (not endpoint.netns or netns.is_pinned(endpoint.netns))
