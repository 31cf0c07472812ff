# SPDX-License-Identifier: Apache-2.0
"""The one thread in which the network service talks to the kernel."""

import asyncio
import contextlib
import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Concatenate, ParamSpec, TypeVar

from orlop.dockerd.network.rtnetlink import RouteSocket
from orlop.errdefs import UnavailableError
from orlop.unix.nftables import Nftables

P = ParamSpec("P")
R = TypeVar("R")

_NO_NFTABLES = (
    'nftables is missing ({reason}): install it (Debian: apt install nftables), or set "iptables": false, with '
    "which networks are not kept apart and containers have no way out but by routes"
)


class Kernel:
    """What the thread has at hand: a netlink socket and an nftables context of the daemon's own namespace."""

    def __init__(self) -> None:
        """Raises OSError."""
        self.route = RouteSocket()
        self._nft: Nftables | None = None

    @property
    def nft(self) -> Nftables:
        """The nftables context, made at its first use. Raises OSError where there is none, saying what to do."""
        if self._nft is None:
            try:
                self._nft = Nftables()
            except OSError as error:
                raise OSError(errno.ENOENT, _NO_NFTABLES.format(reason=error.strerror or error)) from None
        return self._nft

    def close(self) -> None:
        """Let go of both."""
        self.route.close()
        if self._nft is not None:
            self._nft.close()


class KernelThread:
    """Runs functions of a Kernel one after the other, in the order of the calls.

    A call whose awaiting task is cancelled still runs to its end, before any later call: a later call may undo it.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="orlop-kernel")
        self._kernel: Kernel | None = None

    async def call(self, function: Callable[Concatenate[Kernel, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """`function(kernel, *args, **kwargs)` in the thread."""
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, lambda: function(self._opened(), *args, **kwargs)
        )

    async def close(self) -> None:
        """End the thread after the calls that wait."""
        with contextlib.suppress(RuntimeError):  # closed before
            await asyncio.get_running_loop().run_in_executor(self._executor, self._close)
        self._executor.shutdown(wait=False)

    def _opened(self) -> Kernel:
        if self._kernel is None:
            try:
                self._kernel = Kernel()
            except OSError as error:
                raise UnavailableError(f"cannot use netlink: {error.strerror}") from None
        return self._kernel

    def _close(self) -> None:
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None
