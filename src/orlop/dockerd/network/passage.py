# SPDX-License-Identifier: Apache-2.0
"""Bridges' passage through the machine's other firewalls: iptables' chains of both kinds, and firewalld."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from orlop.dockerd.network import foreign, legacy
from orlop.dockerd.network.firewall import BridgeRules
from orlop.dockerd.network.kernel import Kernel, KernelThread
from orlop.errdefs import OrlopError
from orlop.unix.nftables import NftablesError

_log = logging.getLogger(__name__)


class Passage:
    """What is done to the rules of others.

    firewalld is asked over D-Bus where its table is in our network namespace: the bus of this machine may lead to
    a firewalld that governs another one. It is given its time beside the kernel's thread, for it may be slow.
    """

    def __init__(self, thread: KernelThread) -> None:
        self._thread = thread
        self._asking = asyncio.Lock()
        self.has_firewalld = False
        """Whether there was a firewalld when it was last asked for."""

    def through_iptables(self, kernel: Kernel, bridges: Sequence[BridgeRules]) -> None:
        """In the kernel's thread: let bridges' traffic pass FORWARD, where there is such a chain."""
        self._through(kernel, foreign.IPTABLES, bridges)
        legacy.let_pass(bridges)

    def withdraw(self, kernel: Kernel, bridge: str) -> None:
        """In the kernel's thread: take away every rule for a bridge that is ours."""
        for chain in (*foreign.IPTABLES, *foreign.FIREWALLD):
            self._change(kernel, chain, partial(foreign.withdraw, chain, bridge))
        legacy.forget(bridge)

    async def through_firewalld(self, bridges: Sequence[BridgeRules]) -> None:
        """Let bridges' traffic pass firewalld, if there is one: by its zone, or rules in its chains."""
        async with self._asking:
            self.has_firewalld = await self._thread.call(self._has_firewalld)
            if not bridges or not self.has_firewalld:
                return
            names = [bridge.name for bridge in bridges]
            if await self._asked("take bridges into its zone", lambda module: module.admit(names)):
                return
            await self._thread.call(self._through, foreign.FIREWALLD, bridges)

    async def leave_firewalld(self, bridge: str) -> None:
        """Have firewalld forget a bridge."""
        async with self._asking:
            if await self._thread.call(self._has_firewalld):
                await self._asked(f"forget {bridge}", lambda module: module.dismiss(bridge))

    async def _asked(self, what: str, request: Callable[..., None]) -> bool:
        # Loaded where there is a firewalld, only.
        from orlop.dockerd.network import firewalld

        try:
            await asyncio.to_thread(request, firewalld)
        except OrlopError as error:
            _log.warning("firewalld does not %s: %s", what, error)
            return False
        return True

    def _has_firewalld(self, kernel: Kernel) -> bool:
        try:
            kernel.nft.run(foreign.FIREWALLD[0].listing)
        except NftablesError:
            return False
        return True

    def _through(self, kernel: Kernel, chains: Iterable[foreign.Chain], bridges: Sequence[BridgeRules]) -> None:
        for chain in chains:
            for bridge in bridges:
                if not self._change(kernel, chain, partial(foreign.accept, chain, bridge)):
                    break

    def _change(self, kernel: Kernel, chain: foreign.Chain, plan: Callable[[str], str]) -> bool:
        """Change somebody else's chain as `plan` says of its listing; False if there is no such chain."""
        try:
            listing = kernel.nft.run_with_handles(chain.listing)
        except NftablesError:
            return False
        try:
            if commands := plan(listing):
                kernel.nft.run(commands)
        except NftablesError as error:
            _log.warning("containers may be cut off by %s: %s", chain.place, error.strerror)
        return True
