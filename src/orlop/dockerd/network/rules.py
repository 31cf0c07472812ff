# SPDX-License-Identifier: Apache-2.0
"""Keeps the firewall rules in the kernel: installs them, and puts them back when somebody takes them away.

`nft flush ruleset`, a reload of firewalld or a late start of another container engine would otherwise leave
containers without isolation until the next restart (CVE-2025-54388, CVE-2025-54410).
"""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Iterable

from orlop.dockerd.network import firewall
from orlop.dockerd.network.firewall import BridgeRules, Firewall
from orlop.dockerd.network.kernel import Kernel, KernelThread
from orlop.dockerd.network.netlink import attributes, messages
from orlop.dockerd.network.types import PortMapping
from orlop.errdefs import InternalError, OrlopError
from orlop.unix.nftables import NftablesError

_log = logging.getLogger(__name__)

# linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
_NETLINK_NETFILTER = 12
_NFNLGRP_NFTABLES = 7
_NFNL_SUBSYS_NFTABLES = 10
_NEWCHAIN, _NEWGEN = 3, 15
_REMOVALS = (2, 5, 8, 11, 14)  # of a table, chain, rule, set, element
_GENMSG_SIZE = 4
_TABLE_NAME = 1
_GEN_PROC_PID = 2
_FOREIGN_TABLE = "filter"
_DEBOUNCE_SECONDS = 0.2


class Rules:
    """Our table in the kernel, and the passage through iptables' FORWARD chain.

    What the rules have to cover belongs to the kernel's thread, so that putting them back and publishing a port do
    not get in each other's way.
    """

    def __init__(self, thread: KernelThread, plan: Firewall) -> None:
        self._thread = thread
        self._plan = plan
        self._bridges: list[BridgeRules] = []
        self._ports: set[PortMapping] = set()
        self._events: socket.socket | None = None
        self._touched = False
        self._repair: asyncio.Task[None] | None = None

    async def start(self, bridges: list[BridgeRules], ports: Iterable[PortMapping]) -> None:
        """Install the rules for what there is, and watch them. Raises InternalError."""
        self._bridges, self._ports = bridges, set(ports)
        await self._thread.call(self._install)
        self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        self._events.bind((0, 1 << (_NFNLGRP_NFTABLES - 1)))
        self._events.setblocking(False)
        asyncio.get_running_loop().add_reader(self._events, self._readable)

    async def close(self) -> None:
        """Stop watching; the rules stay."""
        if self._events is not None:
            asyncio.get_running_loop().remove_reader(self._events)
            self._events.close()
            self._events = None
        if self._repair is not None:
            self._repair.cancel()
            await asyncio.gather(self._repair, return_exceptions=True)

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

    def _readable(self) -> None:
        assert self._events is not None
        try:
            data = self._events.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self._touched = True  # some news were lost: look
            self._schedule()
            return
        for packet in messages(data):
            if packet.type >> 8 != _NFNL_SUBSYS_NFTABLES:
                continue
            kind, found = packet.type & 0xFF, attributes(packet.payload, _GENMSG_SIZE)
            if kind == _NEWGEN:
                # the end of a transaction, with the process that made it
                if self._touched and _number(found.get(_GEN_PROC_PID)) != os.getpid():
                    self._schedule()
                self._touched = False
            elif kind == _NEWCHAIN or kind in _REMOVALS:
                table = found.get(_TABLE_NAME, b"").rstrip(b"\0").decode(errors="replace")
                self._touched |= table in (self._plan.table, _FOREIGN_TABLE)

    def _schedule(self) -> None:
        if self._repair is None or self._repair.done():
            self._repair = asyncio.get_running_loop().create_task(self._put_back())

    async def _put_back(self) -> None:
        await asyncio.sleep(_DEBOUNCE_SECONDS)  # a reload is many transactions: wait for its end
        _log.info("the firewall was changed from outside: installing the rules again")
        try:
            await self._thread.call(self._install)
        except OrlopError as error:
            _log.error("%s", error)

    def _install(self, kernel: Kernel) -> None:
        """In the kernel's thread: our table, and passage through iptables' FORWARD chain if there is one."""
        try:
            kernel.nft.run(self._plan.install(self._bridges, sorted(self._ports, key=_order)))
        except OSError as error:
            raise InternalError(f"cannot install the firewall rules: {error.strerror or error}") from None
        try:
            listing = kernel.nft.run(firewall.FOREIGN_FORWARD)
        except NftablesError:
            return  # no iptables here
        for bridge in self._bridges:
            if commands := firewall.foreign_accept(listing, bridge.name):
                kernel.nft.run(commands)


def _order(port: PortMapping) -> tuple[str, int, str]:
    return port.protocol, port.host_port, port.host_ip


def _number(value: bytes | None) -> int:
    return int.from_bytes(value, "big") if value else 0
