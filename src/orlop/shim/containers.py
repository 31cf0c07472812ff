# SPDX-License-Identifier: Apache-2.0
"""The containers of a shim and their processes: what state they are in and what may happen next.

A process is created, running and stopped, in this order; a container's init may also be paused. `Container` keeps
the order of events: the exit of init is told only after every exec that ran has been told to have exited.
"""

import os
import signal
from collections.abc import Callable
from typing import NamedTuple

from orlop.errdefs import FailedPreconditionError, InvalidArgumentError, NotFoundError
from orlop.shim.io.streams import Streams
from orlop.shim.loop import Future, Lock
from orlop.shim.reaper import Exit, Reaper
from orlop.shim.runtime import Runtime, Started

CREATED = 1
RUNNING = 2
STOPPED = 3
PAUSED = 4
"""As containerd.v1.types.Status numbers them."""


class Checkpoint(NamedTuple):
    """What a container is restored from: the directory of the images, and one for CRIU's logs."""

    path: str
    work_path: str


class Process:
    """One process: init (`exec_id` is empty) or an exec."""

    def __init__(self, exec_id: str, streams: Streams) -> None:
        self.exec_id = exec_id
        self.streams = streams
        self.pid = 0
        self.status = CREATED
        self.exit: Exit | None = None
        self.ended: Future[Exit] = Future()
        self.lock = Lock()

    def settle(self, ended: Exit) -> None:
        """Record how it ended."""
        self.status = STOPPED
        self.exit = ended
        self.ended.set_result(ended)

    def begun(self, started: Started) -> None:
        """Record that it exists, with its terminal."""
        self.pid = started.pid
        if started.console is not None:
            self.streams.console(started.console)
        self.streams.started()


class Exec(Process):
    """A process that joins a container: `spec` is the JSON of an OCI Process that says what to run."""

    def __init__(self, exec_id: str, streams: Streams, spec: bytes) -> None:
        super().__init__(exec_id, streams)
        self.spec = spec


class Container:
    """A container with its processes. `on_exit(process)` is called for each exit, in the order to publish."""

    def __init__(
        self,
        container_id: str,
        bundle: str,
        runtime: Runtime,
        reaper: Reaper,
        init: Process,
        *,
        shared_pids: bool,
        on_exit: Callable[[Process], None],
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """With a `checkpoint` nothing is made before `start`, which restores it."""
        self.checkpoint = checkpoint
        self.id = container_id
        self.bundle = bundle
        self.runtime = runtime
        self.init = init
        self.execs: dict[str, Exec] = {}
        self._reaper = reaper
        self._shared_pids = shared_pids
        self._on_exit = on_exit
        self._running_execs = 0
        self._init_exit: Exit | None = None
        self._starting = False
        self.kill_orphans: Callable[[], None] = lambda: None
        self.rootfs_may_end_later = False

    def process(self, exec_id: str) -> Process:
        """Init, or an exec by its id. Raises NotFoundError."""
        if not exec_id:
            return self.init
        found = self.execs.get(exec_id)
        if found is None:
            raise NotFoundError(f"process {exec_id}: not found")
        return found

    async def create(self, terminal: bool) -> None:
        """Make the container, with init blocked; one that is to be restored is made at its start."""
        if self.checkpoint is not None:
            return
        started = await self.runtime.create(self.init.streams.child, terminal)
        try:
            self.init.begun(started)
        except BaseException:
            await self.runtime.delete(True)
            raise

    def watch_init(self) -> None:
        """Hear of init's exit; call when the event of its creation has been published."""
        self._reaper.watch(self.init.pid, self._init_exited)

    async def start(self) -> None:
        """Let init run; `started` must follow once the event has been published."""
        init = self.init
        if init.status != CREATED:
            raise FailedPreconditionError(f"cannot start a {_NAMES[init.status]} container")
        self._starting = True
        try:
            if self.checkpoint is None:
                await self.runtime.start()
            else:
                await self._restore(self.checkpoint)
        except BaseException:
            self.started()
            raise
        init.status = RUNNING
        init.streams.running()

    async def _restore(self, checkpoint: Checkpoint) -> None:
        streams = self.init.streams
        started = await self.runtime.restore(*checkpoint, streams.child, streams.terminal)
        try:
            self.init.begun(started)
        except BaseException:
            await self.runtime.delete(True)
            raise

    def started(self) -> None:
        """Init's exit may be told now, if it has come already."""
        self._starting = False
        if self._init_exit is not None and not self._running_execs and self.init.status != STOPPED:
            self._tell_init_exit()

    async def start_exec(self, process: Exec) -> None:
        """Run an exec; `watch_exec` must follow once the event has been published."""
        if process.status != CREATED or process.pid:
            raise FailedPreconditionError(f"process {process.exec_id} has been started already")
        if self._init_exit is not None or self.init.status == STOPPED:
            raise FailedPreconditionError(f"container {self.id} init process is not running")
        if self.init.status == PAUSED:
            raise FailedPreconditionError(f"cannot exec in paused container {self.id}")
        self._running_execs += 1
        try:
            started = await self.runtime.exec(process.spec, process.streams.child, process.streams.terminal)
        except BaseException:
            self._exec_over()
            raise
        process.begun(started)
        process.status = RUNNING
        process.streams.running()

    def watch_exec(self, process: Exec) -> None:
        """Hear of an exec's exit."""
        self._reaper.watch(process.pid, lambda ended: self._exec_exited(process, ended))

    def _exec_exited(self, process: Exec, ended: Exit) -> None:
        process.settle(ended)
        process.streams.exited()
        self._on_exit(process)
        self._exec_over()

    def _exec_over(self) -> None:
        self._running_execs -= 1
        if not self._running_execs and self._init_exit is not None and self.init.status != STOPPED:
            self._tell_init_exit()

    def _init_exited(self, ended: Exit) -> None:
        self._init_exit = ended
        if self._shared_pids:  # otherwise the kernel has killed all others with it
            self.kill_orphans()
        if not self._running_execs and not self._starting:
            self._tell_init_exit()

    def _tell_init_exit(self) -> None:
        assert self._init_exit is not None
        self.init.settle(self._init_exit)
        self.init.streams.exited()
        self._on_exit(self.init)

    async def kill(self, exec_id: str, number: int, all_processes: bool) -> None:
        """Send a signal. Raises NotFoundError when the process is over."""
        process = self.process(exec_id)
        if number < 0 or number > signal.NSIG:
            raise InvalidArgumentError(f"signal {number} does not exist")
        if exec_id and not process.pid:
            raise FailedPreconditionError(f"process {exec_id} is not running")
        if process.exit is not None or (not exec_id and self._init_exit is not None):
            raise NotFoundError("process already finished")
        if not exec_id:
            await self.runtime.kill(number or int(signal.SIGTERM), all_processes)
            return
        try:
            os.kill(process.pid, number)  # our own child that has not been reaped: the pid is its own
        except ProcessLookupError:
            raise NotFoundError("process already finished") from None

    async def pause(self) -> None:
        """Freeze every process."""
        if self.init.status != RUNNING:
            raise FailedPreconditionError(f"cannot pause a {_NAMES[self.init.status]} container")
        await self.runtime.pause()
        if self.init.status == RUNNING:
            self.init.status = PAUSED

    async def resume(self) -> None:
        """Thaw every process."""
        if self.init.status != PAUSED:
            raise FailedPreconditionError(f"cannot resume a {_NAMES[self.init.status]} container")
        await self.runtime.resume()
        if self.init.status == PAUSED:
            self.init.status = RUNNING

    async def delete_exec(self, exec_id: str) -> Process:
        """Forget an exec that is not running."""
        process = self.process(exec_id)
        async with process.lock:
            if process.status == RUNNING:
                raise FailedPreconditionError("cannot delete a running process")
            if self.execs.pop(exec_id, None) is not None:
                process.streams.close()
        return process

    async def delete(self) -> None:
        """Remove what the runtime keeps; init must not run. Streams and rootfs are the caller's."""
        async with self.init.lock:
            if self.init.status not in (STOPPED, CREATED):
                raise FailedPreconditionError(f"cannot delete a {_NAMES[self.init.status]} container")
            force = self.init.status == CREATED
            await self.runtime.delete(force)
            if force and self.init.pid:
                await self.init.ended


_NAMES = {CREATED: "created", RUNNING: "running", STOPPED: "stopped", PAUSED: "paused"}
