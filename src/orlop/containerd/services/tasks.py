# SPDX-License-Identifier: Apache-2.0
"""The Tasks service."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any

from google.protobuf.empty_pb2 import Empty

from orlop.api import tasks_pb2 as pb
from orlop.api.runc_options_pb2 import CheckpointOptions, Options
from orlop.api.task_types_pb2 import Process
from orlop.api.tasks_pb2_grpc import TasksServicer
from orlop.api.types_pb2 import Metric
from orlop.containerd.client import typeurl
from orlop.containerd.core import filters
from orlop.containerd.core.namespaces import scope_of, validate_identifier
from orlop.containerd.core.runtime import CreateOptions
from orlop.containerd.failpoints import failpoint
from orlop.containerd.plugins.differs import from_descriptor, to_descriptor
from orlop.errdefs import (
    DeadlineExceededError,
    InvalidArgumentError,
    NotFoundError,
    OrlopError,
    UnavailableError,
)

if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any as AnyMessage
    from google.protobuf.timestamp_pb2 import Timestamp

    from orlop.api.containers_pb2 import Container
    from orlop.containerd.core.containers import ContainerStore
    from orlop.containerd.core.runtime import Task, TaskManager
    from orlop.containerd.core.sandboxes import SandboxController
    from orlop.containerd.plugins.checkpoints import Checkpoints

log = logging.getLogger("containerd.tasks")

_STATE_TIMEOUT = 2.0  # seconds; a list of tasks must not hang on one shim


class TasksService(TasksServicer):
    """Translates requests into calls of the task manager and of the tasks' shims."""

    def __init__(
        self,
        manager: TaskManager,
        containers: ContainerStore,
        checkpoints: Checkpoints,
        sandboxes: SandboxController,
    ) -> None:
        self._manager = manager
        self._sandboxes = sandboxes
        self._checkpoints = checkpoints
        self._containers = containers
        self._waiting: set[asyncio.Task[tuple[int, Timestamp]]] = set()
        self._stopped = False

    def stop(self) -> None:
        """The daemon is shutting down: let go of those who wait for the end of a process."""
        self._stopped = True
        for waiting in self._waiting:
            waiting.cancel()

    def _task(self, request: Any, context: Any) -> Task:
        return self._manager.get(scope_of(context.invocation_metadata()).namespace, request.container_id)

    async def Create(self, request: pb.CreateTaskRequest, context: Any) -> pb.CreateTaskResponse:
        """Make a task from its container's record."""
        scope = scope_of(context.invocation_metadata())
        container = self._containers.get(scope.namespace, request.container_id)
        options = _create_options(request, container)
        if options.sandbox and not options.address[0]:
            options = options._replace(address=self._sandbox(scope.namespace, options.sandbox))
        if request.HasField("checkpoint") and request.checkpoint.digest:
            checkpoint = from_descriptor(request.checkpoint)
            options = options._replace(restore=lambda path: self._checkpoints.restore(scope, checkpoint, path))
        pid = await self._manager.create(scope.namespace, container.id, options)
        return pb.CreateTaskResponse(container_id=container.id, pid=pid)

    def _sandbox(self, namespace: str, id: str) -> tuple[str, int]:
        """Where the shim of a sandbox serves tasks; a task of that name is one, too, as in pods of CRI.

        Raises NotFoundError.
        """
        try:
            return self._sandboxes.get(namespace, id).endpoint
        except NotFoundError:
            pass
        try:
            return self._manager.get(namespace, id).endpoint
        except NotFoundError:
            raise NotFoundError(f"sandbox {id}: not found") from None

    async def Start(self, request: pb.StartRequest, context: Any) -> pb.StartResponse:
        """Run a created process."""
        task = self._task(request, context)
        failpoint("task.start.before_call")
        answer = await task.call("Start", exec_id=request.exec_id)
        failpoint("task.start.after_call")
        return pb.StartResponse(pid=answer.pid)

    async def Delete(self, request: pb.DeleteTaskRequest, context: Any) -> pb.DeleteResponse:
        """Remove a task that has ended."""
        namespace = scope_of(context.invocation_metadata()).namespace
        exit = await self._manager.delete(namespace, request.container_id)
        return pb.DeleteResponse(pid=exit.pid, exit_status=exit.status, exited_at=exit.exited_at)

    async def DeleteProcess(self, request: pb.DeleteProcessRequest, context: Any) -> pb.DeleteResponse:
        """Remove an extra process that has ended."""
        if not request.exec_id:
            raise InvalidArgumentError("exec_id must not be empty")
        answer = await self._task(request, context).call("Delete", exec_id=request.exec_id)
        failpoint("task.delete_process.after_call")
        return pb.DeleteResponse(
            id=request.exec_id,
            pid=answer.pid,
            exit_status=answer.exit_status,
            exited_at=answer.exited_at,
        )

    async def Get(self, request: pb.GetRequest, context: Any) -> pb.GetResponse:
        """The state of a process."""
        return pb.GetResponse(process=await _state(self._task(request, context), request.exec_id))

    async def List(self, request: pb.ListTasksRequest, context: Any) -> pb.ListTasksResponse:
        """The state of the init process of each task."""
        tasks = self._manager.list(scope_of(context.invocation_metadata()).namespace)
        states = await asyncio.gather(*(_state_if_there(task) for task in tasks))
        return pb.ListTasksResponse(tasks=[state for state in states if state is not None])

    async def Kill(self, request: pb.KillRequest, context: Any) -> Empty:
        """Send a signal."""
        await self._task(request, context).call(
            "Kill", exec_id=request.exec_id, signal=request.signal, all=request.all
        )
        failpoint("task.kill.after_call")
        return Empty()

    async def Exec(self, request: pb.ExecProcessRequest, context: Any) -> Empty:
        """Add a process."""
        validate_identifier(request.exec_id, "exec id")
        task = self._task(request, context)
        failpoint("task.exec.before_call")
        await task.call(
            "Exec",
            exec_id=request.exec_id,
            terminal=request.terminal,
            stdin=request.stdin,
            stdout=request.stdout,
            stderr=request.stderr,
            spec=request.spec,
        )
        failpoint("task.exec.after_call")
        return Empty()

    async def ResizePty(self, request: pb.ResizePtyRequest, context: Any) -> Empty:
        """Set the size of a terminal."""
        await self._task(request, context).call(
            "ResizePty", exec_id=request.exec_id, width=request.width, height=request.height
        )
        return Empty()

    async def CloseIO(self, request: pb.CloseIORequest, context: Any) -> Empty:
        """Close the shim's end of a standard input."""
        await self._task(request, context).call("CloseIO", exec_id=request.exec_id, stdin=request.stdin)
        return Empty()

    async def Pause(self, request: pb.PauseTaskRequest, context: Any) -> Empty:
        """Freeze."""
        await self._task(request, context).call("Pause")
        return Empty()

    async def Resume(self, request: pb.ResumeTaskRequest, context: Any) -> Empty:
        """Thaw."""
        await self._task(request, context).call("Resume")
        return Empty()

    async def ListPids(self, request: pb.ListPidsRequest, context: Any) -> pb.ListPidsResponse:
        """The processes inside."""
        answer = await self._task(request, context).call("Pids")
        return pb.ListPidsResponse(processes=answer.processes)

    async def Checkpoint(self, request: pb.CheckpointTaskRequest, context: Any) -> pb.CheckpointTaskResponse:
        """Write a checkpoint into the directory that the options name, else into the content store."""
        task = self._task(request, context)
        path = ""
        if request.HasField("options"):
            path = typeurl.unpack(request.options, CheckpointOptions).image_path
        if path:
            os.makedirs(path, 0o700, exist_ok=True)
            await task.call("Checkpoint", path=path, options=request.options)
            return pb.CheckpointTaskResponse()
        scope = scope_of(context.invocation_metadata())
        spec = self._containers.get(scope.namespace, task.id).spec
        with self._checkpoints.directory() as directory:
            await task.call("Checkpoint", path=directory, options=request.options)
            made = await self._checkpoints.store(scope, directory, spec)
        return pb.CheckpointTaskResponse(descriptors=[to_descriptor(one) for one in made])

    async def Update(self, request: pb.UpdateTaskRequest, context: Any) -> Empty:
        """Change the limits of a running task."""
        await self._task(request, context).call(
            "Update", resources=request.resources, annotations=dict(request.annotations)
        )
        return Empty()

    async def Metrics(self, request: pb.MetricsRequest, context: Any) -> pb.MetricsResponse:
        """The resource use of the tasks that match."""
        namespace = scope_of(context.invocation_metadata()).namespace
        accept = filters.parse_all(request.filters)
        tasks = [task for task in self._manager.list(namespace) if accept(_adaptor(task))]
        found = await asyncio.gather(*(_metric(task) for task in tasks))
        return pb.MetricsResponse(metrics=[metric for metric in found if metric is not None])

    async def Wait(self, request: pb.WaitRequest, context: Any) -> pb.WaitResponse:
        """Wait for the end of a process."""
        work = self._task(request, context).wait(request.exec_id)
        waiting = asyncio.get_running_loop().create_task(work)
        self._waiting.add(waiting)
        try:
            status, exited_at = await waiting
        except asyncio.CancelledError:
            if self._stopped:
                raise UnavailableError("containerd is shutting down") from None
            raise
        finally:
            self._waiting.discard(waiting)
            waiting.cancel()
        return pb.WaitResponse(exit_status=status, exited_at=exited_at)


def _create_options(request: pb.CreateTaskRequest, container: Container) -> CreateOptions:
    if request.task_api_address and not container.sandbox:
        raise InvalidArgumentError("task_api_address: the container is in no sandbox")
    return CreateOptions(
        runtime=request.runtime_path or container.runtime.name,
        spec=container.spec.value,
        rootfs=request.rootfs,
        stdin=request.stdin,
        stdout=request.stdout,
        stderr=request.stderr,
        terminal=request.terminal,
        checkpoint=_checkpoint(request.options),
        options=_options(request.options) or _options(container.runtime.options),
        sandbox=container.sandbox,
        address=(request.task_api_address, request.task_api_version),
    )


def _options(options: AnyMessage) -> AnyMessage | None:
    return options if options.value or options.type_url else None


def _checkpoint(options: AnyMessage) -> str:
    if typeurl.name(options) != Options.DESCRIPTOR.full_name:
        return ""
    return typeurl.unpack(options, Options).criu_image_path


async def _state(task: Task, exec_id: str, timeout: float | None = None) -> Process:
    try:
        state = await task.call("State", exec_id=exec_id, timeout=timeout)
    except UnavailableError:
        raise NotFoundError(f"task {task.id} not found: its shim is gone") from None
    return Process(
        container_id=task.id,
        id=exec_id or task.id,
        pid=state.pid,
        status=state.status,
        stdin=state.stdin,
        stdout=state.stdout,
        stderr=state.stderr,
        terminal=state.terminal,
        exit_status=state.exit_status,
        exited_at=state.exited_at,
    )


async def _state_if_there(task: Task) -> Process | None:
    try:
        return await _state(task, "", _STATE_TIMEOUT)
    except NotFoundError:
        return None  # it ended between the list and this call
    except DeadlineExceededError as error:
        log.error("state of task %s: %s", task.id, error)
        return Process(container_id=task.id, id=task.id)


async def _metric(task: Task) -> Metric | None:
    try:
        answer = await task.call("Stats")
    except OrlopError as error:
        if not isinstance(error, NotFoundError):
            log.error("metrics of task %s: %s", task.id, error)
        return None
    metric = Metric(id=task.id, data=answer.stats)
    metric.timestamp.GetCurrentTime()
    return metric


def _adaptor(task: Task) -> filters.Adaptor:
    return filters.adapt({"id": task.id, "namespace": task.namespace}, {})
