# SPDX-License-Identifier: Apache-2.0
"""Our gRPC server, asked by grpcio's client and, where a client would not say it, frame by frame."""

from __future__ import annotations

import asyncio
import os
import random
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import hpack
import pytest
from hpack.exceptions import HPACKError
from support.pace import PACE

from orlop import errdefs
from orlop.api import version_pb2, version_pb2_grpc
from orlop.rpc import grpc as rpc_grpc
from orlop.rpc.grpc_server.server import Server
from orlop.rpc.http2 import frames
from orlop.rpc.http2.fields import FieldReader
from orlop.rpc.http2.frames import ConnectionFault
from orlop.rpc.http2.headers import BlockReader, write_block

SECONDS = 30 * PACE
Behaviour = Callable[[Any, Any], Any]


def handlers(**behaviours: Behaviour) -> dict[str, Any]:
    """Handlers of raw bytes; the name says how many messages go in and out: `unary_stream_count`."""
    made = {}
    for name, behaviour in behaviours.items():
        kind, _, short = name.rpartition("_")
        made[short] = getattr(grpc, f"{kind}_rpc_method_handler")(behaviour)
    return made


@asynccontextmanager
async def serving(path: Path, server: Server, **behaviours: Behaviour) -> AsyncIterator[grpc.aio.Channel]:
    """A server with the service `t.T`, and a client's channel to it."""
    server.add_registered_method_handlers("t.T", handlers(**behaviours))
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(f"{path}/s")
    sock.listen()
    await server.listen(sock)
    try:
        async with grpc.aio.insecure_channel(
            f"unix:{path}/s", options=[("grpc.max_receive_message_length", 64 << 20)]
        ) as channel:
            yield channel
    finally:
        await server.stop()


async def echo(request: bytes, context: Any) -> bytes:
    return request


async def status_of(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_errors_become_statuses_and_bugs_are_told_of(tmp_path: Path) -> None:
    unexpected: list[str] = []
    busy = "busy: 100 % \N{SNOWMAN}\n"
    failures: list[Exception] = [errdefs.ConflictError(busy), ValueError("bug")]

    class Version(version_pb2_grpc.VersionServicer):
        async def Version(self, request: Any, context: Any) -> version_pb2.VersionResponse:  # type: ignore[override]
            if failures:
                raise failures.pop(0)
            return version_pb2.VersionResponse(version="1")

    async def count(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"1"
        raise errdefs.OutOfRangeError("end")

    server: Any = Server(lambda method, error: unexpected.append(method))
    version_pb2_grpc.add_VersionServicer_to_server(Version(), server)
    async with serving(tmp_path, server, unary_stream_count=count) as channel:
        stub: Any = version_pb2_grpc.VersionStub(channel)  # type: ignore[no-untyped-call]
        empty = version_pb2.google_dot_protobuf_dot_empty__pb2.Empty()
        with pytest.raises(errdefs.ConflictError, match=re.escape(busy)):
            await rpc_grpc.call(stub.Version(empty))
        with pytest.raises(errdefs.InternalError, match=r"^bug$"):
            await rpc_grpc.call(stub.Version(empty))
        assert (await rpc_grpc.call(stub.Version(empty))).version == "1"
        got = []
        with pytest.raises(errdefs.OutOfRangeError, match=r"^end$"):
            async for item in rpc_grpc.stream(channel.unary_stream("/t.T/count")(b"")):
                got.append(item)
        assert got == [b"1"]
        missing = (("/t.T/none", "unknown method none for service t.T"), ("/u.U/x", "unknown service u.U"))
        for path, told in missing:
            assert await status_of(channel.unary_unary(path)(b"")) == (grpc.StatusCode.UNIMPLEMENTED, told)
        # Version's request is a message: what is none cannot be read.
        path = "/containerd.services.version.v1.Version/Version"
        code, _ = await status_of(channel.unary_unary(path)(b"\xff"))
        assert code == grpc.StatusCode.INTERNAL
    assert unexpected == ["/containerd.services.version.v1.Version/Version"]


@pytest.mark.parametrize("size", [0, 1, frames.FRAME_SIZE, frames.WINDOW + 1, 5 << 20])
async def test_messages_of_every_size_go_both_ways(tmp_path: Path, size: int) -> None:
    async def twice(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request
            yield request[::-1]

    async def join(requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b"".join([request async for request in requests])

    data = random.Random(size).randbytes(size)
    server = Server()
    async with serving(
        tmp_path, server, unary_unary_echo=echo, stream_stream_twice=twice, stream_unary_join=join
    ) as channel:
        assert await channel.unary_unary("/t.T/echo")(data) == data
        answers = [answer async for answer in channel.stream_stream("/t.T/twice")(iter([data, b"x", data]))]
        assert answers == [data, data[::-1], b"x", b"x", data, data[::-1]]
        assert await channel.stream_unary("/t.T/join")(iter([data, data])) == data + data


@pytest.mark.parametrize("size", [0, frames.FRAME_SIZE, frames.WINDOW + 1, 1 << 20])
async def test_plain_functions_answer_at_once_or_give_something_to_wait_for(tmp_path: Path, size: int) -> None:
    """A request says what to do with it: its first byte."""
    tasks: list[object] = []

    async def later(request: bytes) -> bytes:
        await asyncio.sleep(0)
        tasks.append(asyncio.current_task())
        return request

    def one(request: bytes, context: Any) -> Any:
        if request.startswith(b"!"):
            raise errdefs.ConflictError("no")
        tasks.append(context.task)
        return later(request) if request.startswith(b"l") else request

    async def many_later(request: bytes) -> AsyncIterator[bytes]:
        yield request
        await asyncio.sleep(0)
        raise errdefs.OutOfRangeError("end")

    def many(request: bytes, context: Any) -> Any:
        return many_later(request) if request.startswith(b"l") else iter((request, b"", request))

    async with serving(tmp_path, Server(), unary_unary_one=one, unary_stream_many=many) as channel:
        for kind in (b"a", b"l"):
            data = kind + bytes(size)
            assert await channel.unary_unary("/t.T/one")(data) == data
        assert tasks[0] is None and tasks[1] is None and isinstance(tasks[2], asyncio.Task)
        assert await status_of(channel.unary_unary("/t.T/one")(b"!")) == (grpc.StatusCode.ABORTED, "no")
        data = b"a" + bytes(size)
        assert [each async for each in channel.unary_stream("/t.T/many")(data)] == [data, b"", data]
        got = []
        with pytest.raises(grpc.aio.AioRpcError, match="end"):
            async for each in channel.unary_stream("/t.T/many")(b"l"):
                got.append(each)
        assert got == [b"l"]


async def test_many_calls_at_once(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        await gate.wait()
        return request

    async with serving(tmp_path, Server(), unary_unary_wait=wait, unary_unary_echo=echo) as channel:
        waiting = [asyncio.ensure_future(channel.unary_unary("/t.T/wait")(b"%d" % n)) for n in range(300)]
        assert await channel.unary_unary("/t.T/echo")(b"past them") == b"past them"
        gate.set()
        assert await asyncio.gather(*waiting) == [b"%d" % n for n in range(300)]


async def test_metadata_and_limits(tmp_path: Path) -> None:
    seen: list[tuple[str, str | bytes]] = []

    async def note(request: bytes, context: Any) -> bytes:
        seen.extend(context.invocation_metadata())
        return bytes(int(request or b"0"))

    sent = (("containerd-namespace", "n"), ("blob-bin", b"\0\xff"), ("again", "1"), ("again", "2"))
    exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
    async with serving(tmp_path, Server(max_receive=100, max_send=200), unary_unary_note=note) as channel:
        call = channel.unary_unary("/t.T/note")
        await call(b"", metadata=sent)
        assert [item for item in seen if item in sent] == list(sent)
        code, told = await status_of(call(b"0" * 101))
        assert (code, told) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "Received message larger than max (101 vs. 100)",
        )
        code, told = await status_of(call(b"201"))
        assert (code, told) == (exhausted, "Sent message larger than max (201 vs. 200)")
        compressed = call(b"7" * 90, compression=grpc.Compression.Gzip)
        assert (await status_of(compressed))[0] == grpc.StatusCode.UNIMPLEMENTED


async def test_calls_that_nobody_waits_for_are_cancelled(tmp_path: Path) -> None:
    events: asyncio.Queue[str] = asyncio.Queue()

    async def hang(request: bytes, context: Any) -> AsyncIterator[bytes]:
        await events.put("begun")
        try:
            yield b"one"
            await asyncio.Event().wait()
        finally:
            await events.put("ended")

    async def next_event() -> str:
        return await asyncio.wait_for(events.get(), SECONDS)

    async with serving(tmp_path, Server(), unary_stream_hang=hang, unary_unary_hung=lambda *_: never()) as channel:
        code, _ = await status_of(channel.unary_unary("/t.T/hung")(b"", timeout=0.05))
        assert code == grpc.StatusCode.DEADLINE_EXCEEDED
        call = channel.unary_stream("/t.T/hang")(b"")
        assert await call.read() == b"one"
        assert await next_event() == "begun"
        call.cancel()
        assert await next_event() == "ended"
        raw = await Raw.connect(tmp_path)
        raw.call(1, "/t.T/hang", b"")
        assert await next_event() == "begun"
        raw.writer.close()
        assert await next_event() == "ended"
        await raw.writer.wait_closed()


async def never() -> bytes:
    return await asyncio.get_running_loop().create_future()


async def test_a_peer_that_does_not_read_is_waited_for(tmp_path: Path) -> None:
    given = 0
    stopped = asyncio.Event()

    async def pour(request: bytes, context: Any) -> AsyncIterator[bytes]:
        nonlocal given
        try:
            while True:
                given += 1
                yield bytes(8192)
        finally:
            stopped.set()

    async with serving(tmp_path, Server(), unary_stream_pour=pour, unary_unary_echo=echo) as channel:
        raw = await Raw.connect(tmp_path)
        raw.call(1, "/t.T/pour", b"")
        got = 0
        while got < frames.WINDOW:
            kind, _, _, payload = await raw.frame()
            got += len(payload) if kind == frames.DATA else 0
        assert await channel.unary_unary("/t.T/echo")(b"others are served") == b"others are served"
        assert (got, given) == (frames.WINDOW, 8)
        raw.send(frames.window_update(0, 10) + frames.window_update(1, 10))
        kind, _, _, payload = await raw.frame()
        assert (kind, len(payload)) == (frames.DATA, 10)
        raw.send(frames.rst_stream(1, frames.CANCEL))
        await asyncio.wait_for(stopped.wait(), SECONDS)
        raw.writer.close()


async def test_stopping_gives_calls_their_time(tmp_path: Path) -> None:
    async def slow(request: bytes, context: Any) -> bytes:
        await begun.put(None)
        await gate.wait()
        return b"done"

    begun: asyncio.Queue[None] = asyncio.Queue()
    gate = asyncio.Event()
    server = Server()
    async with serving(tmp_path, server, unary_unary_slow=slow, unary_unary_hung=lambda *_: never()) as channel:
        call = asyncio.ensure_future(channel.unary_unary("/t.T/slow")(b""))
        await asyncio.wait_for(begun.get(), SECONDS)
        stopping = asyncio.ensure_future(server.stop(SECONDS))
        await asyncio.sleep(0)
        gate.set()
        assert await call == b"done"
        await stopping
    (tmp_path / "again").mkdir()
    server = Server()
    async with serving(tmp_path / "again", server, unary_unary_slow=slow) as channel:
        gate.clear()
        call = asyncio.ensure_future(channel.unary_unary("/t.T/slow")(b""))
        await asyncio.wait_for(begun.get(), SECONDS)
        await server.stop(0)
        code, told = await status_of(call)
        assert (code, told) == (grpc.StatusCode.UNAVAILABLE, "the server is shutting down")


class Raw:
    """A peer that writes frames by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()

    @classmethod
    async def connect(cls, path: Path, preface: bytes = frames.PREFACE) -> Raw:
        raw = cls(*await asyncio.open_unix_connection(f"{path}/s"))
        raw.send(preface + frames.settings({}))
        return raw

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def block(self, path: str, **more: str) -> bytes:
        fields = {":method": "POST", ":scheme": "http", ":path": path, "content-type": "application/grpc"}
        return self._encoder.encode(list((fields | more).items()))

    def call(self, stream: int, path: str, message: bytes) -> None:
        self.send(self.frames_of(stream, path, message))

    def frames_of(self, stream: int, path: str, message: bytes) -> bytes:
        block = self.block(path)
        head = frames.head(len(block), frames.HEADERS, frames.END_HEADERS, stream)
        data = struct.pack(">BI", 0, len(message)) + message
        return head + block + frames.head(len(data), frames.DATA, frames.END_STREAM, stream) + data

    async def frame(self) -> tuple[int, int, int, bytes]:
        """The next frame that is not about settings or windows: kind, flags, stream, payload."""
        while True:
            head = await asyncio.wait_for(self.reader.readexactly(9), SECONDS)
            upper, lower, kind, flags, stream = frames.HEAD.unpack(head)
            payload = await self.reader.readexactly(upper << 8 | lower)
            if kind not in (frames.SETTINGS, frames.WINDOW_UPDATE):
                return kind, flags, stream, payload

    async def answer(self) -> tuple[dict[str, str], bytes]:
        """All header fields and data of the next answer."""
        fields: dict[str, str] = {}
        data = b""
        while True:
            kind, flags, _, payload = await self.frame()
            if kind == frames.HEADERS:
                fields |= dict(self._decoder.decode(payload))
            elif kind == frames.DATA:
                data += payload
            if flags & frames.END_STREAM and kind in (frames.HEADERS, frames.DATA):
                return fields, data


async def test_calls_begin_in_the_order_in_which_they_come(tmp_path: Path) -> None:
    begun: list[bytes] = []

    async def task(request: bytes, context: Any) -> bytes:
        begun.append(request)
        await asyncio.sleep(0)
        return request

    def plain(request: bytes, context: Any) -> bytes:
        begun.append(request)
        return request

    async with serving(tmp_path, Server(), unary_unary_task=task, unary_unary_plain=plain):
        raw = await Raw.connect(tmp_path)
        names = ["plain", "task", "plain", "task", "plain"]
        calls = [raw.frames_of(2 * at + 1, f"/t.T/{name}", b"%d" % at) for at, name in enumerate(names)]
        raw.send(b"".join(calls))
        for _ in names:
            assert (await raw.answer())[0]["grpc-status"] == "0"
        raw.call(11, "/t.T/plain", b"5")  # and no longer behind anything
        assert (await raw.answer())[1][5:] == b"5"
        raw.writer.close()
    assert begun == [b"0", b"1", b"2", b"3", b"4", b"5"]


async def test_frames_in_pieces_padded_and_continued(tmp_path: Path) -> None:
    async with serving(tmp_path, Server(), unary_unary_echo=echo):
        raw = await Raw.connect(tmp_path)
        block = raw.block("/t.T/echo", **{"x-long": os.urandom(5000).hex()})
        first = bytes([3]) + bytes(5) + block[:10] + bytes(3)
        flags = frames.PADDED | frames.HAS_PRIORITY
        message = frames.head(len(first), frames.HEADERS, flags, 1) + first
        message += frames.head(len(block) - 10, frames.CONTINUATION, frames.END_HEADERS, 1) + block[10:]
        message += frames.head(1, 0x77, 0, 1) + b"?"  # of a kind that nobody knows
        message += frames.head(8, frames.PING, 0, 0) + b"pingping"
        data = bytes([1]) + struct.pack(">BI", 0, 3) + b"ab" + bytes(1)
        message += frames.head(len(data), frames.DATA, frames.PADDED, 1) + data
        message += frames.head(1, frames.DATA, frames.END_STREAM, 1) + b"c"
        for byte in range(len(message)):
            raw.send(message[byte : byte + 1])
            await raw.writer.drain()
            if byte % 64 == 0:
                await asyncio.sleep(0)
        kind, flags, _, payload = await raw.frame()
        assert (kind, flags, payload) == (frames.PING, frames.ACK, b"pingping")
        fields, answer = await raw.answer()
        assert (fields["grpc-status"], answer) == ("0", b"\0\0\0\0\x03abc")
        raw.call(3, "/t.T/echo", b"again")
        assert (await raw.answer())[1] == b"\0\0\0\0\x05again"
        plain = write_block(((":method", b"GET"), (":path", b"/"), (":scheme", b"http")))
        raw.send(frames.head(len(plain), frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 5) + plain)
        assert (await raw.answer())[0] == {":status": "415"}
        raw.writer.close()


def _headers(stream: int, flags: int = frames.END_HEADERS) -> bytes:
    block = write_block(((":method", b"POST"), (":path", b"/t.T/hung"), ("content-type", b"application/grpc")))
    return frames.head(len(block), frames.HEADERS, flags, stream) + block


PING = frames.head(8, frames.PING, 0, 0) + bytes(8)
FULL = frames.head(16000, frames.DATA, 0, 1) + struct.pack(">BI", 0, 15995) + bytes(15995)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(frames.head(frames.FRAME_SIZE + 1, frames.DATA, 0, 1), frames.FRAME_SIZE_ERROR, id="long"),
        pytest.param(frames.head(0, frames.DATA, 0, 1), frames.PROTOCOL_ERROR, id="data-of-no-stream"),
        pytest.param(_headers(2), frames.PROTOCOL_ERROR, id="even"),
        pytest.param(_headers(1, 0) + PING, frames.PROTOCOL_ERROR, id="cut-in"),
        pytest.param(frames.head(0, frames.CONTINUATION, 4, 1), frames.PROTOCOL_ERROR, id="continues-nothing"),
        pytest.param(
            _headers(1, 0) + (frames.head(16000, frames.CONTINUATION, 0, 1) + bytes(16000)) * 5,
            frames.ENHANCE_YOUR_CALM,
            id="endless-block",
        ),
        pytest.param(
            frames.head(1, frames.HEADERS, 4, 1) + b"\xff",
            frames.COMPRESSION_ERROR,
            id="cut-block",
        ),
        pytest.param(frames.head(1, frames.DATA, 8, 1) + b"\x01", frames.PROTOCOL_ERROR, id="padding"),
        pytest.param(_headers(1) * 2, frames.PROTOCOL_ERROR, id="twice"),
        pytest.param(frames.head(3, frames.SETTINGS, 0, 0) + b"abc", frames.PROTOCOL_ERROR, id="settings"),
        pytest.param(frames.settings({4: 1 << 31}), frames.FLOW_CONTROL_ERROR, id="huge-window"),
        pytest.param(frames.settings({5: 1}), frames.PROTOCOL_ERROR, id="tiny-frames"),
        pytest.param(frames.window_update(0, frames.MAX_WINDOW), frames.FLOW_CONTROL_ERROR, id="window-overflows"),
        pytest.param(frames.window_update(0, 0), frames.FLOW_CONTROL_ERROR, id="window-of-nothing"),
        pytest.param(frames.head(7, frames.PING, 0, 0) + bytes(7), frames.FRAME_SIZE_ERROR, id="ping"),
        pytest.param(frames.head(4, frames.PUSH_PROMISE, 0, 1) + bytes(4), frames.PROTOCOL_ERROR, id="push"),
        pytest.param(frames.rst_stream(7, 0), frames.PROTOCOL_ERROR, id="reset-of-nothing"),
        pytest.param(
            _headers(1) + FULL * 99,  # 66 are taken in advance, half of them given back
            frames.FLOW_CONTROL_ERROR,
            id="beyond-the-window",
        ),
    ],
)
async def test_a_peer_that_breaks_the_protocol_is_told_and_left(tmp_path: Path, sent: bytes, code: int) -> None:
    async def take_nothing(requests: AsyncIterator[bytes], context: Any) -> bytes:
        return await never()

    async with serving(tmp_path, Server(), stream_unary_hung=take_nothing, unary_unary_echo=echo) as channel:
        raw = await Raw.connect(tmp_path)
        raw.send(sent)
        kind, _, _, payload = await raw.frame()
        assert kind == frames.GOAWAY
        assert struct.unpack(">II", payload[:8])[1] == code
        assert await asyncio.wait_for(raw.reader.read(), SECONDS) == b""
        raw.writer.close()
        assert await channel.unary_unary("/t.T/echo")(b"others are served") == b"others are served"


@pytest.mark.parametrize("preface", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", frames.PREFACE[:-2] + b"x\n"])
async def test_what_is_no_http2_is_refused(tmp_path: Path, preface: bytes) -> None:
    async with serving(tmp_path, Server()):
        raw = await Raw.connect(tmp_path, preface)
        assert (await raw.frame())[0] == frames.GOAWAY
        raw.writer.close()


async def test_a_peer_that_asks_and_does_not_read_is_cut_off(tmp_path: Path) -> None:
    async def pour(request: bytes, context: Any) -> AsyncIterator[bytes]:
        while True:
            yield bytes(1 << 20)

    async with serving(tmp_path, Server(), unary_stream_pour=pour):
        raw = await Raw.connect(tmp_path)
        raw.call(1, "/t.T/pour", b"")
        raw.send(frames.window_update(0, 1 << 30) + frames.window_update(1, 1 << 30))
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(SECONDS):
                while True:
                    raw.send(PING * 1000)
                    await raw.writer.drain()
                    await asyncio.sleep(0)


def test_remembered_blocks_mean_what_they_say() -> None:
    chance = random.Random(7)
    encoder, reader = hpack.Encoder(), BlockReader(list)
    names = [(f"name-{n}", f"value-{n}") for n in range(60)]
    for _ in range(3000):
        if chance.random() < 0.02:
            encoder.header_table_size = chance.choice([0, 100, 1000, 4096])
        fields = chance.choices(names, k=chance.randint(1, 4)) if chance.random() < 0.3 else names[:3]
        assert reader.read(encoder.encode(fields)) == fields


def test_blocks_are_read_as_the_library_reads_them() -> None:
    chance = random.Random(11)
    for _ in range(60):
        encoder, decoder, reader = hpack.Encoder(), hpack.Decoder(), FieldReader(1 << 20)
        decoder.max_header_list_size = 1 << 20
        for _ in range(30):
            if chance.random() < 0.1:
                encoder.header_table_size = chance.choice([0, 100, 1000, 4096])
            names = chance.choices(
                ["a", ":path", "content-type", "n\u00efx" * 9, "x" * 200], k=chance.randint(0, 9)
            )
            sizes = [chance.choice([0, 1, 30, 400, 5000]) for _ in names]
            fields = [
                (name, "v\u00e9%~"[: size % 5] * (size // 4)) for name, size in zip(names, sizes, strict=True)
            ]
            secret = chance.random() < 0.2  # never to be kept in a table
            block = encoder.encode([(*field, secret) for field in fields], huffman=chance.random() < 0.5)
            assert [*reader.read(block)] == [*map(tuple, decoder.decode(block))] == fields


def test_malformed_blocks_are_refused_as_the_library_refuses_them() -> None:
    chance = random.Random(13)
    for block in (chance.randbytes(chance.randint(1, 30)) for _ in range(10_000)):
        try:
            expected = [tuple(field) for field in hpack.Decoder().decode(block)]
        except (HPACKError, UnicodeDecodeError):
            with pytest.raises(ConnectionFault):
                FieldReader(1 << 16).read(block)
        else:
            assert [*FieldReader(1 << 16).read(block)] == expected


def test_fields_of_a_block_have_a_limit() -> None:
    reader = FieldReader(1000)
    block = hpack.Encoder().encode([("name", "v" * 800)])
    assert len(reader.read(block)) == 1
    again = b"\xbe"  # the newest of the table
    assert len(reader.read(again)) == 1
    with pytest.raises(ConnectionFault, match="more than 1000 bytes"):
        reader.read(again * 2)


@pytest.mark.parametrize("length", [0, 1, 126, 127, 128, 254, 255, 300, 5000])
def test_written_blocks_are_read_by_the_library(length: int) -> None:
    fields = [("grpc-message", b"m" * length), ("x" * max(length, 1), b"")]
    read = hpack.Decoder().decode(write_block(fields))
    assert [(name, value.encode()) for name, value in read] == fields
