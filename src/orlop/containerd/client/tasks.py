# SPDX-License-Identifier: Apache-2.0
"""Typed calls of the Tasks service: the processes of containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.api import tasks_pb2 as pb
from orlop.api.tasks_pb2_grpc import TasksStub
from orlop.containerd.client.base import Metadata, Service

if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterable, Mapping

    import grpc.aio
    from google.protobuf.any_pb2 import Any

    from orlop.api.task_types_pb2 import Process, ProcessInfo
    from orlop.api.types_pb2 import Descriptor, Metric, Mount


class Tasks(Service):
    """Tasks and their extra processes. Where `exec_id` is empty, the container's init process is meant."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        super().__init__(channel, metadata)
        self._stub = TasksStub(channel)

    async def create(
        self,
        container_id: str,
        *,
        rootfs: Iterable[Mount] = (),
        stdin: str = "",
        stdout: str = "",
        stderr: str = "",
        terminal: bool = False,
        options: Any | None = None,
        checkpoint: Descriptor | None = None,
        runtime_path: str = "",
    ) -> int:
        """Make the container of that record, its process waiting to be started; the answer is its pid.

        Raises NotFoundError, AlreadyExistsError, and UnavailableError or InternalError from the runtime.
        """
        request = pb.CreateTaskRequest(
            container_id=container_id,
            rootfs=rootfs,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            terminal=terminal,
            options=options,
            checkpoint=checkpoint,
            runtime_path=runtime_path,
        )
        return (await self._call(self._stub.Create, request)).pid

    async def start(self, container_id: str, exec_id: str = "") -> int:
        """Run the created process; the answer is its pid. Raises NotFoundError, FailedPreconditionError."""
        request = pb.StartRequest(container_id=container_id, exec_id=exec_id)
        return (await self._call(self._stub.Start, request)).pid

    async def delete(self, container_id: str) -> pb.DeleteResponse:
        """Remove a stopped task and its shim; the answer has pid, exit_status and exited_at.

        Raises NotFoundError, and FailedPreconditionError while it runs.
        """
        return await self._call(self._stub.Delete, pb.DeleteTaskRequest(container_id=container_id))

    async def delete_process(self, container_id: str, exec_id: str) -> pb.DeleteResponse:
        """Remove a stopped extra process. Raises NotFoundError, and FailedPreconditionError while it runs."""
        request = pb.DeleteProcessRequest(container_id=container_id, exec_id=exec_id)
        return await self._call(self._stub.DeleteProcess, request)

    async def get(self, container_id: str, exec_id: str = "") -> Process:
        """The state of a process. Raises NotFoundError."""
        request = pb.GetRequest(container_id=container_id, exec_id=exec_id)
        return (await self._call(self._stub.Get, request)).process

    async def list(self) -> builtins.list[Process]:
        """The init process of each task of the namespace."""
        return list((await self._call(self._stub.List, pb.ListTasksRequest())).tasks)

    async def kill(self, container_id: str, signal: int, *, exec_id: str = "", all: bool = False) -> None:
        """Send a signal to a process, or to everything in the container. Raises NotFoundError."""
        request = pb.KillRequest(container_id=container_id, exec_id=exec_id, signal=signal, all=all)
        await self._call(self._stub.Kill, request)

    async def exec(
        self,
        container_id: str,
        exec_id: str,
        process: Any,
        *,
        stdin: str = "",
        stdout: str = "",
        stderr: str = "",
        terminal: bool = False,
    ) -> None:
        """Add a process (`typeurl.pack_json(typeurl.PROCESS, …)`); `start` with its exec_id runs it.

        Raises NotFoundError, AlreadyExistsError.
        """
        request = pb.ExecProcessRequest(
            container_id=container_id,
            exec_id=exec_id,
            spec=process,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            terminal=terminal,
        )
        await self._call(self._stub.Exec, request)

    async def resize_pty(self, container_id: str, *, width: int, height: int, exec_id: str = "") -> None:
        """Set the size of a process's terminal, in characters."""
        request = pb.ResizePtyRequest(container_id=container_id, exec_id=exec_id, width=width, height=height)
        await self._call(self._stub.ResizePty, request)

    async def close_io(self, container_id: str, exec_id: str = "") -> None:
        """Tell the shim to close its end of the process's standard input."""
        await self._call(
            self._stub.CloseIO, pb.CloseIORequest(container_id=container_id, exec_id=exec_id, stdin=True)
        )

    async def pause(self, container_id: str) -> None:
        """Freeze all processes of the container."""
        await self._call(self._stub.Pause, pb.PauseTaskRequest(container_id=container_id))

    async def resume(self, container_id: str) -> None:
        """Thaw a paused container."""
        await self._call(self._stub.Resume, pb.ResumeTaskRequest(container_id=container_id))

    async def pids(self, container_id: str) -> builtins.list[ProcessInfo]:
        """The processes inside the container, by host pid."""
        request = pb.ListPidsRequest(container_id=container_id)
        return list((await self._call(self._stub.ListPids, request)).processes)

    async def checkpoint(self, container_id: str, options: Any | None = None) -> builtins.list[Descriptor]:
        """Write a checkpoint image. Raises NotImplementedByUsError where the runtime cannot."""
        request = pb.CheckpointTaskRequest(container_id=container_id, options=options)
        return list((await self._call(self._stub.Checkpoint, request)).descriptors)

    async def update(
        self, container_id: str, resources: Any, annotations: Mapping[str, str] | None = None
    ) -> None:
        """Change the limits of a running container (`typeurl.pack_json(typeurl.LINUX_RESOURCES, …)`)."""
        request = pb.UpdateTaskRequest(
            container_id=container_id, resources=resources, annotations=annotations or {}
        )
        await self._call(self._stub.Update, request)

    async def metrics(self, *filters: str) -> builtins.list[Metric]:
        """The resource use of the tasks that match (`id==NAME`), of all if no filter is given.

        `data` is an Any of `io.containerd.cgroups.v1.Metrics` or `io.containerd.cgroups.v2.Metrics`.
        """
        return list((await self._call(self._stub.Metrics, pb.MetricsRequest(filters=filters))).metrics)

    async def wait(self, container_id: str, exec_id: str = "") -> pb.WaitResponse:
        """Wait for a process to end; the answer has exit_status and exited_at. Raises NotFoundError."""
        return await self._call(self._stub.Wait, pb.WaitRequest(container_id=container_id, exec_id=exec_id))
