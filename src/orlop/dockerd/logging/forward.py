# SPDX-License-Identifier: Apache-2.0
"""Brings the logs of containers to their collectors.

The shim writes every line to a file, whatever the driver is, and knows no collector: a container never waits for
one, and loses nothing while dockerd, or the collector, is away. dockerd reads that file and sends it on, from a
position that it keeps beside it.
"""

import asyncio
import logging
import os
from typing import Any

from orlop.dockerd import timestamps
from orlop.dockerd.containers.container import Container
from orlop.dockerd.containers.model import ContainerRecord
from orlop.dockerd.containers.paths import Paths
from orlop.dockerd.logging.about import attributes, command, tag
from orlop.dockerd.logging.collector import Collector, Message
from orlop.dockerd.logging.options import cache_disabled, rotation, sends_away
from orlop.dockerd.logging.place import place
from orlop.dockerd.logging.spool import Spool
from orlop.dockerd.logging.watcher import Watcher
from orlop.errdefs import OrlopError, UnavailableError

log = logging.getLogger("orlop.dockerd.logging")

CLOSE_SECONDS = 10.0
"""How long the removal of a container waits for its last lines to be sent."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0
_FAILURES = (OSError, TimeoutError, OrlopError)


def collector_for(record: ContainerRecord) -> Collector:
    """The collector that a container's options name. Raises InvalidArgumentError."""
    config = record.host_config.log_config
    if config.type == "syslog":
        from orlop.dockerd.logging.syslog import Syslog

        return Syslog(config.config, tag(record))
    if config.type == "fluentd":
        from orlop.dockerd.logging.fluentd import Fluentd

        about = {"container_id": record.id, "container_name": f"/{record.name}", **attributes(record)}
        return Fluentd(config.config, tag(record), about)
    if config.type == "gelf":
        from orlop.dockerd.logging.gelf import Gelf

        return Gelf(config.config, {**_gelf_fields(record), **attributes(record)})
    from orlop.dockerd.logging.journald import Journald, field_name

    return Journald({**_journal_fields(record), **attributes(record, field_name)})


def _gelf_fields(record: ContainerRecord) -> dict[str, str]:
    return {
        "_container_id": record.id,
        "_container_name": record.name,
        "_image_id": record.image_id,
        "_image_name": record.config.image,
        "_command": command(record),
        "_tag": tag(record),
        "_created": timestamps.rfc3339(record.created),
    }


def _journal_fields(record: ContainerRecord) -> dict[str, str]:
    return {
        "CONTAINER_ID": record.id[:12],
        "CONTAINER_ID_FULL": record.id,
        "CONTAINER_NAME": record.name,
        "CONTAINER_TAG": tag(record),
        "IMAGE_NAME": record.config.image,
        "SYSLOG_IDENTIFIER": tag(record),
    }


class Forwarding:
    """The logs that are being sent, one task a container."""

    def __init__(self, paths: Paths, watcher: Watcher) -> None:
        self._paths = paths
        self._watcher = watcher
        self._going: dict[str, _Going] = {}

    async def begin(self, container: Container) -> None:
        """Before a start: see that the collector is there. Raises UnavailableError, InvalidArgumentError."""
        if not sends_away(container.record.host_config.log_config):
            return
        collector = collector_for(container.record)
        if not collector.connects_first():
            return
        try:
            await collector.connect()
        except (OSError, TimeoutError) as error:
            raise UnavailableError(f"failed to initialize logging driver: {_words(error)}") from None
        finally:
            await collector.close()

    def follow(self, container: Container) -> None:
        """Send what there is and what comes, until the container has stopped and all is sent."""
        if not sends_away(container.record.host_config.log_config):
            return
        going = self._going.get(container.id)
        if going is not None and not going.task.done():
            going.again = True
            return
        going = self._going[container.id] = _Going()
        going.task = asyncio.ensure_future(self._run(container, going))

    async def finish(self, container: Container) -> None:
        """Before a removal: wait for the last lines, but not for ever."""
        going = self._going.pop(container.id, None)
        if going is None:
            return
        if not going.ending.done():
            going.ending.set_result(None)
        await asyncio.wait({going.task}, timeout=CLOSE_SECONDS)
        if not going.task.done():
            log.warning("container %s: its logs are truncated: the collector does not take them", container.id)
            await _stop(going.task)

    async def close(self) -> None:
        """Send no more; the next daemon goes on where this one stopped."""
        for going in self._going.values():
            await _stop(going.task)
        self._going.clear()

    async def _run(self, container: Container, going: "_Going") -> None:
        try:
            while going.again:
                going.again = False
                await self._send_all(container, going.ending)
        except _FAILURES as error:
            log.error("container %s: its log is not sent any more: %s", container.id, error)

    async def _send_all(self, container: Container, ending: "asyncio.Future[None]") -> None:
        record = container.record
        directory = self._paths.data(record.id)
        found = place(record, directory)
        if found is None:
            return
        config = record.host_config.log_config
        kept = 1 if cache_disabled(config) else rotation(config).files
        watch = self._watcher.watch(str(directory))
        spool = Spool(found.path, found.form, str(directory / "log-position"), kept)
        sender = _Sender(record.id, collector_for(record))
        stopped: asyncio.Future[Any] | None = None
        try:
            while True:
                if stopped is None or stopped.done():
                    stopped = container.on_stop() if container.record.state.running else None
                over = stopped is None or ending.done()
                while (batch := await asyncio.to_thread(spool.read)) is not None:
                    await sender.send(batch.messages)
                    spool.done(batch)
                if over or stopped is None:
                    return
                await watch.wait(stopped, ending)
        finally:
            watch.close()
            spool.close()
            await sender.close()


class _Going:
    """One log that is being sent. `again`: there may be something new, even if the task is about to end."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None]
        self.ending: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.again = True


class _Sender:
    """A collector that is connected again whenever it fails, for as long as it takes."""

    def __init__(self, container_id: str, collector: Collector) -> None:
        self._id = container_id
        self._collector = collector
        self._connected = False

    async def send(self, messages: list[Message]) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                if not self._connected:
                    await self._collector.connect()
                    self._connected = True
                await self._collector.send(messages)
            except _FAILURES as error:
                level = logging.WARNING if pause == _FIRST_PAUSE else logging.DEBUG
                log.log(level, "container %s: its log is not taken: %s; trying again", self._id, _words(error))
                await self.close()
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            if pause != _FIRST_PAUSE:
                log.info("container %s: its log is taken again", self._id)
            return

    async def close(self) -> None:
        self._connected = False
        await self._collector.close()


async def _stop(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait({task})


def _words(error: BaseException) -> str:
    number = getattr(error, "errno", None)
    # asyncio's own words for a refused connection do not say that it was refused.
    return (os.strerror(number).lower() if isinstance(number, int) else str(error)) or type(error).__name__
