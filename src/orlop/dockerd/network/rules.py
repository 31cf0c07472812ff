# SPDX-License-Identifier: Apache-2.0
"""Keeps the firewall rules in the kernel: installs them, and puts them back when somebody takes them away.

`nft flush ruleset`, a reload of firewalld or a late start of another container engine would otherwise leave
containers without isolation until the next restart (CVE-2025-54388, CVE-2025-54410).
"""

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Iterable, Sequence

from orlop.dockerd import timestamps
from orlop.dockerd.network import foreign, linked, source_guard
from orlop.dockerd.network.explanations import explain
from orlop.dockerd.network.firewall import BridgeRules, Firewall
from orlop.dockerd.network.kernel import Kernel, KernelThread
from orlop.dockerd.network.linked import Links
from orlop.dockerd.network.netlink import Packet, attributes, messages
from orlop.dockerd.network.netns import set_sysctl
from orlop.dockerd.network.passage import Passage
from orlop.dockerd.network.source_guard import Source
from orlop.dockerd.network.types import PortMapping
from orlop.errdefs import InternalError, OrlopError
from orlop.unix.nftables import NftablesError

_log = logging.getLogger(__name__)

# linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
_NETLINK_NETFILTER = 12
_NFNLGRP_NFTABLES = 7
_NFT = 10 << 8  # NFNL_SUBSYS_NFTABLES
_NEWTABLE, _NEWCHAIN = 0, 3
_REMOVALS = (2, 5, 8, 11, 14)  # of a table, chain, rule, set, element
_GENMSG_SIZE = 4
_TABLE_NAME = 1
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_NEWS_BYTES = 1 << 26
"""Room for the news of our own changes (taken only when needed): each published port is one, all come at once."""
_DEBOUNCE_SECONDS = 0.2


class Rules:
    """Our table in the kernel, and the passage through the machine's other firewalls.

    What the rules have to cover belongs to the kernel's thread, so that putting them back and publishing a port do
    not get in each other's way.
    """

    def __init__(self, thread: KernelThread, plan: Firewall) -> None:
        self._thread = thread
        self._plan = plan
        self._passage = Passage(thread)
        self._bridges: list[BridgeRules] = []
        self._ports: set[PortMapping] = set()
        self._sources: dict[str, Source] = {}
        self._links = Links()
        self._events: socket.socket | None = None
        self._own_port = 0
        self._disturbed = False
        self._repaired_at = 0
        self._repair: asyncio.Task[None] | None = None

    async def start(
        self, bridges: list[BridgeRules], ports: Iterable[PortMapping], sources: Iterable[Source], links: Links
    ) -> None:
        """Install the rules for what there is, and watch them. Raises InternalError."""
        self._links = links
        self._bridges, self._ports = bridges, set(ports)
        self._sources = {source.port: source for source in sources}
        self._events = _news()
        await self._thread.call(self._install)
        self._own_port = _port_of_install(self._events, self._plan.table)
        asyncio.get_running_loop().add_reader(self._events, self._readable)
        await self._passage.through_firewalld(self._bridges)

    async def close(self) -> None:
        """Stop watching; the rules stay."""
        if self._events is not None:
            asyncio.get_running_loop().remove_reader(self._events)
            self._events.close()
            self._events = None
        if self._repair is not None:
            self._repair.cancel()
            await asyncio.gather(self._repair, return_exceptions=True)

    def add_bridge(self, kernel: Kernel, bridge: BridgeRules) -> None:
        """In the kernel's thread: cover one more bridge. Raises InternalError."""
        self._bridges.append(bridge)
        if bridge.six and sum(1 for each in self._bridges if each.six) == 1:
            self._install(kernel)  # the first one with IPv6
            return
        try:
            kernel.nft.run(self._plan.add_bridge(bridge))
        except NftablesError:
            self._install(kernel)  # as in publish
            return
        self._guard(kernel, [bridge])
        self._lead_loopback([bridge], on=True)
        self._passage.through_iptables(kernel, [bridge])

    def remove_bridge(self, kernel: Kernel, bridge: BridgeRules) -> None:
        """In the kernel's thread: a bridge is gone."""
        if bridge not in self._bridges:
            return
        self._bridges.remove(bridge)
        self._lead_loopback([bridge], on=False)
        try:
            kernel.nft.run(self._plan.remove_bridge(bridge))
            if bridge.six and 6 in self._plan.families and not any(each.six for each in self._bridges):
                kernel.nft.run(self._plan.remove(6))
            for guard in bridge.guards:
                kernel.nft.run(guard.remove)
        except NftablesError as error:
            # our table was taken away a moment ago, and comes back without this bridge
            _log.debug("rules of bridge %s: %s", bridge.name, error.strerror)
        self._passage.withdraw(kernel, bridge.name)

    async def admit(self, bridge: BridgeRules) -> None:
        """After `add_bridge`: have firewalld let a bridge's traffic pass, if there is one."""
        await self._passage.through_firewalld([bridge])

    async def dismiss(self, bridge: BridgeRules) -> None:
        """After `remove_bridge`: have firewalld forget it."""
        await self._passage.leave_firewalld(bridge.name)

    def publish(self, kernel: Kernel, ports: list[PortMapping]) -> None:
        """In the kernel's thread: redirect published ports. Raises NftablesError, InternalError."""
        commands = self._plan.publish(ports)
        if not commands:
            return
        self._ports.update(ports)
        try:
            kernel.nft.run(commands)
        except NftablesError:
            # Usually the table is gone and about to be put back: do it now. Any other reason fails here too.
            self._install(kernel)

    def unpublish(self, kernel: Kernel, ports: list[PortMapping]) -> None:
        """In the kernel's thread: stop redirecting."""
        self._ports.difference_update(ports)
        if commands := self._plan.unpublish(ports):
            try:
                kernel.nft.run(commands)
            except NftablesError as error:
                # the table was taken away a moment ago; it comes back without these
                _log.warning("cannot remove published ports: %s", error.strerror)

    def guard(self, kernel: Kernel, sources: Sequence[Source]) -> None:
        """In the kernel's thread: hold endpoints to their own addresses. Raises NftablesError."""
        first = not self._sources
        self._sources.update((source.port, source) for source in sources)
        table = self._plan.table
        try:
            if not first:
                kernel.nft.run("".join(source_guard.add(table, source) for source in sources))
                return
        except NftablesError:
            _log.debug("the table bridge %s is gone", table)  # and is made anew now
        kernel.nft.run(source_guard.install(table, self._sources.values()))

    def unguard(self, kernel: Kernel, port: str) -> None:
        """In the kernel's thread: an endpoint is gone, if it was guarded."""
        if self._sources.pop(port, None) is None:
            return
        table = self._plan.table
        try:
            kernel.nft.run(source_guard.withdraw(table, port) if self._sources else source_guard.remove(table))
        except NftablesError as error:
            _log.debug("source guard of %s: %s", port, error.strerror)  # as in remove_bridge

    def link(self, kernel: Kernel, links: Links) -> None:
        """In the kernel's thread: these links there are now. Raises InternalError."""
        if links == self._links:
            return
        self._links = links
        try:
            kernel.nft.run(self._plan.link(links.openings, six=any(bridge.six for bridge in self._bridges)))
            self._link(kernel)
        except NftablesError:
            self._install(kernel)  # as in publish

    def backend(self) -> tuple[str, int]:
        """What packets are filtered by, and when rules were last put back after a reload of firewalld (else 0)."""
        if self._passage.has_firewalld:
            return "nftables+firewalld", self._repaired_at
        return "nftables", 0

    def _readable(self) -> None:
        assert self._events is not None
        try:
            data = self._events.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self._schedule()  # some news were lost: look
            return
        for packet in messages(data):
            if packet.port != self._own_port and _is_harmful(packet) and self._concerns_us(_table(packet)):
                if _table(packet) == self._plan.table:
                    self._lead_loopback(self._bridges, on=False)
                self._schedule()

    def _concerns_us(self, table: str) -> bool:
        own = {self._plan.table, *(guard.table for bridge in self._bridges for guard in bridge.guards)}
        own |= {self._plan.links_table} if self._links.bridge_ports else set()
        return table in own or table in foreign.TABLES

    def _schedule(self) -> None:
        self._disturbed = True
        if self._repair is None or self._repair.done():
            self._repair = asyncio.get_running_loop().create_task(self._put_back())

    async def _put_back(self) -> None:
        while self._disturbed:
            await asyncio.sleep(_DEBOUNCE_SECONDS)  # a reload is many transactions: wait for its end
            self._disturbed = False
            _log.info("the firewall was changed from outside: installing the rules again")
            try:
                await self._thread.call(self._install)
            except OrlopError as error:
                _log.error("%s", error)
            await self._passage.through_firewalld(list(self._bridges))
            self._repaired_at = timestamps.now()

    def _install(self, kernel: Kernel) -> None:
        """In the kernel's thread: our table, and passage through iptables' FORWARD chain if there is one."""
        try:
            ports = sorted(self._ports, key=_order)
            kernel.nft.run(self._plan.install(self._bridges, ports, self._links.openings))
            self._link(kernel)
        except OSError as error:
            raise InternalError(f"cannot install the firewall rules: {explain(error)}") from None
        self._offer_user_chain(kernel)
        self._guard(kernel, self._bridges)
        self._guard_sources(kernel)
        self._lead_loopback(self._bridges, on=True)
        self._passage.through_iptables(kernel, self._bridges)

    def _link(self, kernel: Kernel) -> None:
        table = self._plan.links_table
        if self._links.bridge_ports:
            kernel.nft.run(linked.install(table, self._links))
            return
        with contextlib.suppress(NftablesError):  # there is none
            kernel.nft.run(linked.remove(table))

    def _guard_sources(self, kernel: Kernel) -> None:
        table, sources = self._plan.table, self._sources.values()
        try:
            kernel.nft.run(source_guard.install(table, sources) if sources else source_guard.remove(table))
        except NftablesError as error:
            if sources:  # else there is nothing to take away
                _log.error("cannot hold containers to their own addresses: %s", error.strerror)

    def _offer_user_chain(self, kernel: Kernel) -> None:
        try:
            kernel.nft.run(f"list table inet {self._plan.user_table}")
        except NftablesError:
            kernel.nft.run(self._plan.offer_user_chain())

    def _guard(self, kernel: Kernel, bridges: Iterable[BridgeRules]) -> None:
        """The tables of networks' own: one that cannot be had is no reason to do without the others."""
        for guard in (guard for bridge in bridges for guard in bridge.guards):
            try:
                kernel.nft.run(guard.install)
            except NftablesError as error:
                _log.error("cannot install the rules of %s: %s", guard.table, error.strerror)

    def _lead_loopback(self, bridges: Iterable[BridgeRules], *, on: bool) -> None:
        """Let what is redirected from a loopback address find back, as long as our rules guard that way."""
        for bridge in bridges:
            wanted = on and self._plan.leads_loopback and bridge.four is not None and not bridge.internal
            try:
                set_sysctl(f"net/ipv4/conf/{bridge.name}/route_localnet", "1" if wanted else "0")
            except OSError as error:
                reason = f"cannot set net.ipv4.conf.{bridge.name}.route_localnet: {error.strerror}"
                raise InternalError(reason) from None


def _order(port: PortMapping) -> tuple[str, int, str]:
    return port.protocol, port.host_port, port.host_ip


def _news() -> socket.socket:
    """A socket that hears of every change of the nftables."""
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    try:
        events.setblocking(False)
        try:
            events.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _NEWS_BYTES)
        except PermissionError:  # in a user namespace
            events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _NEWS_BYTES)
        events.bind((0, 1 << (_NFNLGRP_NFTABLES - 1)))
    except BaseException:
        events.close()
        raise
    return events


def _port_of_install(events: socket.socket, table: str) -> int:
    """The port of libnftables' own socket, which marks our own changes: the one that has just made our table."""
    port = 0
    while True:
        try:
            data = events.recv(1 << 16)
        except BlockingIOError:
            return port
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            continue  # the last news were lost, the table is among the first
        for packet in messages(data):
            if packet.type == _NFT | _NEWTABLE and _table(packet) == table:
                port = packet.port


def _is_harmful(packet: Packet) -> bool:
    """Whether something was taken away, or a chain came, perhaps with a policy of dropping."""
    return packet.type & ~0xFF == _NFT and packet.type & 0xFF in (_NEWCHAIN, *_REMOVALS)


def _table(packet: Packet) -> str:
    return attributes(packet.payload, _GENMSG_SIZE).get(_TABLE_NAME, b"").rstrip(b"\0").decode(errors="replace")
