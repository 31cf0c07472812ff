# SPDX-License-Identifier: Apache-2.0
"""Shims under test: a fake containerd that receives events, bundles with busybox, and a client of the Task API."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty

from orlop.api import events_pb2, shim_v3_pb2
from orlop.api import shim_v2_pb2 as api
from orlop.api.events_ttrpc_pb2 import ForwardRequest
from orlop.api.runc_options_pb2 import Options
from orlop.rpc import stdcopy
from orlop.rpc.ttrpc import frame, methods
from orlop.rpc.ttrpc.client import Client

TASK = shim_v3_pb2.DESCRIPTOR.services_by_name["Task"]
TASK_V2 = api.DESCRIPTOR.services_by_name["Task"]
APPLETS = (
    "sh",
    "echo",
    "cat",
    "sleep",
    "ls",
    "stty",
    "true",
    "false",
    "seq",
    "kill",
    "tty",
    "printf",
    "test",
    "touch",
)


def eventually(what: Callable[[], Any], within: float = 10.0) -> Any:
    """Wait until `what()` is true and return it; for what other processes do on their own."""
    deadline = time.monotonic() + within
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


class EventSink:
    """The Events service of a containerd, in a thread: keeps what shims forward."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[Any] = []
        self.namespaces: set[str] = set()
        self.refuse = 0
        self._changed = threading.Condition()
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._start(self._accept)

    def _start(self, work: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        decoder, last = frame.Decoder(), -1
        while True:
            try:
                data = connection.recv(65536)
            except OSError:
                return
            if not data:
                return
            for received in decoder.feed(data):
                call = methods.decode_request(received, last)
                last = received.stream
                assert (call.service, call.method) == ("containerd.services.events.ttrpc.v1.Events", "Forward")
                if self.refuse:
                    self.refuse -= 1
                    connection.sendall(methods.encode_error(received.stream, ValueError("try again")))
                    continue
                envelope = ForwardRequest.FromString(call.payload).envelope
                event = getattr(events_pb2, envelope.event.type_url.rpartition(".")[2]).FromString(
                    envelope.event.value
                )
                with self._changed:
                    self.events.append((envelope.topic, event))
                    self.namespaces.add(envelope.namespace)
                    self._changed.notify_all()
                try:
                    connection.sendall(methods.encode_reply(received.stream, Empty()))
                except BrokenPipeError:
                    return  # the shim has been killed meanwhile

    def topics(self) -> list[str]:
        """The topics so far, in order, without /tasks/."""
        with self._changed:
            return [topic.removeprefix("/tasks/") for topic, _ in self.events]

    def wait_for(self, topic: str, count: int = 1, within: float = 10.0) -> Any:
        """The `count`th event of a topic."""
        with self._changed:

            def found() -> list[Any]:
                return [event for name, event in self.events if name == f"/tasks/{topic}"]

            assert self._changed.wait_for(lambda: len(found()) >= count, within), self.events
            return found()[count - 1]

    def close(self) -> None:
        """Go away like a containerd that is killed."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for connection in self._connections:
            connection.close()
        self.path.unlink()


def make_rootfs(path: Path) -> Path:
    """A root file system of the host's static busybox."""
    for name in ("bin", "proc", "sys", "dev", "tmp", "etc"):
        (path / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", path / "bin/busybox")
    for applet in APPLETS:
        (path / "bin" / applet).symlink_to("busybox")
    return path


def spec_of(
    rootfs: Path, args: list[str], cgroup: str, *, terminal: bool = False, **changes: Any
) -> dict[str, Any]:
    """A config.json, as small as runtimes take."""
    namespaces = [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")]
    spec: dict[str, Any] = {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": terminal,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {name: ["CAP_KILL", "CAP_SETUID"] for name in ("bounding", "effective", "permitted")},
        },
        "root": {"path": str(rootfs)},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
            },
        ],
        "linux": {"namespaces": namespaces, "cgroupsPath": cgroup},
    }
    spec.update(changes)
    return spec


class Shim:
    """A running shim and one client of it. Commands of the task are made against one container."""

    def __init__(self, lab: "Lab", container_id: str, bundle: Path, address: str, pid: int) -> None:
        self.lab = lab
        self.id = container_id
        self.bundle = bundle
        self.address = address
        self.pid = pid
        self.client = Client.connect(address)
        self.attach_path = str(bundle / "attach.sock")
        self.log_path = bundle / "c.log"

    def call(self, method: str, request: Any, timeout: float = 20) -> Any:
        """One call of the Task API."""
        return self.client.call(
            TASK, method, request, timeout=timeout, metadata={methods.NAMESPACE_KEY: self.lab.namespace}
        )

    def create(self, **fields: Any) -> Any:
        """Create with the lab's runtime; streams default to a json-file log with an attach socket."""
        uri = f"json-file://{self.log_path}?attach={self.attach_path}"
        fields.setdefault("stdout", uri)
        if not fields.get("terminal"):
            fields.setdefault("stderr", uri)
        request = api.CreateTaskRequest(id=self.id, bundle=str(self.bundle), **fields)
        request.options.type_url = "containerd.runc.v1.Options"
        request.options.value = self.lab.options.SerializeToString()
        return self.call("Create", request)

    def start(self, exec_id: str = "") -> Any:
        return self.call("Start", api.StartRequest(id=self.id, exec_id=exec_id))

    def run(self, **fields: Any) -> Any:
        """Create and start."""
        self.create(**fields)
        return self.start()

    def wait(self, exec_id: str = "", timeout: float = 20) -> int:
        return int(self.call("Wait", api.WaitRequest(id=self.id, exec_id=exec_id), timeout).exit_status)

    def state(self, exec_id: str = "") -> Any:
        return self.call("State", api.StateRequest(id=self.id, exec_id=exec_id))

    def kill(self, number: int = 9, exec_id: str = "", everyone: bool = False) -> None:
        self.call("Kill", api.KillRequest(id=self.id, exec_id=exec_id, signal=number, all=everyone))

    def exec(self, exec_id: str, args: list[str], *, terminal: bool = False, **fields: Any) -> None:
        """Add an exec; its streams default to an attach socket of its own."""
        uri = f"attach://{self.exec_socket(exec_id)}"
        fields.setdefault("stdout", uri)
        if not terminal:
            fields.setdefault("stderr", uri)
        request = api.ExecProcessRequest(id=self.id, exec_id=exec_id, terminal=terminal, **fields)
        process = {
            "cwd": "/",
            "args": args,
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
            "terminal": terminal,
        }
        request.spec.type_url = "types.containerd.io/opencontainers/runtime-spec/1/Process"
        request.spec.value = json.dumps(process).encode()
        self.call("Exec", request)

    def exec_socket(self, exec_id: str) -> str:
        return str(self.bundle / f"{exec_id}.sock")

    def delete(self, exec_id: str = "") -> Any:
        return self.call("Delete", api.DeleteRequest(id=self.id, exec_id=exec_id))

    def shutdown(self) -> None:
        """End it, and see that it has ended and left no socket."""
        self.call("Shutdown", api.ShutdownRequest(id=self.id))
        eventually(lambda: not os.path.exists(f"/proc/{self.pid}") or is_zombie(self.pid))
        assert not os.path.exists(self.address.removeprefix("unix://"))

    def log(self) -> list[tuple[str, str]]:
        """The entries of the json-file log as (stream, text)."""
        return [
            (entry["stream"], entry["log"]) for entry in map(json.loads, self.log_path.read_bytes().splitlines())
        ]

    def close(self) -> None:
        self.client.close()


class Attached:
    """A client of an attach socket."""

    def __init__(self, path: str, *, stdin: bool = False, stdout: bool = True, stderr: bool = True) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(path)
        hello = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        self.sock.sendall(json.dumps(hello).encode() + b"\n")
        self._early = b""
        while b"\n" not in self._early:
            data = self.sock.recv(4096)
            assert data, "closed before the answer"
            self._early += data
        answer, _, self._early = self._early.partition(b"\n")
        self.answer = json.loads(answer)
        self._decoder = stdcopy.Decoder()
        self.streams: dict[int, bytes] = {1: b"", 2: b""}
        self._take(self._early)

    def _take(self, data: bytes) -> None:
        for stream, payload in self._decoder.feed(data):
            self.streams[stream] += payload

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def end_input(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def read_until(self, text: bytes, stream: int = 1) -> bytes:
        """Read until the stream has that text."""
        while text not in self.streams[stream]:
            data = self.sock.recv(65536)
            assert data, f"end of file before {text!r}: {self.streams}"
            self._take(data)
        return self.streams[stream]

    def read_all(self) -> dict[int, bytes]:
        """Everything until end of file."""
        while data := self.sock.recv(65536):
            self._take(data)
        assert self._decoder.pending == 0
        return self.streams

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> "Attached":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Lab:
    """A private place for shims: bundles, sockets, an event sink and a zygote. `runtime` names a driver."""

    def __init__(self, directory: Path, rootfs: Path, runtime: str = "") -> None:
        self.directory = directory
        self.rootfs = rootfs
        self.namespace = "lab"
        self.name = uuid.uuid4().hex[:8]
        self.options = Options(binary_name=runtime, root=str(directory / "runtime"))
        self.sockets = directory / "s"
        self.sockets.mkdir()
        self.sink = EventSink(directory / "events")
        self.shims: list[Shim] = []
        self._logs: list[int] = []
        self._channel: socket.socket | None = None
        self._zygote: subprocess.Popen[bytes] | None = None

    def bundle(self, container_id: str, args: list[str], **changes: Any) -> Path:
        """A bundle whose container runs `args`."""
        bundle = self.directory / container_id
        (bundle / "rootfs").mkdir(parents=True)
        terminal = bool(changes.pop("terminal", False))
        spec = spec_of(self.rootfs, args, f"/orlop-shim-{self.name}-{container_id}", terminal=terminal, **changes)
        (bundle / "config.json").write_text(json.dumps(spec))
        os.mkfifo(bundle / "log")
        self._logs.append(os.open(bundle / "log", os.O_RDWR | os.O_NONBLOCK))
        return bundle

    def shim(self, args: list[str], container_id: str = "c1", **changes: Any) -> Shim:
        """A shim from the zygote with a bundle to run `args` in."""
        bundle = self.bundle(container_id, args, **changes)
        answer = self.request(
            id=container_id,
            namespace=self.namespace,
            bundle=str(bundle),
            address=str(self.directory / "grpc"),
            ttrpc_address=str(self.sink.path),
            socket_dir=str(self.sockets),
            debug=True,
        )
        assert "error" not in answer, answer
        shim = Shim(self, container_id, bundle, answer["address"], answer["pid"])
        self.shims.append(shim)
        return shim

    def request(self, **fields: Any) -> dict[str, Any]:
        """Ask the zygote."""
        if self._channel is None:
            self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._channel.settimeout(20)
            code = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.execv(sys.executable, sys.argv[2:])"
            command = [sys.executable, "-P", "-m", "orlop.shim.zygote"]
            self._zygote = subprocess.Popen(
                [sys.executable, "-c", code, str(theirs.fileno()), *command], pass_fds=[theirs.fileno()]
            )
            theirs.close()
        fds = [os.open(f"{fields['bundle']}/log", os.O_RDWR | os.O_NONBLOCK)] if "bundle" in fields else []
        socket.send_fds(self._channel, [json.dumps(fields).encode()], fds)
        for fd in fds:
            os.close(fd)
        answer = json.loads(self._channel.recv(65536))
        assert isinstance(answer, dict)
        return answer

    def end_zygote(self) -> None:
        """As when containerd dies."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._zygote is not None:
            assert self._zygote.wait(10) == 0
            self._zygote = None

    def shim_log(self) -> str:
        """What the shims have said, for a test that fails."""
        text = b""
        for fd in self._logs:
            try:
                text += os.read(fd, 65536)
            except BlockingIOError:
                continue
        return text.decode()

    def close(self) -> None:
        """End everything, even after a test that failed."""
        for shim in self.shims:
            shim.close()
            if os.path.exists(f"/proc/{shim.pid}") and not is_zombie(shim.pid):
                children = children_of(shim.pid)
                os.kill(shim.pid, signal.SIGKILL)
                for child in children:
                    kill(child)
        self.end_zygote()
        self.sink.close()
        print(self.shim_log())
        for fd in self._logs:
            os.close(fd)


def kill(pid: int) -> None:
    """SIGKILL, if it is still there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def children_of(pid: int) -> list[int]:
    """The direct children of a process."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def is_zombie(pid: int) -> bool:
    """Whether it has ended and only waits to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def pids_of(word: str) -> list[int]:
    """The processes that have `word` in their command line."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                found.append(int(pid))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
