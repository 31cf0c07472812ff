# SPDX-License-Identifier: Apache-2.0
"""Plays a few lives of a container to a real shim in the zygote, so that shims find everything used.

An interpreter writes to classes that it makes the first instances of, to caches, and to what it imports late. Done
here, before the zygote forks, that is written once for all shims. What is real: the sockets, the messages, the
streams, the log, the helpers, the children and their exits. What is not: containers; the helpers fork processes
that only wait or end.
"""

import json
import os
import select
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from orlop.api import shim_v2_pb2 as api
from orlop.api.events_ttrpc_pb2 import DESCRIPTOR
from orlop.libcontainer import sync
from orlop.libcontainer.facts import START_SOCKET
from orlop.rpc.ttrpc import frame, methods
from orlop.rpc.ttrpc.server import Call, Server
from orlop.shim import bootstrap, log
from orlop.shim.bootstrap import Start, bind
from orlop.shim.runtime import Options, Started
from orlop.shim.runtime.helper import Answer, Facts
from orlop.shim.runtime.inprocess import InProcessRuntime
from orlop.shim.server import SERVICES, Shim
from orlop.unix.process import PR_SET_CHILD_SUBREAPER, prctl

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from orlop.shim.loop import Loop
    from orlop.shim.reaper import Reaper

_LIVES = 3
"""Once to fill caches, once more on filled ones, and once for what is done every other time."""
_WITHIN = 10.0
"""Seconds for it all; on an idle machine it takes a tenth of one."""
_PLACES = "/tmp/orlop-zygote-"
_ID = "rehearsal"
_CONFIG = b'{"linux":{"namespaces":[{"type":"pid"}]},"annotations":{"a":"b"}}'
_PROCESS = b'{"args":["true"],"cwd":"/"}'


def rehearse() -> None:
    """Play. Raises TimeoutError and whatever goes wrong; leaves no process, descriptor or file behind."""
    # Neither tempfile nor shutil, whose imports (random, compression) every shim would carry.
    _sweep()
    directory = f"{_PLACES}{os.getpid()}-{os.urandom(8).hex()}"
    os.mkdir(directory, 0o700)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    _Rehearsed.alive, writer = os.pipe()
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        with open(f"{directory}/config.json", "wb") as file:
            file.write(_CONFIG)
        for _ in range(_LIVES):
            _prepare(directory)
        _play(directory)
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0)
        os.close(_Rehearsed.alive)
        os.close(writer)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _remove(directory)


def _sweep() -> None:
    """Remove what zygotes have left that were killed in the middle of theirs."""
    parent, prefix = _PLACES.rsplit("/", 1)
    for name in os.listdir(parent):
        pid = name.removeprefix(prefix).partition("-")[0]
        if not name.startswith(prefix) or os.path.exists(f"/proc/{pid}"):
            continue
        try:
            if os.lstat(f"{parent}/{name}").st_uid == os.geteuid():
                _remove(f"{parent}/{name}")
        except OSError:
            continue  # another zygote does the same, or somebody else has a file of that name


def _remove(directory: str) -> None:
    for name in os.listdir(directory):
        path = f"{directory}/{name}"
        if os.path.isdir(path) and not os.path.islink(path):
            _remove(path)
        else:
            os.unlink(path)
    os.rmdir(directory)


def _prepare(directory: str) -> None:
    """What the zygote does for each request, and the shim first."""
    from orlop.shim import zygote

    packet = {"id": _ID, "namespace": _ID, "bundle": directory, "address": directory, "socket_dir": directory}
    start, bundle = zygote.parse(json.dumps(packet).encode())
    path = bootstrap.socket_address(start, bootstrap.group_of(bundle, start.id))
    listener = bind(path)
    assert listener is not None
    socket.socket(fileno=listener).close()
    os.unlink(path)
    json.dumps({"address": path, "pid": 1}).encode()
    log.configure(False, "", "")


def _play(directory: str) -> None:
    events, listener = bind(f"{directory}/events.sock"), bind(f"{directory}/shim.sock")
    assert events is not None and listener is not None
    start = Start(_ID, _ID, directory, f"{directory}/events.sock", directory, False, True)
    shim = Shim(socket.socket(fileno=listener), start, f"{directory}/shim.sock", runtimes=_runtime)
    containerd = Server(shim.loop, log.exception)
    containerd.add_service(DESCRIPTOR.services_by_name["Events"], {"Forward": _take_event})
    containerd.listen(socket.socket(fileno=events))
    script = shim.loop.spawn(_script(_Client(shim.loop, f"{directory}/shim.sock"), directory))
    script.on_done(shim.loop.stop)
    shim.loop.call_later(_WITHIN, shim.loop.stop)
    shim.run()
    containerd.close()
    shim.close()
    if not script.done:
        raise TimeoutError("the rehearsal takes too long")
    script.result()


def _take_event(_request: Any, call: Call) -> None:
    from google.protobuf.empty_pb2 import Empty

    call.reply(Empty())


class _Client:
    """A containerd that makes one call after the other."""

    def __init__(self, loop: "Loop", path: str) -> None:
        self._loop = loop
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.connect(path)
        self._decoder = frame.Decoder()
        self._stream = -1

    async def call(self, name: str, **fields: Any) -> Any:
        """One call, with both versions of the service in turn."""
        self._stream += 2
        service = SERVICES[self._stream // 2 % 2]
        method = methods.method_of(service, name)
        request: Message = method.request(**fields)
        metadata = {methods.NAMESPACE_KEY: _ID}
        self._sock.sendall(methods.encode_request(self._stream, service, name, request, metadata=metadata))
        while True:
            await self._loop.readable(self._sock.fileno())
            for answer in self._decoder.feed(self._sock.recv(65536)):
                return methods.decode_response(answer, method)

    def close(self) -> None:
        self._sock.close()


async def _script(client: _Client, directory: str) -> None:
    for number in range(_LIVES):
        await _life(client, directory, f"{_ID}{number}")
    client.close()


async def _life(client: _Client, directory: str, name: str) -> None:
    stdout = f"json-file://{directory}/{name}.log?max-size=1000&max-file=2&attach={directory}/attach.sock"
    create = api.CreateTaskRequest(id=name, bundle=directory, stdout=stdout, stderr=stdout)
    create.options.type_url = "containerd.runc.v1.Options"
    await client.call("Connect", id=name)
    await client.call("Create", id=name, bundle=directory, stdout=stdout, stderr=stdout, options=create.options)
    await client.call("State", id=name)
    await client.call("Start", id=name)
    for exec_id in ("a", "b"):
        stream = f"attach://{directory}/{exec_id}.sock"
        create.options.value = _PROCESS
        await client.call("Exec", id=name, exec_id=exec_id, stdout=stream, stderr=stream, spec=create.options)
        await client.call("Start", id=name, exec_id=exec_id)
        await client.call("Wait", id=name, exec_id=exec_id)
        await client.call("State", id=name, exec_id=exec_id)
        await client.call("Delete", id=name, exec_id=exec_id)
    await client.call("Pids", id=name)
    await client.call("Kill", id=name, signal=signal.SIGKILL)
    await client.call("Wait", id=name)
    await client.call("State", id=name)
    await client.call("Delete", id=name)


def _runtime(
    _options: Any, container_id: str, bundle: str, _namespace: str, loop: "Loop", reaper: "Reaper", _early: Any
) -> "_Rehearsed":
    return _Rehearsed(container_id, bundle, Options(root=bundle), loop, reaper)


class _Rehearsed(InProcessRuntime):
    """The real driver, whose helpers do something else."""

    alive = -1
    """A pipe that ends with the zygote, and its container with it."""
    _init = 0

    async def _run(self, work: Callable[[], Answer], keep: tuple[int, ...] = ()) -> Answer:
        operation = work.__qualname__.split(".")[1]

        def act() -> Answer:
            if operation == "create":
                os.mkdir(state)
                listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                listener.bind(f"{state}/{START_SOCKET}")
                listener.listen()
                facts = Facts(_fork(keep[1], listener, self.alive), "", {}, poststart=False, plain_end=True)
                return facts._asdict(), None
            if operation == "kill":
                os.kill(self._init, signal.SIGKILL)
            return {"pids": [self._init]}, None

        state = f"{self._options.root}/{self._id}"
        answer = await super()._run(act, (*keep, self.alive))
        if operation == "create":
            self._init = answer[0]["pid"]
        return answer

    async def _exec(self, _process: bytes, stdio: tuple[int, int, int], _terminal: bool) -> Started:
        ours, theirs = sync.pair()
        pid = _fork(stdio[1], None, self.alive)
        theirs.close()
        await self._loop.readable(ours.fd)
        ours.receive_raw()
        ours.close()
        return Started(pid, None)


def _fork(stdout: int, listener: socket.socket | None, alive: int) -> int:
    pid = os.fork()
    if pid == 0:
        _be_container(stdout, listener, alive)
    return pid


def _be_container(stdout: int, listener: socket.socket | None, alive: int) -> NoReturn:
    """An exec ends at once; init waits until somebody wants to start it, and then until it is killed.

    Not when the zygote has been killed, which shows at `alive`.
    """
    try:
        if listener is not None:
            if alive in select.select([listener.fileno(), alive], [], [], _WITHIN)[0]:
                os._exit(1)
            starter, _ = listener.accept()
            starter.recv(16)
            starter.close()
        os.write(stdout, b"rehearsal\n")
        if listener is not None:
            select.select([alive], [], [], _WITHIN)
    finally:
        os._exit(0)
