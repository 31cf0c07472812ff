# SPDX-License-Identifier: Apache-2.0
"""The worker: serves requests, ports and names until SIGTERM or SIGINT."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Sequence

from orlop.netd.keeper import Channel, Kept
from orlop.netd.kept import Store
from orlop.netd.poller import Poller
from orlop.netd.server import Server


def work(listener: socket.socket, channel: Channel, kept: Sequence[Kept], on_alone: Callable[[], None]) -> None:
    """Take up what is `kept` and serve; `on_alone` is called when the keeper is gone."""
    poller = Poller()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(poller)) as runner:
        runner.run(_serve(listener, channel, kept, on_alone, poller))


async def _serve(
    listener: socket.socket,
    channel: Channel,
    kept: Sequence[Kept],
    on_alone: Callable[[], None],
    poller: Poller,
) -> None:
    loop = asyncio.get_running_loop()
    poller.on_error = loop.call_exception_handler
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    alone = False

    def left_alone() -> None:
        nonlocal alone
        alone = True
        on_alone()

    store = Store(channel, left_alone)
    server = Server(store, poller)
    await server.restore(kept)
    path = listener.getsockname()
    accepting = await server.serve(listener)
    store.ready()
    await stop.wait()
    accepting.close()
    await server.close()
    store.close()
    if alone:  # what the keeper would do
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
