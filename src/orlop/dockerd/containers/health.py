# SPDX-License-Identifier: Apache-2.0
"""Health checks: a probe in the container every interval, and what its results say about the container."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable

import msgspec

from orlop import codec
from orlop.containerd.client import Client, typeurl
from orlop.dockerd import timestamps
from orlop.dockerd.containers.attach_point import Wanted
from orlop.dockerd.containers.container import Container
from orlop.dockerd.containers.exec_process import exec_process
from orlop.dockerd.containers.model import ExecRecord, Health, HealthResult
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.containers.streams import Streams
from orlop.dockerd.spec import Host
from orlop.engine.types import HealthConfig
from orlop.errdefs import NotFoundError, OrlopError
from orlop.oci.runtime import Process
from orlop.rpc import stdcopy

log = logging.getLogger("orlop.dockerd.health")

_DEFAULT_INTERVAL = 30 * timestamps.SECOND
_DEFAULT_TIMEOUT = 30 * timestamps.SECOND
_DEFAULT_START_INTERVAL = 5 * timestamps.SECOND
_DEFAULT_RETRIES = 3
_KEPT_RESULTS = 5
_OUTPUT_LIMIT = 4096
TIMED_OUT = -1


class HealthMonitor:
    """One task a running container that has a health check.

    `on_unhealthy` hears of each failed probe of a container that counts as unhealthy.
    """

    def __init__(
        self,
        registry: Registry,
        client: Client,
        streams: Streams,
        host: Host,
        on_unhealthy: Callable[[Container], None],
    ) -> None:
        self._registry = registry
        self._client = client
        self._streams = streams
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._capabilities = host.capabilities
        self._on_unhealthy = on_unhealthy
        self.checks = self.failed_checks = 0
        """How many probes there have been, and how many of them failed."""

    def watch(self, container: Container) -> None:
        """Begin with a container that has started; state is kept if it was running already."""
        config = container.record.config.healthcheck
        self.unwatch(container)
        if config is None or not config.test or config.test[0] == "NONE":
            container.record.state.health = None
            return
        if container.record.state.health is None:
            container.record.state.health = Health()
        self._tasks[container.id] = asyncio.ensure_future(self._run(container, config))

    def unwatch(self, container: Container) -> None:
        """Stop: the container has ended."""
        task = self._tasks.pop(container.id, None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Stop all."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, container: Container, config: HealthConfig) -> None:
        while True:
            await asyncio.sleep(self._pause(container, config) / timestamps.SECOND)
            if container.record.state.paused:
                continue
            try:
                result = await self._probe(container, config)
            except OrlopError as error:
                moment = timestamps.now()
                result = HealthResult(start=moment, end=moment, exit_code=TIMED_OUT, output=str(error))
            if container.record.state.running and not container.record.state.restarting:
                self._note(container, config, result)

    def _pause(self, container: Container, config: HealthConfig) -> int:
        state = container.record.state
        starting = state.health is not None and state.health.status == "starting"
        if starting and timestamps.now() - state.started_at < config.start_period:
            return config.start_interval or _DEFAULT_START_INTERVAL
        return config.interval or _DEFAULT_INTERVAL

    def _note(self, container: Container, config: HealthConfig, result: HealthResult) -> None:
        self.checks += 1
        self.failed_checks += result.exit_code != 0
        state = container.record.state
        if state.health is None:
            return
        changed = next_status(state.health, result, config, in_start_period=_in_start_period(container, config))
        state.health.log = [*state.health.log, result][-_KEPT_RESULTS:]
        if changed:
            self._registry.save(container)
            self._registry.publish(container, f"health_status: {state.health.status}")
        if state.health.status == "unhealthy":
            self._on_unhealthy(container)

    # -- the probe

    async def _probe(self, container: Container, config: HealthConfig) -> HealthResult:
        record = ExecRecord(
            id=secrets.token_hex(32), container_id=container.id, args=_command(container, config), open_stdout=True
        )
        started = timestamps.now()
        timeout = (config.timeout or _DEFAULT_TIMEOUT) / timestamps.SECOND
        base = await self._base(container)
        process = exec_process(base, container.record, record, base.user, self._capabilities)
        source, stdio = await self._streams.exec(container.record, record)
        await self._client.tasks.exec(
            container.id,
            record.id,
            typeurl.pack_json(typeurl.PROCESS, process),
            stdout=stdio.stdout,
            stderr=stdio.stderr,
        )
        output = bytearray()
        stream = None
        try:
            stream = await source.connect(Wanted())
            await self._client.tasks.start(container.id, record.id)
            reading = asyncio.ensure_future(_collect(stream.read, output))
            waiting = asyncio.ensure_future(self._client.tasks.wait(container.id, record.id))
            try:
                done, _ = await asyncio.wait({waiting}, timeout=timeout)
                if not done:
                    await self._kill(container, record)
                    text = f"Health check exceeded timeout ({timeout:g}s)"
                    if output:
                        text += f": {output.decode('utf-8', 'replace')}"
                    return HealthResult(start=started, end=timestamps.now(), exit_code=TIMED_OUT, output=text)
                code = waiting.result().exit_status
                await asyncio.wait({reading}, timeout=1)
            finally:
                reading.cancel()
                waiting.cancel()
                await asyncio.wait({reading, waiting})
        finally:
            if stream is not None:
                stream.close()
            await asyncio.shield(self._discard(container, record))
            await source.finish()
        return HealthResult(
            start=started,
            end=timestamps.now(),
            exit_code=code,
            output=output[:_OUTPUT_LIMIT].decode("utf-8", "replace"),
        )

    async def _base(self, container: Container) -> Process:
        if container.process is None:
            spec = (await self._client.containers.get(container.id)).spec
            container.process = codec.decode(spec.value, _SpecProcess).process
        return container.process

    async def _kill(self, container: Container, record: ExecRecord) -> None:
        try:
            await self._client.tasks.kill(container.id, 9, exec_id=record.id)
            await self._client.tasks.wait(container.id, record.id)
        except NotFoundError:
            return

    async def _discard(self, container: Container, record: ExecRecord) -> None:
        try:
            await self._client.tasks.delete_process(container.id, record.id)
        except OrlopError as error:
            log.debug("health check of %s: %s", container.id, error)


class _SpecProcess(msgspec.Struct):
    process: Process


def _in_start_period(container: Container, config: HealthConfig) -> bool:
    return timestamps.now() - container.record.state.started_at < config.start_period


def next_status(health: Health, result: HealthResult, config: HealthConfig, *, in_start_period: bool) -> bool:
    """Take a result into account; whether the status has changed. Pure but for `health`."""
    before = health.status
    if result.exit_code == 0:
        health.failing_streak = 0
        health.status = "healthy"
    elif not (in_start_period and before == "starting"):
        health.failing_streak += 1
        if health.failing_streak >= (config.retries or _DEFAULT_RETRIES):
            health.status = "unhealthy"
    return health.status != before


def _command(container: Container, config: HealthConfig) -> list[str]:
    if config.test[0] == "CMD-SHELL":
        return [*(container.record.config.shell or ["/bin/sh", "-c"]), *config.test[1:]]
    return config.test[1:] if config.test[0] == "CMD" else config.test


async def _collect(read: Callable[[], Awaitable[bytes]], output: bytearray) -> None:
    decoder = stdcopy.Decoder()
    while data := await read():
        for _, payload in decoder.feed(data):
            if len(output) < _OUTPUT_LIMIT:
                output += payload
