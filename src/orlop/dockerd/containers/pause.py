# SPDX-License-Identifier: Apache-2.0
"""Freeze and thaw a container."""

from orlop.containerd.client import Client
from orlop.dockerd.containers.registry import Registry
from orlop.errdefs import ConflictError


class Pause:
    """Both use cases."""

    def __init__(self, registry: Registry, client: Client) -> None:
        self._registry = registry
        self._client = client

    async def pause(self, reference: str) -> None:
        """Freeze. Raises NotFoundError, ConflictError unless it runs and is not frozen."""
        container = self._registry.get(reference)
        async with container.lock:
            container.check_running()
            if container.record.state.paused:
                raise ConflictError(f"container {container.id} is already paused")
            await self._client.tasks.pause(container.id)
            container.record.state.paused = True
            self._registry.save(container)
        self._registry.publish(container, "pause")

    async def unpause(self, reference: str) -> None:
        """Thaw. Raises NotFoundError, ConflictError unless it is frozen."""
        container = self._registry.get(reference)
        async with container.lock:
            if not container.record.state.paused:
                raise ConflictError(f"Container {container.id} is not paused")
            await self._client.tasks.resume(container.id)
            container.record.state.paused = False
            self._registry.save(container)
        self._registry.publish(container, "unpause")
