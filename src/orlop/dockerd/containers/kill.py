# SPDX-License-Identifier: Apache-2.0
"""Send a signal to a container."""

import asyncio
import contextlib
import signal

from orlop.containerd.client import Client
from orlop.dockerd.containers.container import Container
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.containers.signals import parse_signal, stop_signal
from orlop.errdefs import ConflictError, FailedPreconditionError, InvalidArgumentError, NotFoundError

_KILL_SECONDS = 10.0


class Kill:
    """The use case."""

    def __init__(self, registry: Registry, client: Client) -> None:
        self._registry = registry
        self._client = client

    async def __call__(self, reference: str, signal_name: str = "") -> None:
        """Send a signal; SIGKILL (the default) also waits for the end.

        Raises NotFoundError, InvalidArgumentError (the signal), ConflictError when it does not run.
        """
        try:
            container = self._registry.get(reference)
            number = parse_signal(signal_name) if signal_name else int(signal.SIGKILL)
        except (NotFoundError, InvalidArgumentError) as error:
            raise type(error)(f"cannot kill container: {reference}: {error}") from None
        state = container.record.state
        if not state.running or state.restarting:
            raise ConflictError(f"cannot kill container: {reference}: container {container.id} is not running")
        stopped = container.on_stop() if number == signal.SIGKILL else None
        try:
            await self.send(container, number)
            if stopped is not None:
                await asyncio.wait({stopped}, timeout=_KILL_SECONDS)
        except NotFoundError:
            raise ConflictError(
                f"cannot kill container: {reference}: container {container.id} is not running"
            ) from None

    async def send(self, container: Container, number: int, *, by_user: bool = True) -> None:
        """Send a signal to a running container. Raises NotFoundError when its task has ended.

        An end that is a user's wish keeps the restart policy from starting the container again.
        """
        record = container.record
        ends = self._means_the_end(record.config.stop_signal, number)
        if ends and by_user:
            # Noted before the signal leaves: the exit may be told before the call returns.
            container.no_restart = True
            record.manually_stopped = True
        await self._client.tasks.kill(record.id, number)
        if ends and record.state.paused:
            # A frozen process takes no signal, but SIGKILL: with that the runtime has thawed it, or it has ended.
            with contextlib.suppress(FailedPreconditionError, NotFoundError):
                await self._client.tasks.resume(record.id)
            record.state.paused = False
        self._registry.publish(container, "kill", signal=str(number))

    def _means_the_end(self, configured: str, number: int) -> bool:
        if configured and number != signal.SIGKILL:
            return stop_signal(configured) == number
        return True
