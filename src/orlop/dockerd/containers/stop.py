# SPDX-License-Identifier: Apache-2.0
"""Stop a container: ask, wait, force."""

import asyncio
import logging
import signal

from orlop.dockerd.config import Config
from orlop.dockerd.containers.container import Container, ExitInfo
from orlop.dockerd.containers.kill import Kill
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.containers.signals import parse_signal, stop_signal
from orlop.errdefs import InternalError, NotFoundError, NotModifiedError

log = logging.getLogger("orlop.dockerd.stop")

_AFTER_KILL_SECONDS = 10.0


class Stop:
    """The use case."""

    def __init__(self, registry: Registry, kill: Kill, config: Config) -> None:
        self._registry = registry
        self._kill = kill
        self._config = config

    async def __call__(self, reference: str, signal_name: str = "", timeout: int | None = None) -> None:
        """Stop by a user's wish. `timeout` in seconds, negative: for ever.

        Raises NotFoundError, NotModifiedError when it does not run, InternalError when it cannot be killed.
        """
        container = self._registry.get(reference)
        if not container.record.state.running:
            raise NotModifiedError(f"container {container.id} is not running")
        await self.stop(container, signal_name, timeout)

    async def stop(self, container: Container, signal_name: str = "", timeout: int | None = None) -> None:
        """Bring a container to its end, if it runs; returns when that is settled."""
        if await self._bring_down(container, signal_name, timeout):
            self._registry.publish(container, "stop")

    async def kill(self, container: Container) -> None:
        """The same at once, for one that is to be removed: no `stop` is told."""
        await self._bring_down(container, "SIGKILL", -1)

    async def _bring_down(self, container: Container, signal_name: str, timeout: int | None) -> bool:
        """Whether it ran and had to be ended."""
        record = container.record
        number = parse_signal(signal_name) if signal_name else stop_signal(record.config.stop_signal)
        stopped = container.on_stop()
        if not record.state.running:
            return False
        record.manually_stopped = container.no_restart = True
        if await self._cancel_restart(container):
            return False
        await self._ask_then_force(container, number, timeout, stopped, by_user=True)
        if not await _within(stopped, _AFTER_KILL_SECONDS):
            raise InternalError(
                f"cannot stop container: {container.id}: tried to kill it, but did not see an exit"
            )
        return True

    async def end(self, container: Container) -> None:
        """Bring a running container to its end without that being a user's wish: its restart policy goes on."""
        number = stop_signal(container.record.config.stop_signal)
        await self._ask_then_force(container, number, None, container.on_end(), by_user=False)

    async def _ask_then_force(
        self,
        container: Container,
        number: int,
        timeout: int | None,
        ended: "asyncio.Future[ExitInfo]",
        *,
        by_user: bool,
    ) -> None:
        record = container.record
        if timeout is None:
            asked = record.config.stop_timeout
            timeout = self._config.default_stop_timeout if asked is None else asked
        try:
            await self._kill.send(container, number, by_user=by_user)
            if not await _within(ended, None if timeout < 0 else timeout):
                log.info(
                    "container %s did not end within %d s of signal %d: killing it", record.id, timeout, number
                )
                await self._kill.send(container, int(signal.SIGKILL), by_user=by_user)
        except NotFoundError:
            return  # it has ended just now: its exit is about to be told

    async def _cancel_restart(self, container: Container) -> bool:
        """Whether the container was waiting for its next attempt, and now is stopped."""
        async with container.lock:
            state = container.record.state
            if container.restart is None or not state.restarting:
                return False
            container.restart.cancel()
            container.restart = None
            state.running = state.restarting = False
            self._registry.save(container)
            container.tell_stopped()
            return True


async def _within(future: "asyncio.Future[ExitInfo]", seconds: float | None) -> bool:
    done, _ = await asyncio.wait({future}, timeout=seconds)
    return bool(done)
