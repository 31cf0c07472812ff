# SPDX-License-Identifier: Apache-2.0
"""Log drivers end to end: what `docker logs` shows, what collectors get, also when daemons or collectors die."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from conformance import exchange
from support.containerd import wait_until
from support.stack import Stack

from orlop.dockerd import timestamps

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root


class Fluentd:
    """A collector in a stack's network. It acknowledges, unless told to be silent, and keeps every record."""

    def __init__(self, stack: Stack, port: int = 0) -> None:
        self.records: list[dict[str, str]] = []
        self._stack = stack
        self.port = port
        self.open()

    def open(self) -> None:
        """Listen."""
        with self._stack.network():
            self._listening = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listening.getsockname()[1]
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def close(self) -> None:
        """Be gone, with every connection."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def lines(self, name: str) -> list[str]:
        """What a container has logged, without what came twice."""
        found = [record["log"] for record in self.records if record["container_name"] == f"/{name}"]
        return list(dict.fromkeys(found))

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                self._connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        data = b""
        with contextlib.suppress(OSError), connection:
            while received := connection.recv(65536):
                data += received
                try:
                    _, entries, options = msgspec.msgpack.decode(data)
                except msgspec.DecodeError:
                    continue
                self.records += [record for _, record in entries]
                data = b""
                connection.sendall(msgspec.msgpack.encode({"ack": options["chunk"]}))


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack() as running:
        running.load("busybox")
        yield running


@pytest.fixture
def fluentd(stack: Stack) -> Iterator[Fluentd]:
    collector = Fluentd(stack)
    yield collector
    collector.close()


def options(collector: Fluentd) -> list[str]:
    address = f"fluentd-address=127.0.0.1:{collector.port}"
    return ["--log-driver", "fluentd", "--log-opt", address, "--log-opt", "fluentd-request-ack=true"]


def test_local(stack: Stack) -> None:
    script = "for n in $(seq 1 3000); do echo line $n; done; echo err >&2; printf half"
    limits = ["--log-opt", "max-size=20k", "--log-opt", "max-file=100"]
    about = ["--label", "who=me", "--log-opt", "labels=who", "--log-opt", "tag={{.Name}}"]
    flags = ["--name", "local", "--log-driver", "local", *limits, *about]
    stack.docker("run", *flags, "busybox", "sh", "-c", script).ok()
    lines = [f"line {number}\n" for number in range(1, 3001)]
    shown = stack.docker("logs", "local")
    assert shown.out == "".join(lines) + "half"
    assert shown.err == "err\n"
    assert stack.docker("logs", "--tail", "5", "local").out == "".join(lines[-3:]) + "half"
    details = stack.docker("logs", "--tail", "1", "--details", "--timestamps", "local").out
    assert details.split(" ", 1)[1] == "tag=local,who=me half"
    (directory,) = Path(stack.data_root, "containers").glob("*/local-logs")
    wait_until(lambda: any(name.suffix == ".gz" for name in directory.iterdir()))
    assert stack.docker("inspect", "-f", "{{.LogPath}}", "local").out == "\n"
    stack.docker("start", "-a", "local").ok()
    assert stack.docker("logs", "local").out == ("".join(lines) + "half") * 2
    stack.docker("rm", "local").ok()


def test_json_file_compressed_with_attributes_while_it_is_followed(stack: Stack) -> None:
    limits = ["--log-opt", "max-size=30k", "--log-opt", "max-file=90", "--log-opt", "compress=true"]
    script = "read go; for n in $(seq 1 4000); do echo line $n; done"
    flags = ["-di", "--name", "packed", *limits, "-e", "A=b", "--log-opt", "env=A"]
    stack.docker("run", *flags, "busybox", "sh", "-c", script).ok()
    with stack.popen("logs", "-f", "packed") as following:
        stack.docker("attach", "packed", stdin="go\n")
        out, _ = following.communicate(timeout=60)
    expected = "".join(f"line {number}\n" for number in range(1, 4001))
    assert out.decode() == expected
    path = Path(stack.docker("inspect", "-f", "{{.LogPath}}", "packed").out.strip())
    wait_until(lambda: any(path.parent.glob("*.gz")))
    packed = next(iter(path.parent.glob("*.gz")))
    assert json.loads(gzip.decompress(packed.read_bytes()).splitlines()[0])["attrs"] == {"A": "b"}
    assert stack.docker("logs", "packed").out == expected
    stack.docker("rm", "-f", "packed").ok()


def test_logs_as_objects(stack: Stack) -> None:
    script = r"printf 'out\377\n'; sleep 0.1; echo err >&2; printf half"
    flags = ["-d", "--name", "objects", "--label", "who=me", "--log-opt", "labels=who"]
    stack.docker("run", *flags, "busybox", "sh", "-c", script).ok()

    def ask(version: str, query: str, accept: str | None = None) -> tuple[int, str, bytes]:
        headers = {} if accept is None else {"Accept": accept}
        target = f"/{version}/containers/objects/logs?stdout=1&{query}"
        answer = exchange.ask(stack.socket, "GET", target, None, headers)
        return answer.status, answer.header("Content-Type"), answer.body

    status, kind, body = ask("v1.54", "stderr=1&format=json&details=1&follow=1")
    assert (status, kind) == (200, "application/x-ndjson")
    entries = [json.loads(line) for line in body.splitlines()]
    assert sorted(timestamps.parse(entry.pop("Timestamp"), name="time") > 0 for entry in entries) == [True] * 3
    attributes = [{"Key": "who", "Value": "me"}]
    by_line = {entry["Line"]: entry for entry in entries}
    assert by_line == {
        "out\ufffd\n": {"Line": "out\ufffd\n", "Source": "stdout", "Attrs": attributes},
        "err\n": {"Line": "err\n", "Source": "stderr", "Attrs": attributes},
        "half": {"Line": "half", "Source": "stdout", "Attrs": attributes},
    }
    status, kind, body = ask("v1.54", "tail=1", "application/json-seq, */*")
    assert (status, kind, body[:1]) == (200, "application/json-seq", b"\x1e")
    assert "Attrs" not in json.loads(body[1:])
    assert ask("v1.54", "format=json", "*/*")[1] == "application/jsonl"
    assert ask("v1.54", "", "*/*")[1] == "application/vnd.docker.multiplexed-stream"
    assert ask("v1.53", "format=json")[1] == "application/vnd.docker.multiplexed-stream"
    status, _, body = ask("v1.54", "format=yaml")
    assert (status, json.loads(body)["message"]) == (400, "unsupported log format 'yaml': expected json")
    stack.docker("rm", "-f", "objects").ok()


def test_none_and_errors(stack: Stack) -> None:
    assert stack.docker("run", "--name", "none", "--log-driver", "none", "busybox", "echo", "x").out == "x\n"
    assert "configured logging driver does not support reading" in stack.docker("logs", "none").err
    stack.docker("rm", "none").ok()
    unknown = stack.docker("run", "--rm", "--log-driver", "nosuch", "busybox", "true")
    assert "logger: no log driver named 'nosuch' is registered" in unknown.err
    wrong = stack.docker("run", "--rm", "--log-driver", "syslog", "--log-opt", "x=1", "busybox", "true")
    assert "unknown log opt 'x' for syslog log driver" in wrong.err
    away = ["--log-driver", "fluentd", "--log-opt", "fluentd-address=127.0.0.1:1"]
    failed = stack.docker("run", "--name", "away", *away, "busybox", "true")
    assert failed.status != 0
    assert "failed to initialize logging driver: " in failed.err
    assert "refused" in failed.err
    assert stack.docker("inspect", "-f", "{{.State.Status}}", "away").out == "created\n"
    stack.docker("rm", "away").ok()
    plugins = stack.docker("info", "-f", "{{json .Plugins.Log}}").out
    assert json.loads(plugins) == ["fluentd", "gelf", "journald", "json-file", "local", "syslog", "none"]


def test_a_collector_gets_all_and_logs_are_shown_here_too(stack: Stack, fluentd: Fluentd) -> None:
    more = ["--label", "team=a", "--log-opt", "labels=team", "--log-opt", "tag=x/{{.Name}}"]
    script = "echo out; echo err >&2; exit 3"
    done = stack.docker("run", "--name", "sent", *options(fluentd), *more, "busybox", "sh", "-c", script)
    assert (done.status, done.out, done.err) == (3, "out\n", "err\n")
    wait_until(lambda: len(fluentd.records) == 2)
    by_log = {record["log"]: record for record in fluentd.records}
    assert (by_log["out"]["source"], by_log["err"]["source"], by_log["out"]["team"]) == ("stdout", "stderr", "a")
    shown = stack.docker("logs", "sent")
    assert (shown.out, shown.err) == ("out\n", "err\n")
    stack.docker("start", "-a", "sent")
    wait_until(lambda: len(fluentd.records) == 4)
    stack.docker("rm", "sent").ok()
    hidden = ["--name", "hidden", "--log-opt", "cache-disabled=true"]
    stack.docker("run", *hidden, *options(fluentd), "busybox", "echo", "x").ok()
    assert "configured logging driver does not support reading" in stack.docker("logs", "hidden").err
    stack.docker("rm", "hidden").ok()
    # The last lines of a container that removes itself are sent before it is gone.
    stack.docker("run", "--rm", "--name", "brief", *options(fluentd), "busybox", "seq", "2000").ok()
    assert fluentd.lines("brief") == [str(number) for number in range(1, 2001)]


def test_nothing_is_lost_when_the_daemon_or_the_collector_dies(stack: Stack, fluentd: Fluentd) -> None:
    total = 6000
    script = f"n=0; while [ $n -lt {total} ]; do n=$((n+1)); echo $n; [ $((n % 20)) = 0 ] && sleep 0.01; done"
    limits = ["--log-opt", "cache-max-size=10k", "--log-opt", "cache-max-file=2"]
    stack.docker("run", "-d", "--name", "long", *options(fluentd), *limits, "busybox", "sh", "-c", script).ok()
    deadline = time.monotonic() + 60
    for round_ in range(3):
        wait_until(lambda round_=round_: len(fluentd.lines("long")) > 1000 * (round_ + 1))  # type: ignore[misc]
        if round_ == 1:
            fluentd.close()
        stack.kill()
        stack.start()
        if round_ == 1:
            fluentd.open()
    stack.docker("wait", "long").ok()
    expected = [str(number) for number in range(1, total + 1)]
    wait_until(lambda: len(fluentd.lines("long")) == total)
    assert fluentd.lines("long") == expected
    assert time.monotonic() < deadline
    files = Path(stack.data_root, "containers").glob("*/container-cached.log*")
    assert len(list(files)) <= 4, "what was sent makes room"
    stack.docker("rm", "long").ok()


@pytest.mark.original
def test_local_on_a_foreign_shim() -> None:
    """There dockerd writes the file itself."""
    with Stack("original", runtime="runc") as foreign:
        foreign.load("busybox")
        limits = ["--log-opt", "max-size=5k", "--log-opt", "max-file=50"]
        script = "seq 2000; echo err >&2; printf half"
        foreign.docker(
            "run", "--name", "far", "--log-driver", "local", *limits, "busybox", "sh", "-c", script
        ).ok()
        shown = foreign.docker("logs", "far")
        assert shown.out == "".join(f"{number}\n" for number in range(1, 2001)) + "half"
        assert shown.err == "err\n"
        assert foreign.docker("logs", "--tail", "2", "far").out.endswith("half")
