# SPDX-License-Identifier: Apache-2.0
"""What the shim's state looks like in the Task API's answers and in events, and what options in requests say."""

from typing import TYPE_CHECKING, TypeVar

from orlop.api import events_pb2 as events
from orlop.api import shim_v2_pb2 as api
from orlop.api.runc_options_pb2 import CheckpointOptions, ProcessDetails
from orlop.api.runc_options_pb2 import Options as RuncOptions
from orlop.shim.containers import Checkpoint

if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any
    from google.protobuf.message import Message

    from orlop.shim.containers import Container, Process

T = TypeVar("T", bound="Message")


def runc_options(options: "Any") -> RuncOptions:
    """The options of a creation; those of other runtimes mean nothing here."""
    return _unpack(options, RuncOptions)


def checkpoint_options(options: "Any") -> CheckpointOptions:
    """The options of a checkpoint."""
    return _unpack(options, CheckpointOptions)


def checkpoint_of(request: api.CreateTaskRequest, options: RuncOptions) -> Checkpoint | None:
    """What a task is restored from; None for one that begins anew."""
    if not request.checkpoint:
        return None
    return Checkpoint(request.checkpoint, options.criu_work_path or f"{request.bundle}/criu-work")


def _unpack(options: "Any", kind: type[T]) -> T:
    if options.type_url.rpartition("/")[2] == kind.DESCRIPTOR.full_name:
        return kind.FromString(options.value)
    return kind()


def created(request: api.CreateTaskRequest, pid: int) -> events.TaskCreate:
    """The event of a creation."""
    io = events.TaskIO(
        stdin=request.stdin, stdout=request.stdout, stderr=request.stderr, terminal=request.terminal
    )
    return events.TaskCreate(
        container_id=request.id,
        bundle=request.bundle,
        rootfs=request.rootfs,
        io=io,
        checkpoint=request.checkpoint,
        pid=pid,
    )


def exited(container: "Container", process: "Process") -> events.TaskExit:
    """The event of a process's exit."""
    assert process.exit is not None
    event = events.TaskExit(
        container_id=container.id,
        id=process.exec_id or container.id,
        pid=process.pid,
        exit_status=process.exit.status,
    )
    event.exited_at.FromNanoseconds(process.exit.at)
    return event


def deleted(container: "Container") -> events.TaskDelete:
    """The event of a container's removal."""
    init = container.init
    event = events.TaskDelete(container_id=container.id, pid=init.pid, id=container.id)
    if init.exit is not None:
        event.exit_status = init.exit.status
        event.exited_at.FromNanoseconds(init.exit.at)
    return event


def delete_response(process: "Process") -> api.DeleteResponse:
    """The answer to a removal."""
    response = api.DeleteResponse(pid=process.pid)
    if process.exit is not None:
        response.exit_status = process.exit.status
        response.exited_at.FromNanoseconds(process.exit.at)
    return response


def state_response(container: "Container", process: "Process") -> api.StateResponse:
    """Where a process stands."""
    stdin, stdout, stderr = process.streams.uris
    response = api.StateResponse(
        id=container.id,
        bundle=container.bundle,
        pid=process.pid,
        status=process.status,  # type: ignore[arg-type]
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        terminal=process.streams.terminal,
        exec_id=process.exec_id,
    )
    if process.exit is not None:
        response.exit_status = process.exit.status
        response.exited_at.FromNanoseconds(process.exit.at)
    return response


def pids_response(container: "Container", pids: list[int]) -> api.PidsResponse:
    """Every process of a container; those of execs carry the exec's id."""
    names = {process.pid: name for name, process in container.execs.items() if process.pid}
    response = api.PidsResponse()
    for pid in pids:
        info = response.processes.add(pid=pid)
        if pid in names:
            details = ProcessDetails(exec_id=names[pid])
            info.info.type_url = details.DESCRIPTOR.full_name
            info.info.value = details.SerializeToString()
    return response
