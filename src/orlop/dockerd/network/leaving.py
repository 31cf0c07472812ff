# SPDX-License-Identifier: Apache-2.0
"""Interfaces on their way out: the kernel removes them some milliseconds after their namespace is gone."""

import asyncio
import errno
import socket

from orlop.dockerd.network import hostlinks
from orlop.dockerd.network.kernel import KernelThread
from orlop.dockerd.network.rtnetlink import RTMGRP_LINK, RouteSocket

_PATIENCE_SECONDS = 1.0


class LeavingLinks:
    """Keeps the addresses of leaving interfaces from being given out again before they are gone.

    Deleting a veth pair takes the kernel 15 to 40 ms in which the caller waits; letting it go with its namespace
    takes none. But as long as the old interface is on the bridge it may answer for its address.
    """

    def __init__(self, thread: KernelThread) -> None:
        self._thread = thread
        self._addresses: dict[str, list[str]] = {}
        self._events: RouteSocket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def addresses(self) -> set[str]:
        """The addresses that are not free yet."""
        return {address for addresses in self._addresses.values() for address in addresses}

    def expect(self, veth: str, addresses: list[str]) -> None:
        """`veth` is about to go; call before its namespace is let go."""
        loop = asyncio.get_running_loop()
        if self._events is None:
            self._events = RouteSocket(RTMGRP_LINK)
            loop.add_reader(self._events, self._readable)
        self._addresses[veth] = addresses
        loop.call_later(_PATIENCE_SECONDS, self._lost_patience, veth)

    async def hurry(self, addresses: list[str]) -> None:
        """Somebody wants these very addresses: delete the interfaces that may still answer for them."""
        for veth in [veth for veth, owned in self._addresses.items() if set(owned) & set(addresses)]:
            await self._delete(veth)

    async def close(self) -> None:
        """Delete what is still there, and stop listening."""
        for task in list(self._tasks):
            await task
        for veth in list(self._addresses):
            await self._delete(veth)
        self._stop()

    def _readable(self) -> None:
        assert self._events is not None
        try:
            gone = self._events.deleted_links()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            present = {name for _, name in socket.if_nameindex()}  # some news were lost: look for oneself
            gone = [veth for veth in self._addresses if veth not in present]
        for veth in gone:
            self._addresses.pop(veth, None)
        self._stop_if_idle()

    def _stop_if_idle(self) -> None:
        if not self._addresses:
            self._stop()

    def _stop(self) -> None:
        if self._events is not None:
            asyncio.get_running_loop().remove_reader(self._events)
            self._events.close()
            self._events = None

    def _lost_patience(self, veth: str) -> None:
        """Some process still is in the namespace; the interface goes all the same."""
        if veth in self._addresses:
            task = asyncio.get_running_loop().create_task(self._delete(veth))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _delete(self, veth: str) -> None:
        await self._thread.call(hostlinks.delete, veth)
        self._addresses.pop(veth, None)
        self._stop_if_idle()
