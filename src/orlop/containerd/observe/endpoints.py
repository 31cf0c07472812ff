# SPDX-License-Identifier: Apache-2.0
"""The HTTP endpoints for looking at a daemon: metrics on a TCP address, debugging on a Unix socket."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from aiohttp import web

from orlop.containerd.observe import debug, metrics
from orlop.containerd.sockets import listen, unlink
from orlop.errdefs import FailedPreconditionError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orlop.containerd.core.runtime import Task
    from orlop.containerd.observe.metrics import Metrics
    from orlop.containerd.plugins.exchange import Exchange


class Endpoints:
    """Those of one daemon, as far as they are configured."""

    def __init__(self) -> None:
        self._runners: list[web.AppRunner] = []
        self._paths: list[str] = []
        self._counting: asyncio.Task[None] | None = None

    async def serve_metrics(
        self, address: str, counted: Metrics, exchange: Exchange, tasks: Callable[[], Sequence[Task]]
    ) -> None:
        """Serve metrics at HOST:PORT. Raises InvalidArgumentError, FailedPreconditionError for a taken address."""
        host, _, port = address.rpartition(":")
        if not port.isdigit():
            raise InvalidArgumentError(f"metrics.address: expected HOST:PORT, got {address!r}")
        runner = await self._runner(metrics.application(counted, tasks))
        try:
            await web.TCPSite(runner, host.strip("[]") or None, int(port)).start()
        except OSError as error:
            raise FailedPreconditionError(f"metrics.address {address}: {error.strerror}") from None
        self._counting = asyncio.ensure_future(counted.count_ooms(exchange))

    async def serve_debug(self, path: str, uid: int, gid: int) -> None:
        """Serve the debug socket. Raises FailedPreconditionError if another process serves it."""
        os.makedirs(os.path.dirname(path), 0o711, exist_ok=True)
        sock = listen(path)
        self._paths.append(path)
        if uid or gid:
            os.chown(path, uid, gid)
        os.chmod(path, 0o660 if gid else 0o600)
        await web.SockSite(await self._runner(debug.application()), sock).start()

    async def _runner(self, application: web.Application) -> web.AppRunner:
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        self._runners.append(runner)
        return runner

    async def close(self) -> None:
        """Stop serving."""
        if self._counting is not None:
            self._counting.cancel()
        for runner in self._runners:
            await runner.cleanup()
        for path in self._paths:
            unlink(path)
