# SPDX-License-Identifier: Apache-2.0
"""A running container enters one more network, or leaves one."""

import asyncio
import secrets

from orlop.dockerd.network import (
    allocation,
    describe,
    drivers,
    gateway,
    netns,
    options,
    requests,
    sandbox_files,
    way_out,
)
from orlop.dockerd.network.gateway import Pair
from orlop.dockerd.network.steps import Steps
from orlop.dockerd.network.types import Attached, Detached, Endpoint, NetworkConfig, SandboxRequest, addresses_of
from orlop.engine.types import EndpointSettings
from orlop.errdefs import FailedPreconditionError, InternalError, InvalidArgumentError, PermissionDeniedError


class Membership:
    """The two changes. Calls about one container must not overlap."""

    def __init__(self, steps: Steps, config: NetworkConfig) -> None:
        self._steps = steps
        self._config = config

    async def attach(self, request: SandboxRequest, reference: str, settings: EndpointSettings) -> Attached:
        """Put a running container into one more network; everything is undone on error.

        Raises NotFoundError, InvalidArgumentError, PermissionDeniedError (it is in it) in Docker's words.
        """
        network = self._steps.networks.find(reference)
        asked = requests.check(settings, network, "")
        mine = self._steps.networks.pairs(self._steps.ready_endpoints(request.container_id))
        requests.check_together([*(other for other, each in mine if not each.placeholder), network])
        if not drivers.of(network).has_interfaces and mine and mine[0][1].placeholder:
            mine[0][1].placeholder = False
            self._steps.store.put_endpoint(mine[0][1])
            shown = describe.endpoint_settings(network, mine[0][1], asked)
            return Attached(name=network.name, settings=shown, ports={})
        if any(other.id == network.id for other, _ in mine):
            raise PermissionDeniedError(
                f"endpoint with name {request.name} already exists in network {network.name}"
            )
        if not mine:
            raise FailedPreconditionError(f"container {request.container_id} has no network sandbox")
        files = sandbox_files.compute(request, [network], self._config, self._steps.networks.default_gateway())
        first = mine[0][1]
        endpoint = await self._steps.allocate(
            request, network, asked, first.sandbox_id, 0, files, netns_path=first.netns
        )
        added = (network, endpoint)
        try:
            await self._steps.open_links([network])
            await self._plug(mine, added, options.endpoint(asked.driver_opts or {})[0])
            await self._settle_ports(mine, [*mine, added], request)
            now = [*mine, added]
            if not way_out.is_needed(now):
                now = await self._drop_way_out(now, request)
            elif way_out.present(now) is None:
                now = await self._add_way_out(now, request, files)
            await self._steps.resolvers.serve([each for _, each in now])
        except BaseException:
            await asyncio.shield(self._undo(added, mine))
            raise
        newly_resolved = endpoint.resolved and not first.resolved
        if newly_resolved:
            others = [each for _, each in now if each is not endpoint]
            for each in others:
                each.resolved, each.dns = True, endpoint.dns
            self._steps.store.put_endpoints(others)
        return Attached(
            name=network.name,
            settings=describe.endpoint_settings(network, endpoint, asked),
            ports=self._steps.bindings(now),
            resolv_conf=files.resolv_conf if newly_resolved else "",
            hosts_lines=sandbox_files.hosts_lines(request, addresses_of(endpoint)),
        )

    async def detach(self, container_id: str, reference: str) -> Detached:
        """Take a running container out of a network; its namespace stays. Raises NotFoundError, InternalError."""
        network = self._steps.networks.find(reference)
        pairs = self._steps.networks.pairs(self._steps.ready_endpoints(container_id))
        leaving = next((pair for pair in pairs if pair[0].id == network.id and not pair[1].placeholder), None)
        if leaving is None:
            raise InternalError(f"container {container_id} is not connected to network {network.name}")
        if leaving[1].netns == "":
            raise InvalidArgumentError(
                "cannot disconnect container from host network - container was created in host network mode"
            )
        if not drivers.of(network).has_interfaces:  # no interface, no names: only what is shown changes
            leaving[1].placeholder = True
            self._steps.store.put_endpoint(leaving[1])
            return Detached(name=network.name, network_id=network.id, addresses=[], ports={})
        others = [pair for pair in pairs if pair is not leaving]
        request = SandboxRequest(
            container_id=container_id, name=leaving[1].container_name, exposed_ports=leaving[1].exposed
        )
        if way_out.is_needed(others) and way_out.present(others) is None:  # before, for the published ports' sake
            files = sandbox_files.NO_FILES._replace(dns=leaving[1].dns)
            pairs = await self._add_way_out(pairs, request, files)
            others = [pair for pair in pairs if pair is not leaving]
        if not any(not each.way_out for _, each in others):
            others.insert(0, self._place_holder(leaving[1]))
        await self._settle_ports(pairs, others, None)
        await self._unplug(leaving, others)
        if not way_out.is_needed(others):
            others = await self._drop_way_out(others, request)
        return Detached(
            name=network.name,
            network_id=network.id,
            addresses=addresses_of(leaving[1]),
            ports=self._steps.bindings(others),
        )

    async def _plug(self, mine: list[Pair], added: Pair, wished_name: str) -> None:
        network, endpoint = added
        resolved = mine[0][1].resolved
        endpoint.resolved = resolved or network.served
        if not wished_name:
            prefix = drivers.of(network).interface_prefix(network)
            taken = await self._steps.thread.call(lambda _: netns.names(endpoint.netns))
            endpoint.interface = allocation.free_name(prefix, 0, taken)
        await self._steps.in_kernel(
            endpoint,
            self._steps.kernel.plug,
            added,
            gateway.routes([*mine, added]),
            resolver=endpoint.resolved and not resolved,
        )
        endpoint.ready = True
        self._steps.store.put_endpoint(endpoint)

    async def _add_way_out(
        self, pairs: list[Pair], request: SandboxRequest, files: sandbox_files.Files
    ) -> list[Pair]:
        """All the endpoints, with one more that is only there for its default route."""
        first = pairs[0][1]
        network = await self._steps.way_out.network()
        endpoint = await self._steps.allocate(
            request, network, EndpointSettings(), first.sandbox_id, 0, files, netns_path=first.netns, way_out=True
        )
        added = (network, endpoint)
        try:
            await self._plug(pairs, added, "")
            await self._settle_ports(pairs, [*pairs, added], request)
        except BaseException:
            await asyncio.shield(self._undo(added, pairs))
            raise
        return [*pairs, added]

    async def _drop_way_out(self, pairs: list[Pair], request: SandboxRequest) -> list[Pair]:
        """All the endpoints, but for one that is only there for its default route."""
        there = way_out.present(pairs)
        if there is None:
            return pairs
        others = [pair for pair in pairs if pair is not there]
        await self._settle_ports(pairs, others, request)
        await self._unplug(there, others)
        return others

    async def _undo(self, added: Pair, mine: list[Pair]) -> None:
        if added[1].ports:
            await self._settle_ports([*mine, added], mine, None)
        await self._unplug(added, mine)

    async def _unplug(self, leaving: Pair, others: list[Pair]) -> None:
        endpoint = leaving[1]
        endpoint.ready = False
        self._steps.store.put_endpoint(endpoint)  # the intent
        await self._steps.resolvers.leave(endpoint, [each for _, each in others])
        if drivers.of(leaving[0]).has_interfaces:
            gone = {route.family for pair, route in gateway.routes([*others, leaving]) if pair is leaving}
            routes = [each for each in gateway.routes(others) if each[1].family in gone]
            if endpoint.veth:
                self._steps.leaving.expect(endpoint.veth, addresses_of(endpoint))
            await self._steps.in_kernel(endpoint, self._steps.kernel.unplug, leaving, routes)
            await self._steps.dismiss(*leaving)
        self._steps.store.delete_endpoint(endpoint.id)
        await self._steps.open_links([leaving[0]])

    async def _settle_ports(self, before: list[Pair], after: list[Pair], request: SandboxRequest | None) -> None:
        """Published ports follow the default route, at the same ports of the host."""
        old, new = gateway.choose(before), gateway.choose(after)
        if new is old:
            return
        ports_ = old[1].ports if old else []
        if new is None:
            if old is not None and ports_:
                old[1].ports = []
                self._steps.store.put_endpoint(old[1])
                await self._steps.in_kernel(old[1], self._steps.kernel.redirect, ports_, [])
                await self._steps.publisher.withdraw(old[1].container_id, ports_)
            return
        endpoint = new[1]
        if old is None:
            if request is not None:
                await self._steps.publish(new, request)
        elif ports_:
            endpoint.ports = self._steps.moved(ports_, new)
            old[1].ports = []
            self._steps.store.put_endpoints([old[1], endpoint])
            await self._steps.publisher.move(endpoint.container_id, endpoint.ports)
        await self._steps.in_kernel(endpoint, self._steps.kernel.redirect, ports_, endpoint.ports)
        self._steps.store.put_endpoint(endpoint)

    def _place_holder(self, endpoint: Endpoint) -> Pair:
        """What keeps a namespace whose container is in no network."""
        network = self._steps.networks.find("none")
        holder = Endpoint(
            id=secrets.token_hex(32),
            network_id=network.id,
            container_id=endpoint.container_id,
            container_name=endpoint.container_name,
            sandbox_id=endpoint.sandbox_id,
            netns=endpoint.netns,
            exposed=endpoint.exposed,
            dns=endpoint.dns,
            resolved=endpoint.resolved,
            ready=True,
            placeholder=True,
        )
        self._steps.store.put_endpoint(holder)
        return network, holder
