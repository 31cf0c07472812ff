# SPDX-License-Identifier: Apache-2.0
"""The Task API: what each call means for the shim's containers, and which event it publishes."""

import os
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from google.protobuf.empty_pb2 import Empty

from orlop.api import events_pb2 as events
from orlop.api import shim_v2_pb2 as api
from orlop.errdefs import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    OrlopError,
)
from orlop.rpc.ttrpc.server import Call
from orlop.shim import bundle, log, messages, metrics, rootfs
from orlop.shim.containers import STOPPED, Container, Exec, Process
from orlop.shim.events import Publisher
from orlop.shim.io.streams import Streams
from orlop.shim.loop import Loop
from orlop.shim.reaper import Reaper
from orlop.shim.runtime.select import RuntimeFor, runtime_for

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from orlop.api.runc_options_pb2 import Options as RuncOptions
    from orlop.shim.runtime.helper import EarlyHelper

VERSION = "0.1.0"
_END_OF_ROOTFS = 1.0
"""Seconds after a deletion: the answer has been sent, and a shim that holds nothing else has been told to end."""

_METHODS = {
    "State": "state",
    "Create": "create",
    "Start": "start",
    "Delete": "delete",
    "Pids": "pids",
    "Pause": "pause",
    "Resume": "resume",
    "Checkpoint": "checkpoint",
    "Kill": "kill",
    "Exec": "exec",
    "ResizePty": "resize_pty",
    "CloseIO": "close_io",
    "Update": "update",
    "Wait": "wait",
    "Stats": "stats",
    "Connect": "connect",
    "Shutdown": "shutdown",
}

Method = Callable[[Any], Coroutine[Any, None, "Message"]]


class TaskService:
    """All calls of containerd.task.v2.Task and v3.Task, which are the same.

    `on_shutdown` ends the shim; `on_answered` is called after each call. `early` makes the
    first container.
    """

    def __init__(
        self,
        loop: Loop,
        reaper: Reaper,
        publisher: Publisher,
        namespace: str,
        on_shutdown: Callable[[], None],
        on_answered: Callable[[], None] = lambda: None,
        runtimes: RuntimeFor = runtime_for,
        early: "EarlyHelper | None" = None,
    ) -> None:
        self._loop = loop
        self._reaper = reaper
        self._publisher = publisher
        self._namespace = namespace
        self._on_shutdown = on_shutdown
        self._on_answered = on_answered
        self._runtime_for = runtimes
        self._early = early
        self.containers: dict[str, Container] = {}
        self._creating: set[str] = set()
        self._ooms: dict[str, metrics.OOMWatch] = {}
        self._handlers: dict[str, Callable[[Any, Call], None]] = {}

    def handler(self, name: str) -> Callable[[Any, Call], None]:
        """What serves a method of the service, by the method's name."""
        found = self._handlers.get(name)
        if found is None:
            found = self._handlers[name] = self._serve(name, getattr(self, _METHODS[name]))
        return found

    def _serve(self, name: str, method: Method) -> Callable[[Any, Call], None]:
        def handler(request: Any, call: Call) -> None:
            self._publisher.poke()
            future = self._loop.spawn(method(request))

            def answer() -> None:
                try:
                    response = future.result()
                except OrlopError as error:
                    call.fail(error)
                except Exception as error:  # noqa: BLE001 - the edge: every error becomes a status
                    log.exception(name, error)
                    call.fail(error)
                else:
                    call.reply(response)
                self._on_answered()

            future.on_done(answer)

        return handler

    def _container(self, container_id: str) -> Container:
        found = self.containers.get(container_id)
        if found is None:
            raise NotFoundError(f"container {container_id}: not found")
        return found

    async def create(self, request: api.CreateTaskRequest) -> api.CreateTaskResponse:
        """Mount the rootfs, open the streams, make the container with init blocked."""
        if request.id in self.containers or request.id in self._creating:
            raise AlreadyExistsError(f"container {request.id}: already exists")
        options = messages.runc_options(request.options)
        if options.shim_cgroup:
            metrics.join_group(options.shim_cgroup)
        self._creating.add(request.id)
        self._reaper.starting()  # until init is watched
        try:
            container = await self._create(request, options)
        except BaseException:
            self._reaper.started()
            raise
        finally:
            self._creating.discard(request.id)
        self.containers[request.id] = container
        # After the answer, and before the next request.
        self._loop.call_soon(lambda: self._created(container, request))
        return api.CreateTaskResponse(pid=container.init.pid)

    def _created(self, container: Container, request: api.CreateTaskRequest) -> None:
        try:
            self._publisher.publish(messages.created(request, container.init.pid))
            if container.checkpoint is None:
                self._watch_memory(container)
                container.watch_init()
        finally:
            self._reaper.started()

    async def _create(self, request: api.CreateTaskRequest, options: "RuncOptions") -> Container:
        shared_pids = bundle.shares_pids(request.bundle)
        streams = Streams(
            self._loop,
            terminal=request.terminal,
            stdin=request.stdin,
            stdout=request.stdout,
            stderr=request.stderr,
            owner=(options.io_uid, options.io_gid),
        )
        mountpoint = f"{request.bundle}/rootfs"
        rootfs.mount_all(request.rootfs, mountpoint)
        try:
            await streams.open(request.id, self._namespace)
            container = Container(
                request.id,
                request.bundle,
                self._runtime_for(
                    options,
                    request.id,
                    request.bundle,
                    self._namespace,
                    self._loop,
                    self._reaper,
                    self._early,
                ),
                self._reaper,
                Process("", streams),
                shared_pids=shared_pids,
                on_exit=lambda process: self._exited(container, process),
                checkpoint=messages.checkpoint_of(request, options),
            )
            container.rootfs_may_end_later = rootfs.may_end_later(request.rootfs)
            container.kill_orphans = lambda: self._kill_orphans(container)
            await container.create(request.terminal)
        except BaseException:
            streams.close()
            if request.rootfs:
                rootfs.unmount_all(mountpoint)
            raise
        return container

    def _kill_orphans(self, container: Container) -> None:
        killing = self._loop.spawn(container.runtime.kill(9, True))

        def done() -> None:
            try:
                killing.result()
            except OrlopError as error:
                log.debug(f"nothing of {container.id} is left to kill: {error}")

        killing.on_done(done)

    def _watch_memory(self, container: Container) -> None:
        try:
            groups = metrics.groups_of(container.init.pid)
            watch = metrics.OOMWatch(self._loop, groups, lambda: self._oom(container))
        except (OSError, OrlopError) as error:
            log.warning(f"out-of-memory events of {container.id} are not watched: {error}")
            return
        self._ooms[container.id] = watch

    def _oom(self, container: Container) -> None:
        self._publisher.publish(events.TaskOOM(container_id=container.id))

    def _exited(self, container: Container, process: Process) -> None:
        watch = self._ooms.get(container.id)
        if watch is not None:
            watch.check()  # the event of memory comes before that of the exit it caused
        self._publisher.publish(messages.exited(container, process))

    async def start(self, request: api.StartRequest) -> api.StartResponse:
        """Run init's program, or an exec."""
        container = self._container(request.id)
        process = container.process(request.exec_id)
        async with process.lock:
            if not isinstance(process, Exec):
                await self._start_init(container)
            else:
                if not process.streams.opened:
                    await process.streams.open(container.id, self._namespace)
                await container.start_exec(process)
                self._publisher.publish(
                    events.TaskExecStarted(container_id=container.id, exec_id=process.exec_id, pid=process.pid)
                )
                container.watch_exec(process)
        return api.StartResponse(pid=process.pid)

    async def _start_init(self, container: Container) -> None:
        restored = container.checkpoint is not None and not container.init.pid
        if restored:
            self._reaper.starting()  # until init is watched
        try:
            await container.start()
            self._publisher.publish(events.TaskStart(container_id=container.id, pid=container.init.pid))
            if restored:
                self._watch_memory(container)
                container.watch_init()
        finally:
            if restored:
                self._reaper.started()
        container.started()

    async def delete(self, request: api.DeleteRequest) -> api.DeleteResponse:
        """Remove an exec, or the container with its rootfs mount."""
        container = self._container(request.id)
        if request.exec_id:
            process = await container.delete_exec(request.exec_id)
            return messages.delete_response(process)
        process = container.init
        await container.delete()
        if container.rootfs_may_end_later:
            held = rootfs.take_off(f"{container.bundle}/rootfs")
            self._loop.call_later(_END_OF_ROOTFS, lambda: os.close(held))  # or with the process
        else:
            rootfs.unmount_all(f"{container.bundle}/rootfs")
        for each in (process, *container.execs.values()):
            each.streams.close()
        watch = self._ooms.pop(request.id, None)
        if watch is not None:
            watch.close()
        if self.containers.pop(request.id, None) is not None:
            self._publisher.publish(messages.deleted(container))
        return messages.delete_response(process)

    async def exec(self, request: api.ExecProcessRequest) -> Empty:
        """Add an exec; it does not run yet. Clients can attach to it; FIFOs and files are opened at its start."""
        container = self._container(request.id)
        if not request.exec_id:
            raise InvalidArgumentError("exec_id must not be empty")
        if request.exec_id in container.execs:
            raise AlreadyExistsError(f"process {request.exec_id}: already exists")
        if container.init.status == STOPPED:
            raise FailedPreconditionError(f"cannot exec in a stopped container {container.id}")
        streams = Streams(
            self._loop,
            terminal=request.terminal,
            stdin=request.stdin,
            stdout=request.stdout,
            stderr=request.stderr,
        )
        process = Exec(request.exec_id, streams, request.spec.value)
        container.execs[request.exec_id] = process
        if streams.attachable:
            try:
                await streams.open(request.id, self._namespace)
            except BaseException:
                del container.execs[request.exec_id]
                raise
        self._publisher.publish(events.TaskExecAdded(container_id=container.id, exec_id=request.exec_id))
        return Empty()

    async def state(self, request: api.StateRequest) -> api.StateResponse:
        """Where a process stands."""
        container = self._container(request.id)
        return messages.state_response(container, container.process(request.exec_id))

    async def wait(self, request: api.WaitRequest) -> api.WaitResponse:
        """Answer when a process has exited."""
        process = self._container(request.id).process(request.exec_id)
        ended = await process.ended
        response = api.WaitResponse(exit_status=ended.status)
        response.exited_at.FromNanoseconds(ended.at)
        return response

    async def kill(self, request: api.KillRequest) -> Empty:
        """Signal a process, or all."""
        await self._container(request.id).kill(request.exec_id, request.signal, request.all)
        return Empty()

    async def pause(self, request: api.PauseRequest) -> Empty:
        """Freeze the container."""
        await self._container(request.id).pause()
        self._publisher.publish(events.TaskPaused(container_id=request.id))
        return Empty()

    async def resume(self, request: api.ResumeRequest) -> Empty:
        """Thaw the container."""
        await self._container(request.id).resume()
        self._publisher.publish(events.TaskResumed(container_id=request.id))
        return Empty()

    async def pids(self, request: api.PidsRequest) -> api.PidsResponse:
        """Every process in the container; those of execs carry the exec's id."""
        container = self._container(request.id)
        return messages.pids_response(container, await container.runtime.pids())

    async def resize_pty(self, request: api.ResizePtyRequest) -> Empty:
        """Set a terminal's size."""
        process = self._container(request.id).process(request.exec_id)
        process.streams.resize(request.width, request.height)
        return Empty()

    async def close_io(self, request: api.CloseIORequest) -> Empty:
        """End a process's stdin."""
        process = self._container(request.id).process(request.exec_id)
        if request.stdin:
            process.streams.close_stdin()
        return Empty()

    async def update(self, request: api.UpdateTaskRequest) -> Empty:
        """Change resource limits."""
        container = self._container(request.id)
        await container.runtime.update(request.resources.value)
        return Empty()

    async def stats(self, request: api.StatsRequest) -> api.StatsResponse:
        """What the control groups have counted."""
        container = self._container(request.id)
        if container.init.status == STOPPED:
            raise FailedPreconditionError(f"container {container.id} is not running")
        try:
            groups = metrics.groups_of(container.init.pid)
            try:
                found = metrics.message(groups.stats())
            finally:
                groups.close()
        except OSError as error:
            raise NotFoundError(f"control group of {container.id}: {error.strerror}") from None
        response = api.StatsResponse()
        response.stats.type_url = found.DESCRIPTOR.full_name
        response.stats.value = found.SerializeToString()
        return response

    async def checkpoint(self, request: api.CheckpointTaskRequest) -> Empty:
        """Write the container to disk."""
        container = self._container(request.id)
        await container.runtime.checkpoint(request.path, messages.checkpoint_options(request.options))
        self._publisher.publish(events.TaskCheckpointed(container_id=request.id, checkpoint=request.path))
        return Empty()

    async def connect(self, request: api.ConnectRequest) -> api.ConnectResponse:
        """Who serves the container."""
        container = self.containers.get(request.id)
        pid = container.init.pid if container is not None else 0
        return api.ConnectResponse(shim_pid=os.getpid(), task_pid=pid, version=VERSION)

    async def shutdown(self, request: api.ShutdownRequest) -> Empty:
        """End the shim, unless it still has containers."""
        if not self.containers and not self._creating:
            self._on_shutdown()
        return Empty()
