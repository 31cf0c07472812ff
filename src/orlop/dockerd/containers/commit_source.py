# SPDX-License-Identifier: Apache-2.0
"""What `docker commit` needs of a container."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from orlop import codec
from orlop.dockerd.containers.container import Container
from orlop.dockerd.containers.pause import Pause
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.containers.remapping import Remapping
from orlop.dockerd.images.ports import CommitSource
from orlop.errdefs import ConflictError, FailedPreconditionError, NotFoundError
from orlop.oci.image import ImageConfig


class CommitSources:
    """Finds containers for `orlop.dockerd.images.commit`."""

    def __init__(self, registry: Registry, pause: Pause, remapping: Remapping) -> None:
        self._registry = registry
        self._remapping = remapping
        self._pause = pause

    def __call__(self, container: str) -> CommitSource:
        """Raises NotFoundError, and ConflictError for a container that is being removed."""
        found = self._registry.get(container)
        if found.record.state.removing:
            raise ConflictError(f"You cannot commit container {found.id} which is being removed")

        def committed(image_id: str, name: str, comment: str) -> None:
            about = {"comment": comment, "imageID": image_id, "imageRef": name}
            self._registry.publish(found, "commit", **about)

        return CommitSource(
            id=found.id,
            snapshot_key=found.id,
            image_id=found.record.image_id,
            config=codec.convert(msgspec.to_builtins(found.record.config), ImageConfig),
            paused=lambda: self._paused(found),
            committed=committed,
            inside=self._remapping.inside(found.record.host_config),
        )

    @asynccontextmanager
    async def _paused(self, container: Container) -> AsyncIterator[None]:
        state = container.record.state
        if not state.running or state.paused:
            yield
            return
        try:
            await self._pause.pause(container.id)
        except (ConflictError, FailedPreconditionError, NotFoundError):  # it has just ended
            yield
            return
        try:
            yield
        finally:
            with contextlib.suppress(ConflictError, NotFoundError):  # killed, or thawed by somebody else
                await self._pause.unpause(container.id)
