# SPDX-License-Identifier: Apache-2.0
"""What collectors receive: each driver's messages on the wire, and the way there across rotations and failures."""

from __future__ import annotations

import array
import asyncio
import contextlib
import gzip
import json
import os
import re
import socket
import ssl
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from support import pki

from orlop.dockerd.logging.collector import Message, Partial
from orlop.dockerd.logging.fluentd import Fluentd
from orlop.dockerd.logging.forms import JSON
from orlop.dockerd.logging.gelf import Gelf, chunks
from orlop.dockerd.logging.journald import Journald, field_name
from orlop.dockerd.logging.spool import Spool
from orlop.dockerd.logging.syslog import Syslog
from orlop.shim.io.jsonlog import JsonLog

if TYPE_CHECKING:
    from collections.abc import Callable

MOMENT = 1_700_000_000_123_456_789
OUT = Message("hello", "stdout", MOMENT)
ERR = Message("wörld", "stderr", MOMENT + 1, Partial("p1", 2, False))


class TcpServer:
    """Takes one connection and keeps what comes; `answer` is called with all of it so far."""

    def __init__(
        self, answer: Callable[[bytes], bytes] = lambda data: b"", tls: ssl.SSLContext | None = None
    ) -> None:
        self.data = b""
        self._over = asyncio.Event()
        self._tls = tls
        self._answer = answer

    async def __aenter__(self) -> TcpServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.received()
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            self.data += data
            writer.write(self._answer(self.data))
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        self._over.set()

    async def received(self) -> bytes:
        """All that has come by the end of the connection."""
        async with asyncio.timeout(20):
            await self._over.wait()
        return self.data


def datagram_socket(path: str = "") -> socket.socket:
    listening = socket.socket(socket.AF_UNIX if path else socket.AF_INET, socket.SOCK_DGRAM)
    listening.bind(path or ("127.0.0.1", 0))
    listening.settimeout(20)
    return listening


async def deliver(collector: Any, *messages: Message) -> None:
    await collector.connect()
    try:
        await collector.send(messages)
    finally:
        await collector.close()


# -- syslog

HOST = re.escape(socket.gethostname())
SECONDS, ZONE = r"2023-11-1\dT\d\d:\d\d:\d\d", r"(Z|[+-][\d:]+)"
STAMP = r"\w\w\w [ \d]\d \d\d:\d\d:\d\d"
FORMATS = {
    "": "<{priority}>" + STAMP + r" tag\[\d+\]: {text}\n",
    "rfc3164": "<{priority}>" + STAMP + f" {HOST} " + r"tag\[\d+\]: {text}\n",
    "rfc5424": "<{priority}>1 " + SECONDS + ZONE + f" {HOST} " + r"tag \d+ tag - {text}\n",
    "rfc5424micro": "<{priority}>1 " + SECONDS + r"\.123456" + ZONE + f" {HOST} " + r"tag \d+ tag - {text}\n",
}


@pytest.mark.parametrize("form", FORMATS)
def test_syslog_formats_over_udp(form: str) -> None:
    with datagram_socket() as server:
        address = f"udp://127.0.0.1:{server.getsockname()[1]}"
        options = {"syslog-address": address, "syslog-format": form, "syslog-facility": "3"}
        asyncio.run(deliver(Syslog(options, "tag"), OUT, ERR))
        first, second = (server.recv(65536).decode() for _ in range(2))
    assert re.fullmatch(FORMATS[form].format(priority=30, text="hello"), first), first
    assert re.fullmatch(FORMATS[form].format(priority=27, text="wörld"), second), second


def test_syslog_over_tcp_and_unix(tmp_path: Path) -> None:
    async def over_tcp() -> bytes:
        async with TcpServer() as server:
            options = {"syslog-address": f"tcp://127.0.0.1:{server.port}", "syslog-facility": "local7"}
            await deliver(Syslog(options, "t"), OUT, Message("", "stdout", MOMENT), ERR)
            return await server.received()

    first, second, rest = asyncio.run(over_tcp()).split(b"\n")
    assert first.startswith(b"<190>")
    assert first.endswith(b": hello")
    assert second.startswith(b"<187>")
    assert rest == b""
    path = str(tmp_path / "log")
    with datagram_socket(path) as server:
        asyncio.run(deliver(Syslog({"syslog-address": f"unixgram://{path}"}, "t"), OUT))
        assert server.recv(65536).endswith(b": hello\n")


def test_syslog_over_tls_counts_its_messages(tmp_path: Path) -> None:
    certificates = pki.make(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates / "ca.pem"))
    context.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_STRICT  # which Python 3.13 sets
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED

    async def run(name: str, **more: str) -> bytes:
        async with TcpServer(tls=context) as server:
            options = {"syslog-address": f"tcp+tls://127.0.0.1:{server.port}", "syslog-format": "rfc5424"}
            options["syslog-tls-ca-cert"] = str(certificates / "ca.pem")
            options["syslog-tls-cert"] = str(certificates / f"{name}.pem")
            options["syslog-tls-key"] = str(certificates / f"{name}.key")
            await deliver(Syslog({**options, **more}, "t"), OUT, ERR)
            return await server.received()

    data = asyncio.run(run("client"))
    length, _, rest = data.partition(b" ")
    assert rest[: int(length)].endswith(b" - hello\n")
    length, _, rest = rest[int(length) :].partition(b" ")
    assert rest[: int(length)].endswith(" - wörld\n".encode())
    assert len(rest) == int(length)


# -- journald


def journal_entry(packet: bytes) -> dict[str, str]:
    """The fields of the journal's own format."""
    fields = {}
    while packet:
        line, _, packet = packet.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            length = int.from_bytes(packet[:8], "little")
            value, packet = packet[8 : 8 + length], packet[9 + length :]
        fields[name.decode()] = value.decode()
    return fields


def test_journald(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    huge = Message("x" * 5_000_000, "stdout", MOMENT)
    with datagram_socket(path) as server:
        asyncio.run(deliver(Journald({"CONTAINER_ID": "abc", "A": "two\nlines"}, path), OUT, ERR, huge))
        first, second = (journal_entry(server.recv(1 << 20)) for _ in range(2))
        _, control, _, _ = server.recvmsg(16, socket.CMSG_SPACE(4))
        fd = array.array("i", control[0][2])[0]
        third = journal_entry(os.pread(fd, 1 << 24, 0))
        with pytest.raises(OSError, match="not permitted"):
            os.write(fd, b"sealed")
        os.close(fd)
    assert (first["MESSAGE"], first["PRIORITY"], first["CONTAINER_ID"], first["A"]) == (
        "hello",
        "6",
        "abc",
        "two\nlines",
    )
    assert first["SYSLOG_TIMESTAMP"] == "2023-11-14T22:13:20.123456789Z"
    assert (second["MESSAGE"], second["PRIORITY"]) == ("wörld", "3")
    assert (second["CONTAINER_PARTIAL_ID"], second["CONTAINER_PARTIAL_ORDINAL"]) == ("p1", "2")
    assert (second["CONTAINER_PARTIAL_LAST"], second["CONTAINER_PARTIAL_MESSAGE"]) == ("false", "true")
    assert [entry["CONTAINER_LOG_ORDINAL"] for entry in (first, second, third)] == ["1", "2", "3"]
    assert first["CONTAINER_LOG_EPOCH"] == third["CONTAINER_LOG_EPOCH"]
    assert third["MESSAGE"] == huge.line
    assert field_name("_my.label-1") == "MY_LABEL_1"


def test_journald_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="journald is not enabled on this host"):
        asyncio.run(Journald({}, str(tmp_path / "nosuch")).connect())


# -- fluentd


@pytest.mark.parametrize("acknowledged", [False, True])
def test_fluentd(acknowledged: bool) -> None:
    def answer(data: bytes) -> bytes:
        _, _, options = msgspec.msgpack.decode(data)
        return msgspec.msgpack.encode({"ack": options["chunk"]}) if acknowledged else b""

    async def run() -> bytes:
        async with TcpServer(answer) as server:
            options = {"fluentd-address": f"127.0.0.1:{server.port}", "fluentd-sub-second-precision": "true"}
            options["fluentd-request-ack"] = str(acknowledged).lower()
            await deliver(Fluentd(options, "docker.x", {"container_id": "abc"}), OUT, ERR)
            return await server.received()

    tag, entries, options = msgspec.msgpack.decode(asyncio.run(run()))
    assert tag == "docker.x"
    assert options["size"] == 2
    (when, first), (_, second) = entries
    assert when == msgspec.msgpack.Ext(0, (1_700_000_000).to_bytes(4, "big") + (123_456_789).to_bytes(4, "big"))
    assert first == {"container_id": "abc", "source": "stdout", "log": "hello"}
    assert second["partial_message"] == "true"
    assert (second["partial_id"], second["partial_ordinal"], second["partial_last"]) == ("p1", "2", "false")


def test_fluentd_without_an_acknowledgement_has_not_taken_it() -> None:
    async def run(answer: bytes) -> None:
        async with TcpServer(lambda data: answer) as server:
            options = {"fluentd-address": f"tcp://127.0.0.1:{server.port}", "fluentd-request-ack": "true"}
            options["fluentd-read-timeout"] = "200ms"
            await deliver(Fluentd(options, "t", {}), OUT)

    for answer in (b"", msgspec.msgpack.encode({"ack": "other"}), b"\x01"):
        with pytest.raises((OSError, TimeoutError)):
            asyncio.run(run(answer))


# -- gelf


@pytest.mark.parametrize(
    ("kind", "unpack"), [("gzip", gzip.decompress), ("zlib", zlib.decompress), ("none", bytes)]
)
def test_gelf_over_udp(kind: str, unpack: Callable[[bytes], bytes]) -> None:
    long = Message("".join(f"{number:x}" for number in range(6000)), "stdout", MOMENT)
    with datagram_socket() as server:
        options = {"gelf-address": f"udp://127.0.0.1:{server.getsockname()[1]}", "gelf-compression-type": kind}
        asyncio.run(deliver(Gelf(options, {"_container_id": "abc", "label": "v"}), ERR, long))
        document = json.loads(unpack(server.recv(65536)))
        assert document == {
            "version": "1.1",
            "host": socket.gethostname(),
            "short_message": "wörld",
            "timestamp": 1700000000.123,
            "level": 3,
            "_container_id": "abc",
            "_label": "v",
        }
        pieces, count = {}, 1
        while len(pieces) < count:
            datagram = server.recv(65536)
            assert datagram[:2] == b"\x1e\x0f"
            assert len(datagram) <= 1420
            number, count = datagram[10], datagram[11]
            pieces[number] = datagram[12:]
        whole = b"".join(pieces[number] for number in range(count))
        assert json.loads(unpack(whole))["short_message"] == long.line
    assert chunks(b"x" * 1420) == [b"x" * 1420]


def test_gelf_over_tcp() -> None:
    async def run() -> bytes:
        async with TcpServer() as server:
            await deliver(Gelf({"gelf-address": f"tcp://127.0.0.1:{server.port}"}, {}), OUT, ERR)
            return await server.received()

    first, second, rest = asyncio.run(run()).split(b"\0")
    assert json.loads(first)["short_message"] == "hello"
    assert json.loads(second)["level"] == 3
    assert rest == b""


# -- the way there


def spool(directory: Path, kept: int = 2) -> Spool:
    return Spool(str(directory / "c.log"), JSON, str(directory / "log-position"), kept)


def drain(found: Spool, stop_after: int = 10**9) -> list[str]:
    """Hand over up to `stop_after` batches; the next one is read, and the daemon dies."""
    lines: list[str] = []
    while (batch := found.read()) is not None:
        if stop_after == 0:
            break
        lines += [message.line for message in batch.messages]
        found.done(batch)
        stop_after -= 1
    found.close()
    return lines


def test_nothing_is_left_out_across_rotations_and_restarts(tmp_path: Path) -> None:
    log = JsonLog(str(tmp_path / "c.log"), max_size=20_000, max_file=1000)
    sent: list[str] = []
    for block in range(40):
        log.write(1, b"".join(b"line %d\n" % (block * 50 + number) for number in range(50)))
        if block % 3 == 0:
            sent += drain(spool(tmp_path), stop_after=block % 2 + 1)
    log.close()
    sent += drain(spool(tmp_path))
    assert sent == [f"line {number}" for number in range(2000)]
    numbers = sorted(int(path.suffix[1:]) for path in tmp_path.glob("c.log.*"))
    assert len(numbers) <= 3, "what has been handed over is removed beyond what is kept"


def test_what_is_not_handed_over_comes_again_and_stays_on_disk(tmp_path: Path) -> None:
    log = JsonLog(str(tmp_path / "c.log"), max_size=2_000, max_file=1000)
    for number in range(500):
        log.write(1, b"line %d\n" % number)
    log.close()
    assert drain(spool(tmp_path), stop_after=0) == []
    assert len(list(tmp_path.glob("c.log.*"))) > 10
    assert drain(spool(tmp_path)) == [f"line {number}" for number in range(500)]
    assert drain(spool(tmp_path)) == []


def test_pieces_of_long_lines_are_numbered(tmp_path: Path) -> None:
    log = JsonLog(str(tmp_path / "c.log"))
    log.write(1, b"x" * 40_000 + b"\nshort\n")
    log.close()
    found = spool(tmp_path)
    batch = found.read()
    found.close()
    assert batch is not None
    *pieces, short = batch.messages
    assert "".join(piece.line for piece in pieces) == "x" * 40_000
    marks = [piece.partial for piece in pieces if piece.partial]
    assert [(mark.ordinal, mark.last) for mark in marks] == [(1, False), (2, False), (3, True)]
    assert short.partial is None
