# SPDX-License-Identifier: Apache-2.0
"""ctr shim: calls of the Task API, made to a shim directly."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict

from orlop.api import shim_v2_pb2, shim_v3_pb2
from orlop.containerd.client import Client, typeurl
from orlop.ctr.commands.pprof import profiles
from orlop.ctr.flags import Flag, Values
from orlop.ctr.io import make_fifos, remove_fifos
from orlop.ctr.main import Command
from orlop.ctr.process import Attachment
from orlop.errdefs import InvalidArgumentError, NotFoundError, NotImplementedByUsError, UnavailableError
from orlop.rpc.ttrpc import client as ttrpc
from orlop.rpc.ttrpc.methods import NAMESPACE_KEY

if TYPE_CHECKING:
    from google.protobuf.message import Message

FLAGS = (
    Flag("id", help="container id"),
    Flag("shim-address", help="address of the shim, where it cannot be guessed"),
)
_SERVICES = {
    2: shim_v2_pb2.DESCRIPTOR.services_by_name["Task"],
    3: shim_v3_pb2.DESCRIPTOR.services_by_name["Task"],
}


class _Shim:
    """A connection to the shim of a container."""

    def __init__(self, client: Client, values: Values) -> None:
        if not values["id"]:
            raise InvalidArgumentError("container id must be specified")
        self._namespace = client.namespace
        self._connection = _connect(client, values)

    def call(self, method: str, request: Message, version: int = 0) -> Any:
        """Make a call, with the version of the API that is given, or that the shim knows."""
        metadata = {NAMESPACE_KEY: self._namespace}
        for number in (version,) if version else (3, 2):
            try:
                return self._connection.call(_SERVICES[number], method, request, metadata=metadata)
            except NotImplementedByUsError:
                if number != 3 or version:
                    raise
        raise AssertionError(method)


def _connect(client: Client, values: Values) -> ttrpc.Client:
    if values["shim-address"]:
        return ttrpc.Client.connect(values["shim-address"])
    for path in _places(client, values["id"]):
        try:
            return ttrpc.Client.connect(path)
        except UnavailableError:
            continue
    raise NotFoundError(f"shim of container {values['id']}: no socket is served; see --shim-address")


def _places(client: Client, *parts: str) -> list[str]:
    """Where a shim's socket may be: as shims of Go name it, in containerd's directory and in ours."""
    name = hashlib.sha256(os.path.join(client.address, client.namespace, *parts).encode()).hexdigest()
    beside = os.path.dirname(client.address)
    return [f"{directory}/{name}" for directory in ("/run/containerd/s", f"{beside}/s", f"{beside}/state/s")]


def _debug_socket(client: Client, values: Values) -> str:
    """The debug socket of a shim, which has one when containerd logs at the level debug."""
    if not values["id"]:
        raise InvalidArgumentError("container id must be provided")
    places = _places(client, values["id"], "debug")
    return next(filter(os.path.exists, places), places[0])


def _version(values: Values) -> int:
    if values.given("api-version") and values["api-version"] not in _SERVICES:
        raise InvalidArgumentError(f"api-version: expected 2 or 3, got {values['api-version']}")
    return int(values["api-version"]) if values.given("api-version") else 0


async def _state(client: Client, values: Values) -> None:
    shim = _Shim(client, values)
    request = shim_v2_pb2.StateRequest(id=values["task-id"] or values["id"])
    state = shim.call("State", request, _version(values))
    document = MessageToDict(state, preserving_proto_field_name=True, use_integers_for_enums=True)
    print(json.dumps(document, indent=4))


async def _start(client: Client, values: Values) -> None:
    _Shim(client, values).call("Start", shim_v2_pb2.StartRequest(id=values["id"]))


async def _delete(client: Client, values: Values) -> int:
    gone = _Shim(client, values).call("Delete", shim_v2_pb2.DeleteRequest(id=values["id"]))
    return int(gone.exit_status)


async def _shutdown(client: Client, values: Values) -> None:
    _Shim(client, values).call("Shutdown", shim_v2_pb2.ShutdownRequest(id=values["id"]), _version(values))


async def _exec(client: Client, values: Values) -> int:
    shim = _Shim(client, values)
    exec_id = f"ctr-{os.getpid()}"
    if values["attach"]:
        return await _attached(client, shim, values, exec_id)
    request = shim_v2_pb2.ExecProcessRequest(
        id=values["id"],
        exec_id=exec_id,
        terminal=values["tty"],
        stdin=values["stdin"],
        stdout=values["stdout"],
        stderr=values["stderr"],
        spec=typeurl.pack_json(typeurl.PROCESS, json.dumps(_process(values)).encode()),
    )
    shim.call("Exec", request)
    started = shim.call("Start", shim_v2_pb2.StartRequest(id=values["id"], exec_id=exec_id))
    print(f"exec running with pid {started.pid}")
    return 0


async def _attached(client: Client, shim: _Shim, values: Values, exec_id: str) -> int:
    """Run the process at our streams to its end: its exit status."""
    if any(values[name] for name in ("stdin", "stdout", "stderr")):
        raise InvalidArgumentError("attach: stdin, stdout and stderr are our own then")
    streams = make_fifos(exec_id, terminal=values["tty"])
    attachment = Attachment(client.tasks, values["id"], exec_id, streams)
    try:
        shim.call(
            "Exec",
            shim_v2_pb2.ExecProcessRequest(
                id=values["id"],
                exec_id=exec_id,
                terminal=values["tty"],
                stdin=streams.stdin,
                stdout=streams.stdout,
                stderr=streams.stderr,
                spec=typeurl.pack_json(typeurl.PROCESS, json.dumps(_process(values)).encode()),
            ),
        )
        try:
            status = await attachment.run()
        finally:
            shim.call("Delete", shim_v2_pb2.DeleteRequest(id=values["id"], exec_id=exec_id))
        await attachment.drain()
        return status
    finally:
        attachment.close()
        remove_fifos(streams)


def _process(values: Values) -> dict[str, Any]:
    """The OCI process that a file describes, or the flags and arguments."""
    if values["spec"]:
        with open(values["spec"], encoding="utf-8") as file:
            found: dict[str, Any] = json.load(file)
        return found
    if not values.arguments:
        raise InvalidArgumentError("a command must be provided, or --spec")
    process = {
        "args": values.arguments,
        "env": values["env"],
        "cwd": values["cwd"] or "/",
        "terminal": values["tty"],
    }
    return {**process, "user": {"uid": 0, "gid": 0}, "noNewPrivileges": True}


_API_VERSION = Flag("api-version", int, 3, "version of the shim's API")

COMMANDS = {
    **{f"pprof {name}": command for name, command in profiles(_debug_socket).items()},
    "delete": Command(_delete, "delete a container with a task"),
    "exec": Command(
        _exec,
        "exec a new process in the task's container",
        "[flags] [COMMAND] [ARG...]",
        (
            Flag("stdin", help="a fifo to read from"),
            Flag("stdout", help="a fifo or URI to write to"),
            Flag("stderr", help="a fifo or URI to write to"),
            Flag("tty t", bool, help="enable tty support"),
            Flag("attach a", bool, help="stay attached to the process, at streams of its own"),
            Flag("env e", list, help="add environment vars"),
            Flag("cwd", help="current working directory"),
            Flag("spec", help="runtime spec of the process"),
        ),
    ),
    "shutdown": Command(_shutdown, "shutdown shim if there is no active container", "", (_API_VERSION,)),
    "start": Command(_start, "start a container with a task"),
    "state": Command(
        _state,
        "get the state of all main process of the task",
        "",
        (Flag("task-id t", help="task id, where it is not the container's"), _API_VERSION),
    ),
}
