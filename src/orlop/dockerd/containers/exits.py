# SPDX-License-Identifier: Apache-2.0
"""What follows when a process has ended: settle the state, give resources back, restart or remove."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from orlop.api.task_types_pb2 import Status
from orlop.containerd.client import Client
from orlop.dockerd import timestamps
from orlop.dockerd.containers.container import Container, Exec
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.containers.resources import Resources
from orlop.dockerd.containers.restart_policy import next_delay, wants_restart
from orlop.dockerd.containers.start import delete_record
from orlop.errdefs import NotFoundError, NotModifiedError, OrlopError, UnavailableError

log = logging.getLogger("orlop.dockerd.exits")

LOST_EXIT_CODE = 255
"""The exit code of a process of which no trace is left."""


class Exits:
    """Settles ends of init processes and of execs, each once.

    `start` starts a container by its policy, `remove` removes one that has AutoRemove, `on_stopped` ends what
    watches a running container (health checks).
    """

    def __init__(
        self,
        registry: Registry,
        client: Client,
        resources: Resources,
        start: Callable[[Container], Awaitable[None]],
        remove: Callable[[Container], Awaitable[None]],
        on_stopped: Callable[[Container], None],
    ) -> None:
        self._registry = registry
        self._client = client
        self._resources = resources
        self._start = start
        self._remove = remove
        self._on_stopped = on_stopped

    async def container_ended(self, container: Container, pid: int, exit_code: int, ended_at: int) -> None:
        """The init process `pid` (0: whichever ran) has ended at a moment."""
        async with container.lock:
            state = container.record.state
            if not state.running or state.restarting or (pid and state.pid and pid != state.pid):
                return  # told twice, or of an earlier run
            self._on_stopped(container)
            ran = (ended_at - state.started_at) / timestamps.SECOND
            await self._release(container)
            restart = self._decide(container, exit_code)
            self._settle(container, exit_code, ended_at, restart)
            container.tell_ended()
            about = {"exitCode": str(exit_code), "execDuration": str(max(0, int(ran)))}
            self._registry.publish(container, "die", **about)
            if restart:
                self.restart_later(container, ran)
                return
            gone = self._removes_itself(container)
            if not gone:
                self._registry.save(container)
                container.tell_stopped()
        if gone:
            await self._auto_remove(container)

    async def exec_ended(self, container: Container, extra: Exec, exit_code: int) -> None:
        """An extra process has ended."""
        record = extra.record
        if extra.starting is not None:
            await asyncio.wait({extra.starting})
        if not record.running:
            return
        record.running, record.exit_code, record.pid = False, exit_code, 0
        await extra.attach.finish()
        self._registry.publish(container, "exec_die", execID=record.id, exitCode=str(exit_code))
        extra.ended.set()
        await asyncio.sleep(0)  # who has waited for this is answered first
        # If the daemon dies here, the next one asks containerd, which still knows how the process ended.
        self._registry.save_exec(extra)
        try:
            await self._client.tasks.delete_process(container.id, record.id)
        except OrlopError as error:
            log.debug("exec %s: %s", record.id, error)  # gone with its container

    async def missed_execs(self, container: Container) -> None:
        """Settle the ends of execs that were not told."""
        for extra in list(container.execs.values()):
            if not extra.record.running or extra.starting is not None:
                continue
            try:
                process = await self._client.tasks.get(container.id, extra.record.id)
            except NotFoundError:
                await self.exec_ended(container, extra, LOST_EXIT_CODE)
                continue
            if process.status == Status.STOPPED:
                await self.exec_ended(container, extra, process.exit_status)

    def out_of_memory(self, container: Container) -> None:
        """The kernel killed something in the container for want of memory."""
        container.record.state.oom_killed = True
        self._registry.save(container)
        self._registry.publish(container, "oom")

    # -- the steps

    async def _release(self, container: Container) -> None:
        """Task, streams, network, volumes; what fails is left to the next start of the container or the daemon."""
        steps = (self._delete_task(container), self._resources.give_back(container))
        for result in await asyncio.gather(*steps, return_exceptions=True):
            if isinstance(result, OrlopError):
                log.warning("container %s: after its end: %s", container.id, result)
            elif isinstance(result, BaseException):
                raise result

    async def _delete_task(self, container: Container) -> None:
        await container.attach.finish()
        try:
            await self._client.tasks.delete(container.id)
        except NotFoundError:
            pass  # taken away by somebody else, or lost with the machine's last boot
        await delete_record(self._client, container)
        for extra in container.execs.values():
            if extra.record.running:
                # Nothing survives the init process of a pid namespace.
                extra.record.running, extra.record.exit_code = False, 137
                await extra.attach.finish()
                self._registry.save_exec(extra)
                extra.ended.set()

    def _decide(self, container: Container, exit_code: int) -> bool:
        record = container.record
        by_user = container.no_restart or record.manually_stopped
        policy = record.host_config.restart_policy
        unhealthy = record.state.health is not None and record.state.health.status == "unhealthy"
        return wants_restart(
            policy, exit_code, by_user=by_user, attempts=record.restart_count, unhealthy=unhealthy
        )

    def _settle(self, container: Container, exit_code: int, ended_at: int, restart: bool) -> None:
        state = container.record.state
        state.exit_code, state.finished_at = exit_code, ended_at
        state.pid, state.paused = 0, False
        state.running = state.restarting = restart
        if restart:
            container.record.restart_count += 1
            self._registry.save(container)

    def _removes_itself(self, container: Container) -> bool:
        record = container.record
        by_somebody = container.restarting_by_user or record.state.removing
        return record.host_config.auto_remove and not by_somebody

    async def _auto_remove(self, container: Container) -> None:
        try:
            await self._remove(container)
        except OrlopError as error:
            log.warning("container %s: auto-remove: %s", container.id, error)

    async def _restart_later(self, container: Container) -> None:
        await asyncio.sleep(container.backoff)
        container.restart = None
        try:
            await self._start(container)
        except NotModifiedError:
            return  # a user was faster
        except UnavailableError as error:
            log.warning("container %s: restart: %s; trying again", container.id, error)
            self.restart_later(container, ran=0)
        except OrlopError as error:
            log.error("container %s: restart: %s", container.id, error)

    def restart_later(self, container: Container, ran: float) -> None:
        """Plan the restart policy's next attempt, after a run of `ran` seconds."""
        container.backoff = next_delay(container.backoff, ran)
        container.restart = asyncio.ensure_future(self._restart_later(container))
