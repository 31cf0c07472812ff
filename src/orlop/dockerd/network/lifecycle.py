# SPDX-License-Identifier: Apache-2.0
"""A container's network sandbox: made with all its networks when it starts, and taken away when it ends."""

import asyncio
import logging
import os
import secrets
from collections.abc import Sequence

from orlop.dockerd.network import describe, drivers, gateway, options, requests, sandbox_files, way_out
from orlop.dockerd.network.gateway import Pair
from orlop.dockerd.network.steps import Steps
from orlop.dockerd.network.types import Endpoint, NetworkConfig, Sandbox, SandboxRequest, addresses_of
from orlop.engine.types import EndpointSettings

_log = logging.getLogger(__name__)


class Lifecycle:
    """Sandboxes of containers. Calls about one container must not overlap."""

    def __init__(self, steps: Steps, config: NetworkConfig) -> None:
        self._steps = steps
        self._config = config
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Wait for names that are being told."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def connect(self, request: SandboxRequest) -> Sandbox:
        """Make a container's network sandbox, with all its networks; everything is undone on error.

        A sandbox that the container still has is released first. In mode "container:<id>" nothing is made:
        `resolv_conf` and `hosts` are empty, for the other container's files serve both. Raises NotFoundError (no
        such network), InvalidArgumentError (names the field), InternalError for ports in Docker's words.
        """
        if request.mode.startswith("container:"):
            return requests.joined(request)
        wanted = requests.wished(request, self._steps.networks)
        files = sandbox_files.compute(
            request, [network for network, _ in wanted], self._config, self._steps.networks.default_gateway()
        )
        await self.release(request.container_id)
        pairs: list[Pair] = []
        names = {options.endpoint(asked.driver_opts or {})[0] for _, asked in wanted if asked.driver_opts}
        try:
            sandbox_id = secrets.token_hex(32)
            for number, (network, asked) in enumerate(wanted):
                endpoint = await self._steps.allocate(
                    request, network, asked, sandbox_id, number, files, names=names
                )
                names.add(endpoint.interface)
                pairs.append((network, endpoint))
            if way_out.is_needed(pairs):
                leading = await self._steps.way_out.network()
                endpoint = await self._steps.allocate(
                    request, leading, EndpointSettings(), sandbox_id, len(pairs), files, names=names, way_out=True
                )
                pairs.append((leading, endpoint))
            await self._make(pairs, request)
            for _, endpoint in pairs:
                endpoint.ready = True
            self._steps.store.put_endpoints(endpoint for _, endpoint in pairs)
        except BaseException:
            await self._undo([endpoint for _, endpoint in pairs])
            raise
        return self._sandbox(pairs, [asked for _, asked in wanted] + [None] * (len(pairs) - len(wanted)), files)

    async def release(self, container_id: str) -> None:
        """Undo `connect`; no error if there is nothing (any more)."""
        await self._undo(self._steps.store.endpoints_of(container_id))

    def rename(self, container_id: str, name: str) -> None:
        """A container has another name now: networks show it, and DNS. No error if it has no sandbox."""
        for endpoint in self._steps.store.endpoints_of(container_id):
            if endpoint.names:
                others = [each for each in endpoint.names if each not in (name, endpoint.container_name)]
                endpoint.names = [name, *others]
                self._later(endpoint)
            endpoint.container_name = name
            self._steps.store.put_endpoint(endpoint)

    def sandbox(self, container_id: str) -> Sandbox | None:
        """The sandbox that a container has, as recorded; its hosts and resolv.conf are not: they are empty."""
        pairs = self._steps.networks.pairs(self._steps.ready_endpoints(container_id))
        return self._sandbox(pairs, [None] * len(pairs), sandbox_files.NO_FILES) if pairs else None

    async def _make(self, pairs: list[Pair], request: SandboxRequest) -> None:
        resolved = any(network.served for network, _ in pairs)
        for _, endpoint in pairs:
            endpoint.resolved = resolved
        default = gateway.choose(pairs)
        if default is not None:
            await self._steps.publish(default, request)
        await self._steps.open_links([network for network, _ in pairs])
        if pairs[0][1].netns:  # not in the host's, where there is nothing to be made
            await self._steps.in_kernel(pairs[0][1], self._steps.kernel.build, pairs, request.netns_origin)
        await self._steps.resolvers.serve([endpoint for _, endpoint in pairs])

    async def _undo(self, endpoints: Sequence[Endpoint]) -> None:
        """Take endpoints away; their records go last, so that a failure in between is settled later."""
        if not endpoints:
            return
        await self._steps.resolvers.withdraw(endpoints)
        for endpoint in endpoints:
            if endpoint.veth:
                self._steps.leaving.expect(endpoint.veth, addresses_of(endpoint))
        for pair in self._steps.networks.pairs(endpoints):
            if drivers.of(pair[0]).has_interfaces and not pair[1].veth:  # whose going nobody would notice
                await self._steps.thread.call(self._steps.kernel.withdraw, pair)
            await self._steps.dismiss(*pair)
        for endpoint in endpoints:
            if endpoint.netns or endpoint.ports:
                await self._steps.thread.call(self._steps.kernel.dismantle, endpoint)
        for endpoint in endpoints:
            await self._steps.publisher.withdraw(endpoint.container_id, endpoint.ports)
            self._steps.store.delete_endpoint(endpoint.id)
        await self._steps.open_links([network for network, _ in self._steps.networks.pairs(endpoints)])

    def _later(self, endpoint: Endpoint) -> None:
        task = asyncio.get_running_loop().create_task(self._steps.resolvers.enter(endpoint))
        self._tasks.add(task)
        task.add_done_callback(self._entered)

    def _entered(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a new name is not served: %s", error)

    # -- what a sandbox is

    def _sandbox(
        self, pairs: list[Pair], asked: Sequence[EndpointSettings | None], files: sandbox_files.Files
    ) -> Sandbox:
        first = pairs[0][1]
        addresses = [each for _, endpoint in pairs if endpoint.shown for each in addresses_of(endpoint)]
        return Sandbox(
            sandbox_id=first.sandbox_id,
            sandbox_key=first.netns or os.path.join(self._steps.directory, "default"),
            netns_path=first.netns or None,
            endpoints={
                network.name: describe.endpoint_settings(network, endpoint, wish)
                for (network, endpoint), wish in zip(pairs, asked, strict=True)
                if endpoint.shown
            },
            ports=self._steps.bindings(pairs),
            resolv_conf=files.resolv_conf,
            hosts=files.hosts(addresses),
        )
