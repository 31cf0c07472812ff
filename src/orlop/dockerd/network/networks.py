# SPDX-License-Identifier: Apache-2.0
"""The networks there are: made, found, removed, and put back into the kernel at the daemon's start."""

import asyncio
import contextlib
import datetime
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_network

from orlop.dockerd.network import configurations, creation, default_bridge, describe, drivers, hostlinks, ipam
from orlop.dockerd.network.drivers.base import unavailable
from orlop.dockerd.network.kernel import Kernel, KernelThread
from orlop.dockerd.network.plugins import NetworkPlugins
from orlop.dockerd.network.remote_ipam import RemoteIpam
from orlop.dockerd.network.removals import Removals
from orlop.dockerd.network.rules import Rules
from orlop.dockerd.network.store import NetworkStore
from orlop.dockerd.network.types import NO_ADDRESSES, Endpoint, Network, NetworkConfig
from orlop.engine.types import NetworkCreateRequest
from orlop.errdefs import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    OrlopError,
    PermissionDeniedError,
    UnavailableError,
)

_log = logging.getLogger(__name__)


class Networks:
    """Networks by reference. Only ready records count: what is not ready is removed at the next start."""

    def __init__(
        self,
        store: NetworkStore,
        thread: KernelThread,
        config: NetworkConfig,
        rules: Rules | None,
        plugins: NetworkPlugins,
    ) -> None:
        self._store = store
        self._thread = thread
        self._config = config
        self._rules = rules
        self._plugins = plugins
        self._pools = ipam.parse_pools(config.address_pools)
        self._networks: dict[str, Network] = {}
        self._coming: dict[str, Network] = {}
        self._going: dict[str, Network] = {}
        self._down: set[str] = set()
        self._removals = Removals()
        self._finishing: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()

    def __iter__(self) -> Iterator[Network]:
        return iter(list(self._networks.values()))

    def __contains__(self, network_id: str) -> bool:
        return network_id in self._networks

    def by_id(self, network_id: str) -> Network:
        """A network that there is."""
        return self._networks[network_id]

    def pairs(self, endpoints: Iterable[Endpoint]) -> list[tuple[Network, Endpoint]]:
        """Endpoints with their networks, without those whose network is gone."""
        return [
            (self._networks[endpoint.network_id], endpoint)
            for endpoint in endpoints
            if endpoint.network_id in self._networks
        ]

    def require_up(self, network: Network) -> None:
        """Raise UnavailableError for a network that could not be set up at the start."""
        if network.id in self._down:
            raise UnavailableError(f"network {network.name} is not set up: see the daemon's log")

    def ipam_plugin(self, network: Network) -> RemoteIpam | None:
        """The plugin that gives out a network's addresses; None if we do."""
        if network.ipam_driver in ("default", NO_ADDRESSES):
            return None
        return RemoteIpam(self._plugins, network.ipam_driver)

    def default_gateway(self) -> str:
        """The default bridge's own address; empty without one."""
        for network in self._networks.values():
            if network.name == "bridge":
                return network.gateway
        return ""

    def find(self, reference: str) -> Network:
        """By name, id or unambiguous beginning of an id. Raises NotFoundError, InvalidArgumentError."""
        for network in self._networks.values():
            if reference == network.id:
                return network
        for network in self._networks.values():
            if reference == network.name:
                return network
        matches = [
            network for network in self._networks.values() if reference and network.id.startswith(reference)
        ]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise InvalidArgumentError(f"network {reference} is ambiguous ({len(matches)} matches found on id)")
        raise NotFoundError(f"network {reference} not found")

    # -- the start

    async def start(self) -> None:
        """Docker's own networks and the users', with their bridges.

        Raises UnavailableError naming the step for the default bridge; a user's network that fails is logged.
        """
        recorded = self._store.networks()
        for network in recorded:
            if not network.ready:
                await self._thread.call(self._dismantle, network, recorded)
                self._finishing.add(asyncio.ensure_future(self._finish(network)))
        await self._start_predefined({network.name: network for network in recorded if network.predefined})
        for network in recorded:
            if network.ready and not network.predefined:
                self._networks[network.id] = network
                try:
                    await self._thread.call(self._set_up, network)
                except UnavailableError as error:  # its containers do without; the daemon does not
                    self._down.add(network.id)
                    _log.error("network %s: %s", network.name, error)

    async def tidy(self) -> None:
        """Attach the endpoints' interfaces that lost their bridge, delete those that nobody knows."""
        live = self._store.endpoints()
        for network in self:
            if network.id not in self._down:
                known = {endpoint.veth for endpoint in live if endpoint.network_id == network.id}
                await self._thread.call(drivers.of(network).tidy, network, known)

    async def _finish(self, network: Network) -> None:
        """Beside the start: a plugin that hangs does not hold it up, and is asked again at the next."""
        await self._retract(network)
        self._store.delete_network(network.id)

    async def close(self) -> None:
        """Wait for what is being removed, but for no plugin."""
        for task in self._finishing:
            task.cancel()
        await asyncio.gather(*self._finishing, return_exceptions=True)
        await self._removals.settled()

    async def _start_predefined(self, recorded: dict[str, Network]) -> None:
        names = {"bridge": "bridge", "host": "host", "none": "null"}
        if self._config.bridge == "none":  # the administrator wants no default bridge
            del names["bridge"]
        for name, driver in names.items():
            network = recorded.get(name) or Network(
                id=secrets.token_hex(32), name=name, driver=driver, created=_now()
            )
            if driver == "bridge":
                await self._start_default(network)
            self._store.put_network(network)
            self._networks[network.id] = network

    async def _start_default(self, network: Network) -> None:
        existing, taken = await self._thread.call(hostlinks.addresses, self._config.bridge, (4, 6))
        users = [other for other in self._store.networks() if other.ready and not other.predefined]
        taken += [ip_network(pool.subnet) for other in users for pool in other.pools]
        default_bridge.furnish(network, self._config, existing, taken, self._pools)
        await self._thread.call(self._set_up, network)

    # -- made and removed

    async def create(self, request: NetworkCreateRequest) -> Network:
        """Make a network; everything is undone on error.

        Raises AlreadyExistsError (name), UnavailableError (a step that the kernel refuses), and as `creation`.
        """
        request = configurations.applied(request, self)
        if not request.config_from and not request.config_only:
            defaults = self._config.default_options.get(request.driver or "bridge", {})
            request.options = {**defaults, **request.options}
        network = creation.plan(request, secrets.token_hex(32), _now(), self._plugins.exists)
        if any(other.name == network.name for other in self._others(network)):
            raise AlreadyExistsError(f"network with name {network.name} already exists")
        with _listed(self._coming, network):
            await self._settle(network)
            try:
                await drivers.of(network).announce(self._plugins, network)
                await self._thread.call(self._build, network)
                if self._rules is not None and (rules := drivers.of(network).rules(network)) is not None:
                    await self._rules.admit(rules)
                network.ready = True
                self._store.put_network(network)
            except BaseException:
                await asyncio.shield(self._take_away(network))
                raise
            self._networks[network.id] = network
        return network

    async def _settle(self, network: Network) -> None:
        """Give it its subnets, apart from those of all others, and write it down.

        The plugin that may choose them is not waited for under the lock: one that hangs holds up nobody else.
        """
        try:
            if (ipam_plugin := self.ipam_plugin(network)) is not None:
                await ipam_plugin.request_pools(network)
            async with self._changing:
                await self._removals.settled()
                _, taken = await self._thread.call(hostlinks.addresses, network.bridge, network.families)
                creation.settle(network, self._others(network), taken, self._pools)
                await self._thread.call(drivers.of(network).adopt, network, self._others(network))
        except BaseException:
            await asyncio.shield(self._release_pools(network))
            raise
        self._store.put_network(network)  # the intent: whatever happens now can be undone after a crash

    def _others(self, network: Network) -> list[Network]:
        """All networks but this one, also those that are being made or removed: they have names and subnets."""
        known = (*self, *self._coming.values(), *self._going.values())
        return [other for other in known if other.id != network.id]

    async def remove(self, reference: str, endpoints: Callable[[str], list[Endpoint]]) -> Network:
        """Remove a network that no container is in. Raises NotFoundError, PermissionDeniedError."""
        network = self.find(reference)
        if network.predefined:
            raise PermissionDeniedError(f"{network.name} is a pre-defined network and cannot be removed")
        if active := endpoints(network.id):
            names = ((describe.endpoint_name(each), each.id[:12]) for each in active)
            shown = ", ".join(f'name:"{name}" id:"{identity}"' for name, identity in names)
            raise PermissionDeniedError(
                f"error while removing network: network {network.name} has active endpoints ({shown})"
            )
        configurations.check_unused(network, self._others(network))
        network.ready = False
        self._store.put_network(network)
        del self._networks[network.id]  # from now on nobody can enter it
        with _listed(self._going, network):
            await self._take_away(network)
        return network

    async def _take_away(self, network: Network) -> None:
        await self._thread.call(self._withdraw_rules, network)
        if self._rules is not None and (rules := drivers.of(network).rules(network)) is not None:
            await self._rules.dismiss(rules)
        await self._retract(network)
        self._down.discard(network.id)
        async with self._changing:  # nobody adopts an interface that is about to go
            staying = [other for other in self._others(network) if other.id not in self._going]
            names = drivers.of(network).take_down(network, staying)
            self._removals.begin(names, lambda: self._store.delete_network(network.id))

    async def _retract(self, network: Network) -> None:
        try:
            await drivers.of(network).retract(self._plugins, network)
        except OrlopError as error:  # the network goes all the same
            _log.warning("network %s: %s", network.name, error)
        await self._release_pools(network)

    async def _release_pools(self, network: Network) -> None:
        try:
            if (ipam_plugin := self.ipam_plugin(network)) is not None:
                await ipam_plugin.release_pools(network)
        except OrlopError as error:
            _log.warning("network %s: %s", network.name, error)

    # -- in the kernel's thread

    def _build(self, kernel: Kernel, network: Network) -> None:
        self._set_up(kernel, network)
        rules = drivers.of(network).rules(network)
        if self._rules is not None and rules is not None:
            self._rules.add_bridge(kernel, rules)

    def _set_up(self, kernel: Kernel, network: Network) -> None:
        try:
            drivers.of(network).set_up(kernel, network, self._config)
        except OSError as error:
            raise unavailable(network, error) from None

    def _withdraw_rules(self, kernel: Kernel, network: Network) -> None:
        drivers.of(network).unset(kernel, network)
        rules = drivers.of(network).rules(network)
        if self._rules is not None and rules is not None:
            self._rules.remove_bridge(kernel, rules)

    def _dismantle(self, kernel: Kernel, network: Network, others: list[Network]) -> None:
        self._withdraw_rules(kernel, network)
        for name in drivers.of(network).take_down(network, [each for each in others if each.ready]):
            hostlinks.delete(kernel, name)


@contextlib.contextmanager
def _listed(place: dict[str, Network], network: Network) -> Iterator[None]:
    """It is being made or removed: nobody finds it, and nobody takes its place."""
    place[network.id] = network
    try:
        yield
    finally:
        del place[network.id]


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
