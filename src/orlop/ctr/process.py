# SPDX-License-Identifier: Apache-2.0
"""Run a created process at our streams to its end: what `run`, `tasks start` and `tasks exec` share."""

from __future__ import annotations

import asyncio
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

from orlop.ctr.io import Copier, Signals, raw_terminal
from orlop.errdefs import OrlopError

if TYPE_CHECKING:
    from orlop.containerd.client.tasks import Tasks
    from orlop.ctr.io import Streams


class Attachment:
    """Our streams joined to those of a process. Make it before the shim makes the process."""

    def __init__(self, tasks: Tasks, id: str, exec_id: str, streams: Streams) -> None:
        self._tasks, self._id, self._exec_id = tasks, id, exec_id
        self._terminal = streams.terminal
        self._closing: set[asyncio.Task[None]] = set()
        self._copier = Copier(streams, self._close_stdin)

    def _close_stdin(self) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._close_io())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    async def _close_io(self) -> None:
        try:
            await self._tasks.close_io(self._id, self._exec_id)
        except OrlopError as error:
            # A process that has ended needs no end of its input.
            if "not found" not in str(error) and "ended" not in str(error):
                print(f"ctr: close stdin: {error}", file=sys.stderr)

    async def run(self, *, start: bool = True) -> int:
        """Start the process (or join it) and wait for its end: its exit status."""
        waiting = asyncio.ensure_future(self._tasks.wait(self._id, self._exec_id))
        signals = None
        try:
            # The wait is to be there before the process can end.
            await asyncio.sleep(0)
            with raw_terminal() if self._terminal else nullcontext():
                if start:
                    await self._tasks.start(self._id, self._exec_id)
                signals = Signals(self._tasks, self._id, self._exec_id, terminal=self._terminal)
                signals.resize() if self._terminal else None
                self._copier.start_input()
                status = (await waiting).exit_status
        finally:
            waiting.cancel()
            if signals is not None:
                signals.close()
        return status

    async def drain(self) -> None:
        """Copy what is left of the output. Call it once the process is deleted, or is to be left."""
        await self._copier.drain()
        if self._closing:
            await asyncio.wait(self._closing)

    def close(self) -> None:
        """Let go of the streams."""
        self._copier.close()
