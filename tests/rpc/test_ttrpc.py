# SPDX-License-Identifier: Apache-2.0
"""ttrpc: frames, both servers and both clients, and peers that misbehave."""

import asyncio
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty

from orlop.api import shim_v2_pb2 as shim
from orlop.api import shim_v3_pb2, ttrpc_pb2
from orlop.errdefs import (
    DeadlineExceededError,
    NotFoundError,
    NotImplementedByUsError,
    ResourceExhaustedError,
    UnavailableError,
)
from orlop.rpc.ttrpc import aio, frame, methods
from orlop.rpc.ttrpc.client import Client
from orlop.rpc.ttrpc.server import Call, Server

TASK = shim.DESCRIPTOR.services_by_name["Task"]
TASK_V3 = shim_v3_pb2.DESCRIPTOR.services_by_name["Task"]


class MiniTimer:
    def __init__(self, due: float, callback: Callable[[], None]) -> None:
        self.due = due
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class MiniLoop:
    """The smallest loop that a Server can live in, in a thread of the test."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.callbacks: dict[int, Callable[[int], None]] = {}
        self.timers: list[MiniTimer] = []
        self.stopping = False

    def add(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        self.callbacks[fd] = callback
        self.epoll.register(fd, events)

    def modify(self, fd: int, events: int) -> None:
        self.epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        self.epoll.unregister(fd)
        del self.callbacks[fd]

    def call_later(self, seconds: float, callback: Callable[[], None]) -> MiniTimer:
        timer = MiniTimer(time.monotonic() + seconds, callback)
        self.timers.append(timer)
        return timer

    def run(self) -> None:
        while not self.stopping:
            for fd, events in self.epoll.poll(0.01):
                if fd in self.callbacks:
                    self.callbacks[fd](events)
            for timer in [timer for timer in self.timers if timer.due <= time.monotonic()]:
                self.timers.remove(timer)
                if not timer.cancelled:
                    timer.callback()


class Served:
    def __init__(self, path: Path) -> None:
        self.loop = MiniLoop()
        self.unexpected: list[tuple[str, Exception]] = []
        self.waiting: list[Call] = []
        self.server = Server(self.loop, lambda method, error: self.unexpected.append((method, error)))
        handlers = {
            "State": lambda request, call: shim.StateResponse(
                id=request.id, exec_id=call.metadata.get(methods.NAMESPACE_KEY, "")
            ),
            "Kill": self.kill,
            "Wait": lambda request, call: self.waiting.append(call),
            "Pids": lambda request, call: 1 / 0,
            "Create": lambda request, call: shim.CreateTaskResponse(pid=len(request.bundle)),
        }
        self.server.add_service(TASK, handlers)
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))
        sock.listen()
        self.server.listen(sock)
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        self.loop.run()
        self.server.close()
        self.loop.epoll.close()

    @staticmethod
    def kill(request: Any, call: Call) -> Empty:
        raise NotFoundError(f"container {request.id}: not found")

    def stop(self) -> None:
        self.loop.stopping = True
        self.thread.join()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Served, Path]]:
    path = tmp_path / "s"
    served = Served(path)
    yield served, path
    served.stop()


def test_call_carries_message_and_metadata(served: tuple[Served, Path]) -> None:
    with Client.connect(f"unix://{served[1]}") as client:
        answer = client.call(TASK, "State", shim.StateRequest(id="a"), metadata={methods.NAMESPACE_KEY: "moby"})
        assert (answer.id, answer.exec_id) == ("a", "moby")


def test_errors_keep_their_kind_and_text(served: tuple[Served, Path]) -> None:
    with Client.connect(str(served[1])) as client:
        with pytest.raises(NotFoundError, match=r"^container b: not found$"):
            client.call(TASK, "Kill", shim.KillRequest(id="b"))
        with pytest.raises(NotImplementedByUsError, match=r"^method Pause$"):
            client.call(TASK, "Pause", shim.PauseRequest())
        with pytest.raises(NotImplementedByUsError, match=r"^service containerd\.task\.v3\.Task$"):
            client.call(TASK_V3, "Pause", shim_v3_pb2.PauseRequest())
        assert client.call(TASK, "State", shim.StateRequest(id="x")).id == "x"


def test_bug_in_a_handler_is_answered_and_reported(served: tuple[Served, Path]) -> None:
    with Client.connect(str(served[1])) as client, pytest.raises(Exception, match="division by zero"):
        client.call(TASK, "Pids", shim.PidsRequest())
    assert [method for method, _ in served[0].unexpected] == ["Pids"]


def test_large_message_in_pieces(served: tuple[Served, Path]) -> None:
    with Client.connect(str(served[1])) as client:
        assert client.call(TASK, "Create", shim.CreateTaskRequest(bundle="x" * (4_000_000))).pid == 4_000_000
        with pytest.raises(ResourceExhaustedError):
            client.call(TASK, "Create", shim.CreateTaskRequest(bundle="x" * (5_000_000)))


def raw(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(5)
    sock.connect(str(path))
    return sock


def answers(sock: socket.socket, count: int) -> list[tuple[int, ttrpc_pb2.Response]]:
    decoder = frame.Decoder()
    found: list[tuple[int, ttrpc_pb2.Response]] = []
    while len(found) < count:
        data = sock.recv(65536)
        assert data, "connection closed"
        for received in decoder.feed(data):
            assert received.type == frame.RESPONSE
            found.append((received.stream, ttrpc_pb2.Response.FromString(received.payload or b"")))
    return found


def test_oversize_frame_is_refused_and_skipped(served: tuple[Served, Path]) -> None:
    with raw(served[1]) as sock:
        length = frame.MAX_PAYLOAD + 1000
        sock.sendall(struct.pack(">IIBB", length, 1, 1, 0))
        sock.sendall(b"x" * length)
        sock.sendall(methods.encode_request(3, TASK, "State", shim.StateRequest(id="after")))
        first, second = answers(sock, 2)
        assert (first[0], first[1].status.code) == (1, 8)
        assert shim.StateResponse.FromString(second[1].payload).id == "after"


def test_bad_stream_ids_and_bad_payload(served: tuple[Served, Path]) -> None:
    with raw(served[1]) as sock:
        good = methods.encode_request(5, TASK, "State", shim.StateRequest(id="1"))
        even = methods.encode_request(6, TASK, "State", shim.StateRequest(id="2"))
        reused = methods.encode_request(3, TASK, "State", shim.StateRequest(id="3"))
        junk = frame.encode(7, frame.REQUEST, 0, b"\xff\xff\xff")
        sock.sendall(good + even + reused + junk)
        codes = {stream: reply.status.code for stream, reply in answers(sock, 4)}
        assert codes == {5: 0, 6: 3, 3: 3, 7: 3}


def test_peer_vanishes_mid_frame(served: tuple[Served, Path]) -> None:
    with raw(served[1]) as sock:
        sock.sendall(methods.encode_request(1, TASK, "State", shim.StateRequest(id="1"))[:7])
    with raw(served[1]) as sock:
        sock.sendall(methods.encode_request(1, TASK, "Wait", shim.WaitRequest(id="1")))
        sock.sendall(methods.encode_request(3, TASK, "State", shim.StateRequest(id="1"))[:-1])
    with Client.connect(str(served[1])) as client:
        assert client.call(TASK, "State", shim.StateRequest(id="still here")).id == "still here"
        for call in served[0].waiting:
            call.reply(shim.WaitResponse())  # to nobody: dropped


def test_deferred_reply_and_deadline(served: tuple[Served, Path]) -> None:
    with raw(served[1]) as sock:
        sock.sendall(methods.encode_request(1, TASK, "Wait", shim.WaitRequest(id="1"), timeout=0.1))
        [(stream, reply)] = answers(sock, 1)
        assert (stream, reply.status.code) == (1, 4)
    with Client.connect(str(served[1])) as client, pytest.raises(DeadlineExceededError):
        client.call(TASK, "Wait", shim.WaitRequest(id="1"), timeout=0.1)


def test_blocking_client_on_a_dead_peer(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="connect to"):
        Client.connect(str(tmp_path / "none"))
    ours, theirs = socket.socketpair()
    theirs.close()
    with Client(ours) as client, pytest.raises(UnavailableError):
        client.call(TASK, "State", shim.StateRequest())


async def test_asyncio_client_overlaps_calls(served: tuple[Served, Path]) -> None:
    gone: list[int] = []
    client = await aio.Client.connect(f"unix://{served[1]}", on_close=lambda: gone.append(1))
    waiting = asyncio.create_task(client.call(TASK, "Wait", shim.WaitRequest(id="1")))
    states = await asyncio.gather(*(client.call(TASK, "State", shim.StateRequest(id=str(n))) for n in range(50)))
    assert [state.id for state in states] == [str(n) for n in range(50)]
    assert not waiting.done()
    served[0].loop.call_later(0, lambda: served[0].waiting[0].reply(shim.WaitResponse(exit_status=7)))
    assert (await waiting).exit_status == 7
    with pytest.raises(NotFoundError):
        await client.call(TASK, "Kill", shim.KillRequest(id="b"))
    with pytest.raises(DeadlineExceededError):
        await client.call(TASK, "Wait", shim.WaitRequest(id="1"), timeout=0.05)
    await client.close()
    assert gone == [1]
    with pytest.raises(UnavailableError):
        await client.call(TASK, "State", shim.StateRequest())


async def test_asyncio_server(tmp_path: Path) -> None:
    seen: list[str] = []
    cancelled = asyncio.Event()

    async def state(request: Any, metadata: dict[str, str]) -> shim.StateResponse:
        seen.append(metadata["k"])
        return shim.StateResponse(id=request.id)

    async def kill(request: Any, metadata: dict[str, str]) -> Empty:
        raise NotFoundError("no")

    async def wait(request: Any, metadata: dict[str, str]) -> shim.WaitResponse:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    server = aio.Server()
    server.add_service(TASK, {"State": state, "Kill": kill, "Wait": wait})
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "s"))
    sock.listen()
    await server.listen(sock)
    client = await aio.Client.connect(str(tmp_path / "s"))
    assert (await client.call(TASK, "State", shim.StateRequest(id="q"), metadata={"k": "v"})).id == "q"
    assert seen == ["v"]
    with pytest.raises(NotFoundError, match=r"^no$"):
        await client.call(TASK, "Kill", shim.KillRequest())
    with pytest.raises(NotImplementedByUsError):
        await client.call(TASK, "Pause", shim.PauseRequest())
    with pytest.raises(DeadlineExceededError):
        await client.call(TASK, "Wait", shim.WaitRequest(), timeout=0.05)
    await asyncio.wait_for(cancelled.wait(), 5)
    cancelled.clear()
    pending = asyncio.create_task(client.call(TASK, "Wait", shim.WaitRequest()))
    await client.call(TASK, "State", shim.StateRequest(id="q"), metadata={"k": "v"})
    await client.close()
    with pytest.raises(UnavailableError):
        await pending
    await asyncio.wait_for(cancelled.wait(), 5)
    await server.close()


def test_frames_survive_any_cut() -> None:
    stream = b"".join(frame.encode(n * 2 + 1, frame.REQUEST, 0, b"p" * n) for n in range(20))
    whole = frame.Decoder().feed(stream)
    assert [len(f.payload or b"") for f in whole] == list(range(20))
    for size in (1, 3, 9, 10, 11, 64):
        decoder = frame.Decoder()
        cut = [f for at in range(0, len(stream), size) for f in decoder.feed(stream[at : at + size])]
        assert cut == whole
        assert not decoder.pending


def test_oversize_frame_in_any_cut() -> None:
    length = frame.MAX_PAYLOAD + 1
    stream = struct.pack(">IIBB", length, 9, 1, 0) + b"x" * length + frame.encode(11, 1, 0, b"ok")
    for size in (10, 65536, len(stream)):
        decoder = frame.Decoder()
        pieces = [stream[:10]] + [stream[at : at + size] for at in range(10, len(stream), max(size, 4096))]
        frames = [f for piece in pieces for f in decoder.feed(piece)]
        assert [(f.stream, f.payload) for f in frames] == [(9, None), (11, b"ok")] or size == 10
