# SPDX-License-Identifier: Apache-2.0
"""At the daemon's start: what is recorded against what runs, and what the restart policies then want."""

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from orlop.api.task_types_pb2 import Process, Status
from orlop.containerd.client import Client
from orlop.containerd.client.leases import end_earlier
from orlop.dockerd import timestamps
from orlop.dockerd.containers.container import Container
from orlop.dockerd.containers.create import SNAPSHOT_LABEL
from orlop.dockerd.containers.exits import LOST_EXIT_CODE, Exits
from orlop.dockerd.containers.health import HealthMonitor
from orlop.dockerd.containers.paths import SHORT, Paths
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.containers.remove import Remove
from orlop.dockerd.containers.restart_policy import wants_start
from orlop.dockerd.containers.shared_memory import unmount_shm
from orlop.dockerd.containers.start import CONTAINER_LABEL, Start, discard, discard_task
from orlop.dockerd.containers.streams import Streams
from orlop.dockerd.logging.forward import Forwarding
from orlop.dockerd.network.types import Sandbox
from orlop.errdefs import (
    DeadlineExceededError,
    NotFoundError,
    NotModifiedError,
    OrlopError,
    UnavailableError,
)

log = logging.getLogger("orlop.dockerd.reconcile")

_PARALLEL_STARTS = 8
_SHIM_SECONDS = 30


class Networks(Protocol):
    """What is asked of the networks."""

    def list_networks(self) -> list[dict[str, Any]]: ...
    def sandbox(self, container_id: str) -> Sandbox | None: ...
    def inspect_network(self, reference: str) -> dict[str, Any]: ...
    async def release(self, container_id: str) -> None: ...


class Reconcile:
    """Runs once, as soon as containerd is there; requests are served meanwhile, each container under its lock."""

    def __init__(
        self,
        registry: Registry,
        client: Client,
        streams: Streams,
        exits: Exits,
        start: Start,
        remove: Remove,
        health: HealthMonitor,
        networks: Networks,
        paths: Paths,
        snapshotter: str,
        forwarding: Forwarding,
    ) -> None:
        self._registry = registry
        self._client = client
        self._streams = streams
        self._exits = exits
        self._start = start
        self._remove = remove
        self._health = health
        self._networks = networks
        self._paths = paths
        self._snapshotter = snapshotter
        self._forwarding = forwarding
        self._known = {container.id for container in registry}
        self._done = False
        self.settled = asyncio.Event()
        """Set when every recorded container's state is true: from then on answers can be."""

    async def __call__(self) -> None:
        """Settle everything. Raises OrlopError when containerd goes away; the next connection does it again.

        The list of tasks is of one moment while requests go on: what a request has touched since is left to it.
        """
        was_running = {container.id for container in self._registry if container.record.state.running}
        tasks = {task.id: task for task in await self._client.tasks.list()}
        for container in self._registry:
            if not container.taken_up:
                container.taken_up = True
                running = container.id in was_running
                await self._logged(container, self._settle(container, tasks.get(container.id), running))
            if container.id in self._registry:
                self._forwarding.follow(container)
        self.settled.set()
        await self.sweep()
        await self._remove_orphans()
        await self._release_networks()
        await end_earlier(self._client)
        await self._start_wanted(was_running)

    async def again(self, catch_up: Callable[[], Awaitable[None]]) -> None:
        """What to do at each connection to containerd: everything at the first, later only what was missed."""
        if self._done:
            await catch_up()
            await self.sweep()
        else:
            await self()
            self._done = True

    # -- containers

    async def _settle(self, container: Container, task: Process | None, was_running: bool) -> None:
        state = container.record.state
        if task is not None and task.status == Status.UNKNOWN:
            task = await self._asked_again(container.id)
        if state.removing:
            await self._finish_removal(container, task)
        elif task is not None and task.status in (Status.RUNNING, Status.PAUSED, Status.PAUSING):
            await self._adopt(container, task, was_running)
        elif was_running and not state.restarting:
            await self._take_last_output(container)
            await self._missed_exit(container, task)
        elif task is not None:
            await self._discard(container)
        elif container.record.host_config.auto_remove and state.status == "exited":
            await self._remove.auto(container)

    async def _asked_again(self, container_id: str) -> Process | None:
        """A task whose shim was too slow for a list, as on a machine with much to do: that is not its end.

        Raises DeadlineExceededError: then the container stays as it is recorded.
        """
        try:
            async with asyncio.timeout(_SHIM_SECONDS):
                return await self._client.tasks.get(container_id)
        except NotFoundError:
            return None
        except TimeoutError:
            raise DeadlineExceededError(f"its shim has not answered for {_SHIM_SECONDS} s") from None

    async def _adopt(self, container: Container, task: Process, was_running: bool) -> None:
        """It runs: take it up where it is."""
        async with container.lock:
            state = container.record.state
            if was_running and not state.running:
                return  # its end was told meanwhile
            if not state.running:
                # The last daemon died between the start and noting it down; nobody waits for its end yet.
                task = await self._client.tasks.get(container.id)
                state.started_at = timestamps.now()
            state.running, state.restarting = True, False
            state.paused = task.status in (Status.PAUSED, Status.PAUSING)
            state.pid = task.pid
            self._take_up_networks(container)
            await container.attach.open(await self._streams.again(container.record))
            for extra in container.execs.values():
                if extra.record.running:
                    await extra.attach.open(await self._streams.exec_again(container.record, extra.record))
            self._registry.save(container)
            self._health.watch(container)
        if task.status == Status.STOPPED:
            await self._missed_exit(container, task)
        else:
            await self._exits.missed_execs(container)

    def _take_up_networks(self, container: Container) -> None:
        """The last daemon may have died between a change of its networks or ports and noting it down."""
        sandbox = self._networks.sandbox(container.id)
        if sandbox is None:
            return
        record = container.record
        record.endpoints = {
            name: record.endpoints.get(name, settings) for name, settings in sandbox.endpoints.items()
        }
        record.network.ports = msgspec.to_builtins(sandbox.ports)

    async def _take_last_output(self, container: Container) -> None:
        """On a shim that is not ours: copy what has been kept of its output."""
        if container.record.attach_socket:
            return
        try:
            await container.attach.open(await self._streams.again(container.record))
        except OrlopError as error:
            log.warning("container %s: its last output is lost: %s", container.id, error)

    async def _missed_exit(self, container: Container, task: Process | None) -> None:
        """It has ended while nobody looked: exit code and time are the task's, if there is one."""
        if task is None:
            await self._exits.container_ended(container, 0, LOST_EXIT_CODE, timestamps.now())
            return
        ended_at = task.exited_at.ToNanoseconds()
        await self._exits.container_ended(container, 0, task.exit_status, ended_at)

    async def _discard(self, container: Container) -> None:
        """A start that was not finished: nobody was told that it had happened."""
        async with container.lock:
            await discard(self._client, container)

    async def _finish_removal(self, container: Container, task: Process | None) -> None:
        if task is not None:
            await discard_task(self._client, container.id)
        await _if_there(self._client.containers.delete(container.id))
        await self._remove.destroy(container, volumes=container.record.host_config.auto_remove)

    async def _start_wanted(self, was_running: set[str]) -> None:
        limit = asyncio.Semaphore(_PARALLEL_STARTS)

        async def start(container: Container) -> None:
            async with limit:
                try:
                    await self._start.start(container, by_user=False)
                except UnavailableError:
                    self._exits.restart_later(container, ran=0)
                except NotModifiedError:
                    return
                except OrlopError as error:
                    log.error("container %s: %s", container.id, error)

        wanted = []
        for container in sorted(self._registry, key=lambda item: item.record.created):
            record = container.record
            state = record.state
            if container.id not in self._known or container.restart is not None or state.removing or state.dead:
                continue
            if state.running and not state.restarting:
                continue
            if record.state.restarting or wants_start(
                record.host_config.restart_policy,
                record.state.exit_code,
                by_user=record.manually_stopped,
                was_running=container.id in was_running,
                attempts=record.restart_count,
            ):
                record.state.running = record.state.restarting = True
                record.manually_stopped = False
                wanted.append(container)
        await asyncio.gather(*(start(container) for container in wanted))

    async def _logged(self, container: Container, work: Awaitable[None]) -> None:
        try:
            await work
        except NotModifiedError:
            return
        except OrlopError as error:
            log.error("container %s: %s", container.id, error)

    # -- what belongs to no container any more

    async def sweep(self) -> None:
        """Take away what containerd has of containers that do not run, or are no more.

        A daemon that died, or a containerd that went away in the middle of a start, leaves such things.
        """
        tasks = {task.id for task in await self._client.tasks.list()}
        records = await self._client.containers.list()
        ours = {found.id for found in records if CONTAINER_LABEL in found.labels}
        without_record = tasks - {found.id for found in records}
        for container_id in ours | without_record:
            container = self._registry.find(container_id)
            if container is not None:
                await self._logged(container, self._sweep(container))
            elif self._is_orphan(container_id):
                log.warning("removing what is left of container %s", container_id)
                await discard_task(self._client, container_id)
                await _if_there(self._client.containers.delete(container_id))
        for container in self._registry:
            if container.record.state.dead and container.record.host_config.auto_remove:
                await self._logged(container, self._remove.auto(container))

    async def _sweep(self, container: Container) -> None:
        if container.record.state.running and not container.record.state.restarting:
            return
        async with container.lock:
            state = container.record.state
            if not state.running or state.restarting:
                container.in_containerd = True
                await discard(self._client, container)

    async def _remove_orphans(self) -> None:
        """Snapshots and directories of containers that were never, or half, made."""
        snapshots = self._client.snapshots(self._snapshotter)
        async for info in snapshots.list(f'labels."{SNAPSHOT_LABEL}"'):
            if self._is_orphan(info.labels.get(SNAPSHOT_LABEL, "")):
                await _if_there(snapshots.remove(info.name))
        known = self._registry.ids()
        _remove_directories(self._paths.data(""), known)
        _remove_directories(self._paths.volatile(""), {container_id[:SHORT] for container_id in known})

    def _is_orphan(self, container_id: str) -> bool:
        return bool(container_id) and container_id not in self._registry.ids()

    async def _release_networks(self) -> None:
        running = {container.id for container in self._registry if container.record.state.running}
        for network in self._networks.list_networks():
            for container_id in self._networks.inspect_network(network["Id"]).get("Containers") or {}:
                container = self._registry.find(container_id)
                if container_id not in running and (container is None or not container.lock.locked()):
                    await self._networks.release(container_id)


def _remove_directories(parent: Path, known: set[str]) -> None:
    if not parent.is_dir():
        return
    for directory in parent.iterdir():
        if directory.name not in known:
            unmount_shm(str(directory / "shm"))
            shutil.rmtree(directory, ignore_errors=True)


async def _if_there(work: Awaitable[object]) -> None:
    try:
        await work
    except NotFoundError:
        return
