# SPDX-License-Identifier: Apache-2.0
"""Stop and start a container."""

from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.containers.start import Start
from orlop.dockerd.containers.stop import Stop


class Restart:
    """The use case."""

    def __init__(self, registry: Registry, stop: Stop, start: Start) -> None:
        self._registry = registry
        self._stop = stop
        self._start = start

    async def __call__(self, reference: str, signal_name: str = "", timeout: int | None = None) -> None:
        """Restart; a container that does not run is started. Raises what stop and start raise."""
        container = self._registry.get(reference)
        container.restarting_by_user = True  # a stop in between is no reason for auto-remove
        try:
            await self._stop.stop(container, signal_name, timeout)
            await self._start.start(container, by_user=True)
        finally:
            container.restarting_by_user = False
        self._registry.publish(container, "restart")
