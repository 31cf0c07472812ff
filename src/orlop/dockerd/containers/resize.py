# SPDX-License-Identifier: Apache-2.0
"""Set the size of a container's terminal."""

from orlop.containerd.client import Client
from orlop.dockerd.containers.registry import Registry


class Resize:
    """The use case."""

    def __init__(self, registry: Registry, client: Client) -> None:
        self._registry = registry
        self._client = client

    async def __call__(self, reference: str, height: int, width: int) -> None:
        """In characters. Raises NotFoundError, ConflictError when it does not run."""
        container = self._registry.get(reference)
        container.check_running()
        if not container.record.config.tty:
            return  # there is no terminal to have a size, which is no error for Docker either
        await self._client.tasks.resize_pty(container.id, width=width, height=height)
        self._registry.publish(container, "resize", height=str(height), width=str(width))
