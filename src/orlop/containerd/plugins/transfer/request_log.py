# SPDX-License-Identifier: Apache-2.0
"""What a transfer says to a registry, told to the client that asked for it (`resolver.http_debug`)."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from orlop.containerd.client.streams import send_bytes
from orlop.containerd.plugins.transfer.progress import PATIENCE
from orlop.errdefs import UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orlop.containerd.client.streams import Stream

log = logging.getLogger("containerd.transfer")


class RequestLog:
    """Lines for the client's stream or, where it names none, for the daemon's own log.

    A client that does not read holds no request up: its lines wait, and are given up at the end.
    """

    def __init__(self, stream: Stream | None) -> None:
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self._sender = asyncio.create_task(_send(stream, self._lines)) if stream is not None else None

    def say(self, text: str) -> None:
        """One request, answer or step."""
        if self._sender is None:
            log.info("%s", text)
        elif not self._sender.done():
            self._lines.put_nowait(text)

    async def finish(self) -> None:
        """Send what is left and end the stream."""
        if self._sender is not None:
            self._lines.put_nowait(None)
            await asyncio.wait((self._sender,), timeout=PATIENCE)
            self._sender.cancel()


async def _send(stream: Stream, lines: asyncio.Queue[str | None]) -> None:
    async def waiting() -> AsyncIterator[bytes]:
        while (line := await lines.get()) is not None:
            yield f"{line}\n".encode()

    try:
        await send_bytes(stream, waiting())
    except UnavailableError:
        log.debug("the client has stopped reading what is said to the registry")
