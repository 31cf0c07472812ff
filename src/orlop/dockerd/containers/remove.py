# SPDX-License-Identifier: Apache-2.0
"""Remove a container and everything that is its own."""

import asyncio
import logging
import shutil

from orlop.containerd.client import Client
from orlop.dockerd.containers.container import Container
from orlop.dockerd.containers.paths import Paths
from orlop.dockerd.containers.ports import Volumes
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.containers.start import delete_record
from orlop.dockerd.containers.stop import Stop
from orlop.dockerd.logging.forward import Forwarding
from orlop.dockerd.logging.kept import KeptLogs
from orlop.errdefs import ConflictError, NotFoundError, OrlopError

log = logging.getLogger("orlop.dockerd.remove")


class Remove:
    """The use case."""

    def __init__(
        self,
        registry: Registry,
        client: Client,
        volumes: Volumes,
        stop: Stop,
        paths: Paths,
        forwarding: Forwarding,
        kept_logs: KeptLogs,
    ) -> None:
        self._registry = registry
        self._client = client
        self._volumes = volumes
        self._stop = stop
        self._paths = paths
        self._forwarding = forwarding
        self._kept_logs = kept_logs

    async def __call__(self, reference: str, *, force: bool = False, volumes: bool = False) -> None:
        """Remove by a user's wish; `force` kills it first, `volumes` removes its anonymous volumes.

        Raises NotFoundError, ConflictError when it runs.
        """
        container = self._registry.get(reference)
        await self._mark(container, force)
        await self.destroy(container, volumes=volumes)

    async def auto(self, container: Container) -> None:
        """Remove a container with AutoRemove after its end, with its anonymous volumes."""
        if container.record.state.removing or container.id not in self._registry:
            return
        container.record.state.removing = True
        await self.destroy(container, volumes=True)

    async def _mark(self, container: Container, force: bool) -> None:
        state = container.record.state
        if state.removing:
            raise ConflictError(f"removal of container {container.id} is already in progress")
        if state.running and not force:
            hint = "stop the container before removing or force remove"
            if state.paused:
                hint = "unpause and then stop the container before removing or force remove"
            raise ConflictError(f'cannot remove container "{container.name}": container is {state.status}: {hint}')
        state.removing = True
        try:
            await self._stop.kill(container)
        except BaseException:
            state.removing = False
            raise

    async def destroy(self, container: Container, *, volumes: bool) -> None:
        """Take everything apart; the record goes last, so that a crash leaves it to be removed again."""
        async with container.lock:
            if container.id not in self._registry:
                return
            try:
                await delete_record(self._client, container)
                await self._remove_snapshot(container)
                await self._forwarding.finish(container)
                self._kept_logs.keep(container.record, self._paths.data(container.id))
                self._remove_files(container)
                if volumes:
                    await self._remove_volumes(container)
            except BaseException as error:
                state = container.record.state
                state.removing, state.dead = False, True
                state.error = str(error)
                self._registry.save(container)
                await container.tell_removed(str(error))
                raise
            self._registry.remove(container)
        self._registry.publish(container, "destroy")
        await container.tell_removed()

    async def _remove_snapshot(self, container: Container) -> None:
        try:
            await self._client.snapshots(container.record.snapshotter).remove(container.id)
        except NotFoundError:
            return

    def _remove_files(self, container: Container) -> None:
        for directory in (self._paths.data(container.id), self._paths.volatile(container.id)):
            if directory.exists():
                shutil.rmtree(directory)

    async def _remove_volumes(self, container: Container) -> None:
        for point in container.record.mounts:
            if point.type != "volume" or not point.anonymous:
                continue
            if self._registry.users_of_volume(point.name):
                continue
            try:
                await asyncio.to_thread(self._volumes.remove, point.name, True)
            except OrlopError as error:
                log.warning("container %s: volume %s: %s", container.id, point.name, error)
