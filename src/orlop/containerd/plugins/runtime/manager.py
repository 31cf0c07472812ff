# SPDX-License-Identifier: Apache-2.0
"""The task manager: creates tasks, finds them again after a restart, and cleans up after shims that died."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import TYPE_CHECKING, Any, TypeVar

from orlop.api import events_pb2
from orlop.containerd.core.runtime import TASK_DELETE, TASK_EXIT, CreateOptions, Exit
from orlop.containerd.failpoints import failpoint
from orlop.containerd.plugins.runtime.binary import ORLOP_RUNTIME, Environment, is_orlop, program_of
from orlop.containerd.plugins.runtime.bundle import TASK_DIRECTORY, bundle_at, remove_hidden
from orlop.containerd.plugins.runtime.shim import Shim
from orlop.containerd.plugins.runtime.starter import ShimStarter
from orlop.errdefs import (
    AlreadyExistsError,
    DeadlineExceededError,
    NotFoundError,
    OrlopError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from orlop.containerd.core.events import EventPublisher
    from orlop.containerd.plugins.runtime.bundle import Bundle
    from orlop.containerd.plugins.runtime.zygote import Zygote

T = TypeVar("T")

log = logging.getLogger("containerd.tasks")

_LOADS = 8  # shims that are reconnected to at a time
_STATE_TRIES, _STATE_PAUSE = 20, 0.05  # times and seconds


class Timeouts:
    """Seconds that a shim is given."""

    def __init__(self, load: float = 5.0, cleanup: float = 5.0, shutdown: float = 3.0) -> None:
        self.load = load
        self.cleanup = cleanup
        self.shutdown = shutdown


class TaskManager:
    """Implements `core.runtime.TaskManager`. All calls are made in the thread of the event loop."""

    def __init__(
        self,
        root: str,
        state: str,
        events: EventPublisher,
        environment: Environment,
        zygote: Zygote | None,
        runtime_of: Callable[[str, str], str],
        timeouts: Timeouts | None = None,
    ) -> None:
        """`root` and `state` are the daemon's. `runtime_of` gives the runtime in a container's record (namespace,
        id); it raises NotFoundError."""
        self._root = root
        self._state = state
        self._events = events
        self._runtime_of = runtime_of
        self._timeouts = timeouts or Timeouts()
        self._starter = ShimStarter(environment, zygote, self._timeouts.cleanup)
        self._shims: dict[tuple[str, str], Shim] = {}
        self._creating: set[tuple[str, str]] = set()
        self._ending: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[Any]] = set()

    def get(self, namespace: str, id: str) -> Shim:
        """As the contract says."""
        shim = self._shims.get((namespace, id))
        if shim is None:
            raise NotFoundError(f"task {id}: not found")
        return shim

    def list(self, namespace: str) -> Sequence[Shim]:
        """As the contract says."""
        return [shim for shim in self._shims.values() if shim.namespace == namespace]

    def all(self) -> Sequence[Shim]:
        """The tasks of all namespaces."""
        return [*self._shims.values()]

    async def create(self, namespace: str, id: str, options: CreateOptions) -> int:
        """As the contract says."""
        key = namespace, id
        if key in self._shims or key in self._creating:
            raise AlreadyExistsError(f"task {id}: already exists")
        program = self._starter.program(options.runtime)
        bundle = bundle_at(self._state, self._root, namespace, id)
        self._creating.add(key)
        creation = self._spawn(self._create(bundle, program, options))
        try:
            shim, pid = await asyncio.shield(creation)
        except asyncio.CancelledError:
            # What a shim has begun it carries through. Once it has, it is undone; until then the name is taken.
            self._spawn(self._undo(key, creation))
            raise
        except BaseException:
            self._creating.discard(key)
            raise
        self._creating.discard(key)
        self._shims[key] = shim
        if not shim.connected:
            self._on_close(shim)
        return pid

    async def _create(self, bundle: Bundle, program: str, options: CreateOptions) -> tuple[Shim, int]:
        ending = self._ending.get((bundle.namespace, bundle.id))
        if ending is not None:  # its shim's socket has the same name
            await asyncio.shield(ending)
        _make_bundle(bundle, options.spec)
        try:
            failpoint("task.create.after_bundle")
            if options.restore is not None:
                await options.restore(bundle.file("checkpoint"))
                options = options._replace(checkpoint=bundle.file("checkpoint"))
            bundle.write_shim(program)
            failpoint("task.create.after_intent")
            shim = await self._starter.start(bundle, program, options, self._on_close)
        except BaseException:
            bundle.remove()
            raise
        try:
            failpoint("task.create.after_connect")
            answer = await shim.call("Create", **_create_fields(bundle, options))
            failpoint("task.create.after_call")
        except OrlopError as error:
            await self._discard(shim)
            raise type(error)(f"failed to create shim task: {error}") from None
        except BaseException:
            await self._discard(shim)
            raise
        return shim, answer.pid

    async def _undo(self, key: tuple[str, str], creation: asyncio.Task[tuple[Shim, int]]) -> None:
        """Undo a creation whose caller went away."""
        try:
            shim, _ = await creation
        except (OrlopError, OSError) as error:
            log.info("the creation of task %s, given up by its caller, failed: %s", key[1], error)
        else:
            await self._discard(shim)
        finally:
            self._creating.discard(key)

    async def delete(self, namespace: str, id: str) -> Exit:
        """As the contract says."""
        # It is carried through even if the caller goes away: the shim forgets the task at the first call.
        return await asyncio.shield(self._spawn(self._delete(self.get(namespace, id))))

    async def _delete(self, shim: Shim) -> Exit:
        key = shim.namespace, shim.id
        async with shim.lock:
            if self._shims.get(key) is not shim:
                raise NotFoundError(f"task {shim.id}: not found")
            failpoint("task.delete.before_call")
            try:
                answer = await shim.call("Delete")
                failpoint("task.delete.after_call")
            except NotFoundError:
                # The shim has lost it, in a deletion that a former daemon did not finish for instance.
                self._end(shim)
                raise
            except UnavailableError:
                if shim.connected or shim.released:
                    raise
                return await asyncio.shield(shim.buried)  # it died, and is cleaned up already or right now
            ending = self._end(shim)
            if not is_orlop(shim.program):
                # Our shim has sent the event of the deletion before it answers, others do so before they end.
                await ending
            return Exit(answer.pid, answer.exit_status, answer.exited_at)

    async def load(self) -> None:
        """Find the shims that a former daemon left, and clean up after those that died in between."""
        limit = asyncio.Semaphore(_LOADS)

        async def one(bundle: Bundle) -> None:
            async with limit:
                try:
                    await self._load(bundle)
                except OrlopError as error:
                    log.error("load task %s/%s: %s", bundle.namespace, bundle.id, error)

        await asyncio.gather(*(one(bundle) for bundle in self._existing()))
        self._remove_stray_work()

    async def close(self) -> None:
        """Let the connections go; shims go on."""
        for shim in list(self._shims.values()):
            await shim.close()
        if self._background:
            await asyncio.wait(self._background, timeout=self._timeouts.cleanup + self._timeouts.shutdown)

    # Ending

    def _end(self, shim: Shim) -> asyncio.Task[None]:
        """The task is gone. Nobody waits for the rest but who makes a task of the same name."""
        key = shim.namespace, shim.id
        shim.released = True
        del self._shims[key]
        ending = self._ending[key] = self._spawn(self._finish(shim))
        return ending

    async def _finish(self, shim: Shim) -> None:
        """After the task's deletion: end the shim and remove the bundle."""
        try:
            await shim.shutdown(self._timeouts.shutdown)
        except OrlopError as error:
            log.error("shut down the shim of %s, which may be left: %s", shim.id, error)
        failpoint("task.delete.after_shutdown")
        # It takes milliseconds where the disk is busy, and the client goes on calling.
        await asyncio.get_running_loop().run_in_executor(None, self._remove_bundle, shim.bundle)
        failpoint("task.delete.after_bundle")
        del self._ending[shim.namespace, shim.id]

    async def _discard(self, shim: Shim) -> None:
        """Undo a creation that failed half way, silently: nobody was told of the task."""
        shim.released = True
        # Go's shim forgets a container whose creation failed late, and runc keeps it.
        thorough = not is_orlop(shim.program)
        try:
            await shim.call("Delete", timeout=self._timeouts.cleanup)
        except NotFoundError:
            pass  # the usual case: the shim has undone its part
        except OrlopError as error:
            log.warning("delete the failed task %s: %s", shim.id, error)
            thorough = True
        try:
            await shim.shutdown(self._timeouts.shutdown)
        except OrlopError as error:
            log.error("shut down the shim of %s, which may be left: %s", shim.id, error)
        if thorough:
            await self._starter.clean_up(shim.bundle, shim.program)
        self._remove_bundle(shim.bundle)

    def _on_close(self, shim: Shim) -> None:
        """The connection closed though nobody closed it: the shim died."""
        if self._shims.get((shim.namespace, shim.id)) is shim:
            self._spawn(self._bury(shim))

    async def _bury(self, shim: Shim) -> None:
        """Clean up after a dead shim and publish in its place what it cannot publish any more."""
        log.warning("the shim of task %s/%s died: cleaning up", shim.namespace, shim.id)
        exit = await self._starter.clean_up(shim.bundle, shim.program)
        failpoint("task.bury.after_clean_up")
        self._remove_bundle(shim.bundle)
        failpoint("task.bury.after_bundle")
        self._shims.pop((shim.namespace, shim.id), None)
        shim.buried.set_result(exit)
        self._events.publish(
            shim.namespace,
            TASK_EXIT,
            events_pb2.TaskExit(
                container_id=shim.id,
                id=shim.id,
                pid=exit.pid,
                exit_status=exit.status,
                exited_at=exit.exited_at,
            ),
        )
        self._events.publish(
            shim.namespace,
            TASK_DELETE,
            events_pb2.TaskDelete(
                container_id=shim.id, pid=exit.pid, exit_status=exit.status, exited_at=exit.exited_at
            ),
        )

    def _remove_bundle(self, bundle: Bundle) -> None:
        try:
            bundle.remove()
        except (OrlopError, OSError) as error:
            log.error("remove the bundle of %s: %s", bundle.id, error)

    # Loading

    def _existing(self) -> Iterable[Bundle]:
        bundles = []
        base = os.path.join(self._state, TASK_DIRECTORY)
        for namespace in _directories(base):
            directory = os.path.join(base, namespace)
            remove_hidden(directory)
            bundles += [bundle_at(self._state, self._root, namespace, id) for id in _directories(directory)]
        return bundles

    async def _load(self, bundle: Bundle) -> None:
        program = bundle.read_shim() or self._recorded_program(bundle)
        if program is None:
            log.warning("the bundle of %s/%s has no shim: removing it", bundle.namespace, bundle.id)
            self._remove_bundle(bundle)
            return
        shim = await self._starter.reconnect(bundle, program, self._on_close)
        if shim is not None and await self._has_task(shim):
            self._shims[bundle.namespace, bundle.id] = shim
            if not shim.connected:
                self._on_close(shim)
            return
        log.warning("the shim of %s/%s is dead or has no task: cleaning up", bundle.namespace, bundle.id)
        if shim is not None:
            await self._discard(shim)
            return
        await self._starter.clean_up(bundle, program)
        self._remove_bundle(bundle)

    async def _has_task(self, shim: Shim) -> bool:
        """Whether the shim holds the task, running or ended. One that lives but does not answer in time may well:
        to clean up after a shim that is merely slow would be to kill its container.

        A creation that the former daemon asked for may be under way, and a shim tells of it only when it is done:
        hence the repetition.
        """
        for _ in range(_STATE_TRIES):
            try:
                await shim.call("State", exec_id="", timeout=self._timeouts.load)
                return True
            except NotFoundError:
                await asyncio.sleep(_STATE_PAUSE)
            except DeadlineExceededError:
                log.warning("the shim of %s/%s has not answered yet: keeping it", shim.namespace, shim.id)
                return True
            except OrlopError as error:
                log.error("the shim of %s/%s does not answer: %s", shim.namespace, shim.id, error)
                return False
        return False

    def _recorded_program(self, bundle: Bundle) -> str | None:
        try:
            return program_of(self._runtime_of(bundle.namespace, bundle.id))
        except OrlopError as error:
            log.error("the bundle of %s/%s: %s", bundle.namespace, bundle.id, error)
            return None

    def _remove_stray_work(self) -> None:
        """Remove the kept directories of tasks that are gone, with a reboot for instance."""
        base = os.path.join(self._root, TASK_DIRECTORY)
        for namespace in _directories(base):
            directory = os.path.join(base, namespace)
            remove_hidden(directory)
            for id in _directories(directory):
                bundle = bundle_at(self._state, self._root, namespace, id)
                if not os.path.isdir(bundle.path):
                    self._remove_bundle(bundle)

    def _spawn(self, work: Coroutine[None, None, T]) -> asyncio.Task[T]:
        """Run in the background, held until it is done."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task


def _make_bundle(bundle: Bundle, spec: bytes) -> None:
    try:
        bundle.create(spec)
    except AlreadyExistsError:
        # No task has it and none is being made: it is what an earlier removal could not remove.
        bundle.remove()
        bundle.create(spec)


def _create_fields(bundle: Bundle, options: CreateOptions) -> dict[str, Any]:
    return {
        "bundle": bundle.path,
        "rootfs": options.rootfs,
        "terminal": options.terminal,
        "stdin": options.stdin,
        "stdout": options.stdout,
        "stderr": options.stderr,
        "checkpoint": options.checkpoint,
        "options": options.options,
    }


def _directories(path: str) -> list[str]:
    """The names of the directories in a directory, but hidden ones; none when it does not exist."""
    names: list[str] = []
    with contextlib.suppress(FileNotFoundError), os.scandir(path) as entries:
        names = [
            entry.name
            for entry in entries
            if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
        ]
    return sorted(names)


__all__ = ["ORLOP_RUNTIME", "TaskManager", "Timeouts"]
