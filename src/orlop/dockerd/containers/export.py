# SPDX-License-Identifier: Apache-2.0
"""The root filesystem of a container as a tar: `docker export`."""

import os
from collections.abc import AsyncIterator, Iterator

from orlop.archive import write
from orlop.archive.walk import TreeWriter, buffered
from orlop.dockerd.containers.archive_out import told
from orlop.dockerd.containers.bridge import from_thread
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.containers.remapping import Remapping
from orlop.dockerd.containers.view import Views
from orlop.errdefs import ConflictError


class Export:
    """The use case."""

    def __init__(self, registry: Registry, views: Views, remapping: Remapping) -> None:
        self._registry = registry
        self._views = views
        self._remapping = remapping

    async def __call__(self, reference: str) -> AsyncIterator[bytes]:
        """The stream; close it with aclose(). What is mounted in the container does not belong to it.

        Raises NotFoundError, ConflictError; the stream raises OSError for what cannot be read.
        """
        container = self._registry.get(reference)
        state = container.record.state
        if state.dead:
            raise ConflictError(f"You cannot export container {container.id} which is Dead")
        if state.removing:
            raise ConflictError(f"You cannot export container {container.id} which is being removed")
        inside = self._remapping.inside(container.record.host_config)
        root = await self._views.root(container)

        def tar() -> Iterator[bytes]:
            top = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
            try:
                with told():
                    yield from TreeWriter(inside).below(top)
            finally:
                os.close(top)
            yield write.END

        self._registry.publish(container, "export")
        return from_thread(buffered(tar()), lambda: os.close(root))
