# SPDX-License-Identifier: Apache-2.0
"""The worker's side of the keeper: what shall outlive the worker is told here."""

import asyncio
import json
import os
import socket
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from orlop.netd.keeper import Channel


class Store:
    """Tells the keeper what to keep. Once the keeper is gone nothing is kept, and nothing else changes."""

    def __init__(self, channel: Channel, on_alone: Callable[[], None]) -> None:
        """`on_alone` is called when the keeper is gone."""
        self._messages: socket.socket | None = channel.messages
        self._acknowledgements = channel.acknowledgements
        self._on_alone = on_alone
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[asyncio.Future[None]] = deque()
        os.set_blocking(self._acknowledgements, False)
        self._loop.add_reader(self._acknowledgements, self._readable)

    @property
    def pid(self) -> int:
        """The process that stands for the daemon: the keeper, or this one where there is none any more."""
        return os.getppid() if self._messages is not None else os.getpid()

    def ready(self) -> None:
        """Requests are served."""
        self._send({"ready": True})

    def keep(self, key: str, message: dict[str, Any], fds: Iterable[int] = ()) -> None:
        """Keep a message and duplicates of descriptors, in place of what the key had."""
        self._send({"keep": key, **message}, array("i", fds))

    async def drop(self, keys: Iterable[str]) -> None:
        """Have the keeper close its duplicates, and wait until it has."""
        dropped = list(keys)
        if not dropped:
            return
        self._send({"drop": dropped})
        if self._messages is not None:
            done = self._loop.create_future()
            self._waiting.append(done)
            await done

    def close(self) -> None:
        """Let go of the channel."""
        if self._messages is not None:
            self._messages.close()
            self._messages = None
            self._loop.remove_reader(self._acknowledgements)
            os.close(self._acknowledgements)
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)

    def _send(self, message: dict[str, Any], fds: "array[int] | None" = None) -> None:
        if self._messages is None:
            return
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
        try:
            self._messages.sendmsg([json.dumps(message).encode()], control)
        except (BrokenPipeError, ConnectionResetError):
            self._alone()

    def _readable(self) -> None:
        done = os.read(self._acknowledgements, 4096)
        if not done:
            self._alone()
            return
        for _ in done:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)

    def _alone(self) -> None:
        if self._messages is not None:
            self.close()
            self._on_alone()
