# SPDX-License-Identifier: Apache-2.0
"""The channel to a containerd, and the one way in which all of its calls are made."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

import grpc
import grpc.aio

from orlop.errdefs import UnavailableError
from orlop.rpc.grpc import from_rpc_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Q = TypeVar("Q")
A = TypeVar("A")

MAX_MESSAGE = 16 << 20  # bytes; containerd's own limit in both directions
Metadata = tuple[tuple[str, str], ...]

_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.default_authority", "localhost"),  # a socket's path is no authority that Go's HTTP/2 server takes
    ("grpc.enable_http_proxy", 0),
    # A daemon that restarts is back within a second: do not wait for the usual minutes.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 5000),  # no pause: how long a daemon may take to greet, on a busy machine
    ("grpc.max_reconnect_backoff_ms", 250),
    # Every client has a connection of its own, so that closing one ends its calls and nobody else's.
    ("grpc.use_local_subchannel_pool", 1),
]


_READING = ("Get", "Info", "List", "Metrics", "Mounts", "Stat", "Usage")  # how the names of such requests begin


def _only_reads(request: object) -> bool:
    return type(request).__name__.startswith(_READING)


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel to the Unix socket at `address` (its path or URL); connects at its first call."""
    return grpc.aio.insecure_channel("unix:" + address.removeprefix("unix://"), options=_OPTIONS)


class Service:
    """Base of the typed sub-clients: calls carry the client's metadata and raise `orlop.errdefs` errors."""

    patience = 0.0
    """Seconds that a call waits for a daemon that is not there, before it is made.

    A call that only reads is made again, within the same patience, when the daemon dies while it is under way, or
    has died and the connection does not know yet. One that changes something is never made twice.
    """

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        self._channel = channel
        self._metadata = metadata

    async def _ready(self) -> None:
        """Wait for the connection, within our patience. Raises UnavailableError."""
        if not self.patience or self._channel.get_state() is grpc.ChannelConnectivity.READY:
            return
        try:
            await asyncio.wait_for(self._channel.channel_ready(), self.patience)
        except TimeoutError:
            raise UnavailableError(f"containerd has not been there for {self.patience:g} s") from None

    async def _call(
        self, method: grpc.aio.UnaryUnaryMultiCallable[Q, A], request: Q, timeout: float | None = None
    ) -> A:
        deadline = time.monotonic() + self.patience
        while True:
            await self._ready()
            try:
                return await method(request, metadata=self._metadata, timeout=timeout)
            except grpc.aio.AioRpcError as error:
                gone = error.code() is grpc.StatusCode.UNAVAILABLE
                if not (gone and _only_reads(request) and time.monotonic() < deadline):
                    raise from_rpc_error(error) from None
            except grpc.aio.UsageError as error:  # the channel is closed
                raise UnavailableError(f"containerd's client is closed: {error}") from None

    async def _stream(self, method: grpc.aio.UnaryStreamMultiCallable[Q, A], request: Q) -> AsyncIterator[A]:
        await self._ready()
        call = method(request, metadata=self._metadata)
        try:
            async for answer in call:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        finally:
            call.cancel()
