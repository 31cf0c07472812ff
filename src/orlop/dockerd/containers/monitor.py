# SPDX-License-Identifier: Apache-2.0
"""Follows containerd's task events, and catches up after containerd was away."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from orlop.api import events_pb2
from orlop.api.task_types_pb2 import Status
from orlop.api.types_pb2 import Envelope
from orlop.containerd.client import Client, typeurl
from orlop.dockerd import timestamps
from orlop.dockerd.containers.container import Container
from orlop.dockerd.containers.exits import LOST_EXIT_CODE, Exits
from orlop.dockerd.containers.registry import Registry
from orlop.errdefs import OrlopError

log = logging.getLogger("orlop.dockerd.monitor")

_RETRY_SECONDS = 0.2


class Monitor:
    """One subscription: events of one container are handled in order, of different ones side by side."""

    def __init__(self, registry: Registry, client: Client, exits: Exits) -> None:
        self._registry = registry
        self._client = client
        self._exits = exits
        self._queues: dict[str, asyncio.Queue[Awaitable[None]]] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self.connected = asyncio.Event()
        """Set while events arrive."""

    async def run(self, resync: Callable[[], Awaitable[None]]) -> None:
        """Follow until cancelled. `resync` runs after each connection until it succeeds; events come before."""
        mine = f"namespace=={self._client.namespace}"
        topics = [f'{mine},topic=="{topic}"' for topic in ("/tasks/exit", "/tasks/oom")]
        away = False
        while True:
            try:
                async with self._client.events.subscribe(*topics) as events:
                    if away:
                        log.info("containerd is back")
                    away = False
                    self.connected.set()
                    catching_up = asyncio.ensure_future(self._catch_up(resync))
                    try:
                        async for envelope in events:
                            self._dispatch(envelope)
                    finally:
                        catching_up.cancel()
            except OrlopError as error:
                if not away:
                    log.warning("containerd is away: %s", error)
                away = True
            self.connected.clear()
            # Nothing tells when a daemon listens again: ask a few times a second.
            await asyncio.sleep(_RETRY_SECONDS)

    async def _catch_up(self, resync: Callable[[], Awaitable[None]]) -> None:
        told = ""
        while True:
            try:
                await resync()
                return
            except OrlopError as error:
                if told != str(error):
                    log.warning("catching up with containerd: %s; trying again", error)
                told = str(error)
            await asyncio.sleep(_RETRY_SECONDS)

    async def close(self) -> None:
        """Stop the workers."""
        for worker in self._workers:
            worker.cancel()
        if self._workers:
            await asyncio.wait(self._workers)

    async def catch_up(self) -> None:
        """Compare what should run with containerd's tasks; settle the ends that were missed.

        Raises OrlopError if containerd goes away meanwhile: the next connection does it again.
        """
        # The pids of before the list: a run that began later is another one.
        pids = {container.id: container.record.state.pid for container in self._registry if _runs(container)}
        tasks = {task.id: task for task in await self._client.tasks.list()}
        for container_id, pid in pids.items():
            container = self._registry.find(container_id)
            if container is None:
                continue
            task = tasks.get(container_id)
            if task is None:
                log.warning("container %s: its task is gone", container_id)
                lost = self._exits.container_ended(container, pid, LOST_EXIT_CODE, timestamps.now())
                self._later(container, lost)
            elif task.status == Status.STOPPED:
                ended_at = task.exited_at.ToNanoseconds()
                self._later(
                    container, self._exits.container_ended(container, task.pid, task.exit_status, ended_at)
                )
            else:
                self._later(container, self._exits.missed_execs(container))

    # -- events

    def _dispatch(self, envelope: Envelope) -> None:
        if envelope.topic == "/tasks/exit":
            ended = typeurl.unpack(envelope.event, events_pb2.TaskExit)
            container = self._registry.find(ended.container_id)
            if container is not None:
                self._ended(container, ended)
        elif envelope.topic == "/tasks/oom":
            oom = typeurl.unpack(envelope.event, events_pb2.TaskOOM)
            container = self._registry.find(oom.container_id)
            if container is not None:
                self._exits.out_of_memory(container)

    def _ended(self, container: Container, ended: events_pb2.TaskExit) -> None:
        if ended.id == container.id:
            moment = ended.exited_at.ToNanoseconds()
            self._later(container, self._exits.container_ended(container, ended.pid, ended.exit_status, moment))
            return
        extra = container.execs.get(ended.id)
        if extra is not None:
            self._later(container, self._exits.exec_ended(container, extra, ended.exit_status))

    def _later(self, container: Container, work: Awaitable[None]) -> None:
        queue = self._queues.get(container.id)
        if queue is None:
            queue = self._queues[container.id] = asyncio.Queue()
            worker = asyncio.ensure_future(self._work(container, queue))
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        queue.put_nowait(work)

    async def _work(self, container: Container, queue: "asyncio.Queue[Awaitable[None]]") -> None:
        while True:
            work = queue.get_nowait()
            try:
                await work
            except OrlopError as error:
                log.error("container %s: %s", container.id, error)
            except Exception:  # a defect must not stop the events of every other run
                log.exception("container %s: an event could not be handled", container.id)
            if queue.empty():
                del self._queues[container.id]
                return


def _runs(container: Container) -> bool:
    """Whether there should be a task with a known pid, and no request is about to change that."""
    state = container.record.state
    return state.running and not state.restarting and state.pid > 0 and not container.lock.locked()
