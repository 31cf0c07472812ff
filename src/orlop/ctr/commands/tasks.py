# SPDX-License-Identifier: Apache-2.0
"""ctr tasks."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import TYPE_CHECKING, Any

from orlop import codec
from orlop.api.runc_options_pb2 import Options
from orlop.api.task_types_pb2 import Status
from orlop.containerd.client import Client, typeurl
from orlop.ctr import table
from orlop.ctr.commands.run import STREAM_FLAGS, run_task, streams_of
from orlop.ctr.flags import Flag, Values
from orlop.ctr.io import Streams, remove_fifos
from orlop.ctr.labels import STOP_SIGNAL_LABEL
from orlop.ctr.main import Command
from orlop.ctr.process import Attachment
from orlop.errdefs import InvalidArgumentError, NotFoundError, OrlopError
from orlop.oci.runtime import decode_spec

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from orlop.api.containers_pb2 import Container
    from orlop.oci.runtime import Process as ProcessSpec


async def _list(client: Client, values: Values) -> None:
    tasks = await client.tasks.list()
    if values["quiet"]:
        print("".join(f"{task.id}\n" for task in tasks), end="")
        return
    rows: list[tuple[str, ...]] = [("TASK", "PID", "STATUS", "")]
    rows += [(task.id, str(task.pid), Status.Name(task.status)) for task in tasks]
    print(table.lines(rows, trail=False), end="")


async def _start(client: Client, values: Values) -> int:
    (id,) = values.need("container id")
    container = await client.containers.get(id)
    if values["no-pivot"]:
        _set_no_pivot(container)
    spec = decode_spec(container.spec.value)
    terminal = spec.process is not None and spec.process.terminal
    return await run_task(client, container, _with_tty(values, terminal))


def _set_no_pivot(container: Container) -> None:
    """For this task alone: the record stays. Raises InvalidArgumentError for options of another runtime."""
    options = Options()
    if container.runtime.HasField("options"):
        options = typeurl.unpack(container.runtime.options, Options)
    options.no_pivot_root = True
    container.runtime.options.CopyFrom(typeurl.pack(options))


def _with_tty(values: Values, terminal: bool) -> Values:
    flags = ("null-io", "log-uri", "detach", "fifo-dir", "pid-file")
    return Values({"tty": terminal, **{name: values[name] for name in flags}}, values.arguments, set())


async def _attach(client: Client, values: Values) -> int:
    (id,) = values.need("container id")
    task = await client.tasks.get(id)
    if task.status not in (Status.CREATED, Status.RUNNING, Status.PAUSED):
        raise InvalidArgumentError(f"task {id} does not run")
    streams = Streams(task.stdin, task.stdout, task.stderr, task.terminal)
    for path in streams[:3]:
        if path and not path.startswith("/"):
            raise InvalidArgumentError(f"the streams of task {id} are no fifos: {path}")
    attachment = Attachment(client.tasks, id, "", streams)
    try:
        status = await attachment.run(start=False)
        await client.tasks.delete(id)
        await attachment.drain()
    finally:
        attachment.close()
    return status


async def _exec(client: Client, values: Values) -> int:
    id, _ = values.need("container id", "command")
    exec_id = values["exec-id"]
    if not exec_id:
        raise InvalidArgumentError('Required flag "exec-id" not set')
    container = await client.containers.get(id)
    process = decode_spec(container.spec.value).process
    if process is None:
        raise InvalidArgumentError(f"the spec of container {id} has no process")
    _change_process(process, values)
    streams = streams_of(values, exec_id, tty=values["tty"])
    attachment = Attachment(client.tasks, id, exec_id, streams) if streams.stdin else None
    try:
        packed = typeurl.pack_json(typeurl.PROCESS, codec.encode(process))
        await client.tasks.exec(
            id,
            exec_id,
            packed,
            stdin=streams.stdin,
            stdout=streams.stdout,
            stderr=streams.stderr,
            terminal=values["tty"],
        )
        return await _run_exec(client, id, exec_id, values, attachment)
    finally:
        if attachment is not None:
            attachment.close()
        if not values["detach"]:
            remove_fifos(streams)


def _change_process(process: ProcessSpec, values: Values) -> None:
    process.args = values.arguments[1:]
    process.terminal = values["tty"]
    if values["cwd"]:
        process.cwd = values["cwd"]
    if values["user"]:
        uid, _, gid = values["user"].partition(":")
        if not uid.isdigit() or (gid and not gid.isdigit()):
            raise InvalidArgumentError(f"user: expected uid[:gid], got {values['user']!r}")
        process.user.uid, process.user.gid = int(uid), int(gid or 0)
        process.user.additional_gids = []


async def _run_exec(client: Client, id: str, exec_id: str, values: Values, attachment: Attachment | None) -> int:
    if values["detach"]:
        await client.tasks.start(id, exec_id)
        return 0
    try:
        if attachment is None:
            waiting = asyncio.ensure_future(client.tasks.wait(id, exec_id))
            await client.tasks.start(id, exec_id)
            status = (await waiting).exit_status
        else:
            status = await attachment.run()
    finally:
        try:
            await asyncio.shield(asyncio.ensure_future(client.tasks.delete_process(id, exec_id)))
        except OrlopError:
            pass  # it still runs because we were interrupted, or the start failed: that error is on its way
    if attachment is not None:
        await attachment.drain()
    return status


async def _kill(client: Client, values: Values) -> None:
    (id,) = values.need("container id")
    number = signal_number(values["signal"] or await _stop_signal(client, id))
    await client.tasks.kill(id, number, exec_id=values["exec-id"], all=values["all"])


async def _stop_signal(client: Client, id: str) -> str:
    """The signal that ends a container, as its image says."""
    return (await client.containers.get(id)).labels.get(STOP_SIGNAL_LABEL) or "SIGTERM"


def signal_number(text: str) -> int:
    """The number of a signal given as `9`, `KILL` or `SIGKILL`. Raises InvalidArgumentError."""
    if text.isdigit():
        return int(text)
    name = text.upper()
    try:
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    except KeyError:
        raise InvalidArgumentError(f"signal: unknown signal {text!r}") from None


async def _delete(client: Client, values: Values) -> None:
    values.need("container id")
    for id in values.arguments:
        if values["exec-id"]:
            gone = await client.tasks.delete_process(id, values["exec-id"])
        else:
            gone = await _delete_one(client, id, force=values["force"])
        if gone.exit_status:
            print(f"ctr: task {id} exit with non-zero exit code {gone.exit_status}", file=sys.stderr)


async def _delete_one(client: Client, id: str, *, force: bool) -> Any:
    if force:
        waiting = asyncio.ensure_future(client.tasks.wait(id))
        try:
            await client.tasks.kill(id, signal.SIGKILL, all=True)
            await waiting
        except OrlopError as error:
            if isinstance(error, NotFoundError) and (await client.tasks.get(id)).status == Status.UNKNOWN:
                raise
        finally:
            waiting.cancel()
    return await client.tasks.delete(id)


async def _pause(client: Client, values: Values) -> None:
    await client.tasks.pause(values.need("container id")[0])


async def _resume(client: Client, values: Values) -> None:
    await client.tasks.resume(values.need("container id")[0])


async def _ps(client: Client, values: Values) -> None:
    processes = await client.tasks.pids(values.need("container id")[0])
    rows = [("PID", "INFO")]
    for process in processes:
        info = json.dumps({"type_url": process.info.type_url}) if process.HasField("info") else "-"
        rows.append((str(process.pid), info))
    print(table.lines(rows, padding=4, minimum=1, trail=False), end="")


async def _metrics(client: Client, values: Values) -> None:
    (id,) = values.need("container id")
    if values["format"] not in ("table", "json"):
        raise InvalidArgumentError("format must be table or json")
    found = await client.tasks.metrics(f"id=={id}")
    if not found:
        raise NotFoundError(f"no metrics received for task {id}")
    metric = found[0]
    from orlop.api import cgroup_metrics_v1_pb2, cgroup_metrics_v2_pb2

    data = typeurl.decode(metric.data)
    if values["format"] == "json":
        from google.protobuf.json_format import MessageToDict

        print(json.dumps(MessageToDict(data, preserving_proto_field_name=True), indent=2))
        return
    print(table.lines([("ID", "TIMESTAMP"), (metric.id, table.go_time(metric.timestamp))], minimum=1))
    rows = [("METRIC", "VALUE")]
    if isinstance(data, cgroup_metrics_v1_pb2.Metrics):
        rows += _rows(data, _V1_METRICS)
    elif isinstance(data, cgroup_metrics_v2_pb2.Metrics):
        rows += _rows(data, _V2_METRICS)
    print(table.lines(rows, minimum=1), end="")


_V1_METRICS = (
    ("memory.usage_in_bytes", "memory.usage.usage"),
    ("memory.limit_in_bytes", "memory.usage.limit"),
    ("memory.stat.cache", "memory.total_cache"),
    ("cpuacct.usage", "cpu.usage.total"),
    ("cpuacct.usage_percpu", "cpu.usage.per_cpu"),
    ("pids.current", "pids.current"),
    ("pids.limit", "pids.limit"),
)
_V2_METRICS = tuple(
    (name, name)
    for name in (
        "pids.current",
        "pids.limit",
        "cpu.usage_usec",
        "cpu.user_usec",
        "cpu.system_usec",
        "cpu.nr_periods",
        "cpu.nr_throttled",
        "cpu.throttled_usec",
        "memory.usage",
        "memory.usage_limit",
        "memory.swap_usage",
        "memory.swap_limit",
    )
)


def _rows(data: Message, metrics: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    rows = []
    for name, path in metrics:
        first, *rest = path.split(".")
        if not data.HasField(first):
            continue
        value: Any = getattr(data, first)
        for field in rest:
            value = getattr(value, field)
        rows.append((name, str(value) if isinstance(value, int) else f"[{' '.join(map(str, value))}]"))
    return rows


async def _checkpoint(client: Client, values: Values) -> None:
    from orlop.api.runc_options_pb2 import CheckpointOptions

    (id,) = values.need("container id")
    options = CheckpointOptions(
        exit=values["exit"], image_path=values["image-path"], work_path=values["work-path"]
    )
    for descriptor in await client.tasks.checkpoint(id, typeurl.pack(options)):
        print(descriptor.digest)


_TASK_STREAMS = (
    *STREAM_FLAGS,
    Flag("pid-file", help="file path to write the task's pid"),
    Flag("no-pivot", bool, help="disable use of pivot-root"),
)

COMMANDS = {
    "attach": Command(_attach, "attach to the IO of a running container", "CONTAINER"),
    "checkpoint": Command(
        _checkpoint,
        "checkpoint a container",
        "[flags] CONTAINER",
        (
            Flag("exit", bool, help="stop the container after the checkpoint"),
            Flag("image-path", help="path to criu image files"),
            Flag("work-path", help="path to criu work files and logs"),
        ),
    ),
    "delete": Command(
        _delete,
        "delete one or more tasks",
        "CONTAINER [CONTAINER, ...]",
        (
            Flag("force f", bool, help="force delete task process"),
            Flag("exec-id", help="process ID to delete"),
        ),
    ),
    "exec": Command(
        _exec,
        "execute additional processes in an existing container",
        "[flags] CONTAINER CMD [ARG...]",
        (
            Flag("cwd", help="working directory of the new process"),
            Flag("tty t", bool, help="allocate a TTY for the container"),
            Flag("exec-id", help="exec specific id for the process"),
            Flag("user", help="user id and group id"),
            *STREAM_FLAGS,
        ),
    ),
    "kill": Command(
        _kill,
        "signal a container (default: what its image says, else SIGTERM)",
        "[flags] CONTAINER",
        (
            Flag("signal s", help="signal to send to the container"),
            Flag("exec-id", help="process ID to kill"),
            Flag("all a", bool, help="send signal to all processes inside the container"),
        ),
    ),
    "list": Command(_list, "list tasks", "[flags]", (Flag("quiet q", bool, help="print only the task id"),)),
    "metrics": Command(
        _metrics,
        "get a single data point of metrics for a task with the built-in Linux runtime",
        "CONTAINER",
        (Flag("format", str, "table", '"table" or "json"'),),
    ),
    "metric": Command(_metrics, "as metrics", "CONTAINER", (Flag("format", str, "table", '"table" or "json"'),)),
    "pause": Command(_pause, "pause an existing container", "CONTAINER"),
    "ps": Command(_ps, "list processes for container", "CONTAINER"),
    "resume": Command(_resume, "resume a paused container", "CONTAINER"),
    "start": Command(_start, "start a container that has been created", "[flags] CONTAINER", _TASK_STREAMS),
}
