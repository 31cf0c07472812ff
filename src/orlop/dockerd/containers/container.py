# SPDX-License-Identifier: Apache-2.0
"""A container as it lives in the daemon: its record, its lock, and those who wait for it."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from orlop.api.types_pb2 import Mount
from orlop.dockerd.containers.attach_point import AttachPoint
from orlop.dockerd.containers.model import ContainerRecord, ExecRecord
from orlop.errdefs import ConflictError
from orlop.oci.runtime import Process


class ExitInfo(NamedTuple):
    """How a container ended; `error` is set where it could not start."""

    code: int
    error: str = ""


class Exec:
    """An extra process: its record, its stream and the end that others wait for."""

    def __init__(self, record: ExecRecord) -> None:
        self.record = record
        self.attach = AttachPoint()
        self.begun = asyncio.Event()
        """Its start has been asked for."""
        self.ended = asyncio.Event()
        self.starting: asyncio.Future[None] | None = None
        """Resolves when the start is settled: an end that is told earlier waits for it."""


class Container:
    """One container. `lock` is held by whoever starts, settles the exit of, renames or removes it.

    Waiting for a process to end happens without the lock.
    """

    def __init__(self, record: ContainerRecord) -> None:
        self.record = record
        self.lock = asyncio.Lock()
        self.attach = AttachPoint()
        self.execs: dict[str, Exec] = {}
        self.rootfs: Sequence[Mount] | None = None
        """The snapshot's mounts, as the snapshotter gave them; None: to be asked for."""
        self.process: Process | None = None
        """The init process as it was specified, what execs are modelled on; None: to be asked for."""
        self.restart: asyncio.Task[None] | None = None
        """The restart policy's next attempt."""
        self.backoff = 0.0
        """Seconds before the latest attempt."""
        self.taken_up = False
        """This daemon has made or started it, or compared it with containerd: nothing older counts any more."""
        self.in_containerd = True
        """containerd may have a record of it, as while the container runs; after a restart nobody knows."""
        self.no_restart = False
        """A user wants this run to be the last."""
        self.restarting_by_user = False
        """`docker restart` is between its stop and its start: no auto-remove."""
        self._ended: list[asyncio.Future[ExitInfo]] = []
        self._stopped: list[asyncio.Future[ExitInfo]] = []
        self._removed: list[asyncio.Future[ExitInfo]] = []

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def last_exit(self) -> ExitInfo:
        """How the latest run ended."""
        return ExitInfo(self.record.state.exit_code, self.record.state.error)

    def on_end(self) -> "asyncio.Future[ExitInfo]":
        """Resolves when this run has ended, whatever follows, or the container stops for good."""
        return _wait_in(self._ended)

    def on_stop(self) -> "asyncio.Future[ExitInfo]":
        """Resolves when the container has stopped for good (a restart by policy is no stop)."""
        return _wait_in(self._stopped)

    def on_remove(self) -> "asyncio.Future[ExitInfo]":
        """Resolves when the container is gone."""
        return _wait_in(self._removed)

    def tell_ended(self) -> None:
        """Wake those who wait for the end of this run."""
        _resolve(self._ended, self.last_exit)

    def tell_stopped(self) -> None:
        """Wake those who wait for the stop."""
        self.tell_ended()
        _resolve(self._stopped, self.last_exit)

    async def tell_removed(self, error: str = "") -> None:
        """Wake everybody: the container is gone, or (`error`) its removal has failed."""
        info = ExitInfo(self.record.state.exit_code, error)
        _resolve(self._ended, info)
        _resolve(self._stopped, info)
        _resolve(self._removed, info)
        await self.attach.abandon()

    def check_running(self) -> None:
        """Raise ConflictError unless the container runs."""
        state = self.record.state
        if not state.running:
            raise ConflictError(f"container {self.id} is not running")
        if state.restarting:
            raise ConflictError(f"Container {self.id} is restarting, wait until the container is running")


def _wait_in(futures: "list[asyncio.Future[ExitInfo]]") -> "asyncio.Future[ExitInfo]":
    futures[:] = [future for future in futures if not future.done()]  # those who gave up
    futures.append(asyncio.get_running_loop().create_future())
    return futures[-1]


def _resolve(futures: "list[asyncio.Future[ExitInfo]]", value: ExitInfo) -> None:
    for future in futures:
        if not future.done():
            future.set_result(value)
    futures.clear()
