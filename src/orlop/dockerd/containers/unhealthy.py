# SPDX-License-Identifier: Apache-2.0
"""Ends a container whose health check says that it is unhealthy, where its restart policy wants that."""

import asyncio
import logging

from orlop.dockerd.containers.container import Container
from orlop.dockerd.containers.restart_policy import minds_health
from orlop.dockerd.containers.stop import Stop
from orlop.errdefs import OrlopError

log = logging.getLogger("orlop.dockerd.unhealthy")


class Unhealthy:
    """The rest is the restart policy's: the container has ended without a user's wish."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._ending: dict[str, asyncio.Task[None]] = {}

    def found(self, container: Container) -> None:
        """A probe has failed once more and the container counts as unhealthy."""
        if minds_health(container.record.host_config.restart_policy) and container.id not in self._ending:
            self._ending[container.id] = asyncio.ensure_future(self._end(container))

    async def close(self) -> None:
        """Give up what is under way: a container that is still unhealthy is found again."""
        for task in self._ending.values():
            task.cancel()
        if self._ending:
            await asyncio.wait(self._ending.values())

    async def _end(self, container: Container) -> None:
        log.info("container %s is unhealthy: restarting it", container.id)
        try:
            await self._stop.end(container)
        except OrlopError as error:
            log.error("container %s is unhealthy: %s", container.id, error)
        finally:
            del self._ending[container.id]
