# SPDX-License-Identifier: Apache-2.0
"""The shim's parts without a container: URIs, bootstrap forms, the command line, the loop, the event publisher."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from support.shims import EventSink

from orlop.api import events_pb2
from orlop.api.bootstrap_pb2 import BootstrapParams, BootstrapResult
from orlop.api.runc_options_pb2 import Options
from orlop.api.shim_v2_pb2 import CreateTaskRequest
from orlop.api.types_pb2 import RuntimeInfo
from orlop.errdefs import InvalidArgumentError
from orlop.libcontainer import Container, Stdio
from orlop.shim import bootstrap
from orlop.shim.events import Publisher
from orlop.shim.io.uri import Attach, Binary, Fifo, File, JsonFile, parse_input, parse_output
from orlop.shim.loop import Future, Lock, Loop
from orlop.shim.main import parse
from orlop.shim.messages import checkpoint_of
from orlop.shim.runtime import helper

SHIM = [sys.executable, "-P", "-m", "orlop.shim.main"]


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("", None),
        ("/run/x/out", Fifo("/run/x/out")),
        ("fifo:///run/x", Fifo("/run/x")),
        ("file:///var/log/a%20b?x", File("/var/log/a b")),
        ("binary:///bin/logger?a=b&c", Binary("/bin/logger", ("a", "b", "c"), False)),
        ("binary-v2:///bin/logger", Binary("/bin/logger", (), True)),
        ("attach:///run/a.sock", Attach("/run/a.sock")),
        (
            "json-file:///l?max-size=10&max-file=3&compress=1&attach=/a%26b&attrs=%7B%22a%22:1%7D",
            JsonFile("/l", 10, 3, True, '{"a":1}', "/a&b"),
        ),
    ],
)
def test_output_uris(text: str, meaning: Any) -> None:
    assert parse_output(text, "stdout") == meaning


def test_input_uris() -> None:
    assert parse_input("") is None
    assert parse_input("/f") == Fifo("/f")
    assert parse_input("attach:///s?once=1") == Attach("/s", True)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nope:///x", "stdout: unknown scheme 'nope'"),
        ("file://relative", "stdout: 'file://relative' must hold an absolute path, as in file:///path"),
        ("relative", "stdout: 'relative' must hold an absolute path"),
        ("json-file:///x?max-size=1k", "stdout: max-size must be a number of at least 0, not '1k'"),
        ("json-file:///x?max-file=0", "stdout: max-file must be a number of at least 1, not '0'"),
        ("json-file:///x?colour=red", "stdout: unknown option 'colour'"),
        ("attach:///x?once=1", "stdout: unknown option 'once'"),
        ("file:///a%00b", "absolute path"),
    ],
)
def test_bad_uris_name_the_field(text: str, complaint: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_output(text, "stdout")
    assert complaint in str(caught.value)


def test_flags_as_go_takes_them() -> None:
    flags, rest = parse(["-namespace", "n", "--id=x", "-debug", "-address", "/a", "start", "-x"])
    assert flags == {"namespace": "n", "id": "x", "debug": "true", "address": "/a"}
    assert rest == ["start", "-x"]
    with pytest.raises(InvalidArgumentError, match="not defined: -colour"):
        parse(["-colour", "red"])
    with pytest.raises(InvalidArgumentError, match="needs an argument: -id"):
        parse(["-id"])


def test_bootstrap_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TTRPC_ADDRESS", raising=False)
    old = bootstrap.read_params(b"", "moby", "abc", "/run/c.sock", False)
    assert (old.ttrpc_address, old.modern) == ("/run/c.sock.ttrpc", False)
    assert bootstrap.answer(old, "unix:///s") == b"unix:///s"
    options = AnyMessage(type_url="containerd.runc.v1.Options", value=Options(root="/r").SerializeToString())
    assert bootstrap.read_params(options.SerializeToString(), "moby", "abc", "/a", False).modern is False
    params = BootstrapParams(
        instance_id="abc",
        namespace="moby",
        containerd_grpc_address="/g",
        containerd_ttrpc_address="/t",
        socket_dir="/sd",
        log_level=-4,  # type: ignore[arg-type]
    )
    new = bootstrap.read_params(params.SerializeToString(), "moby", "abc", "/a", False)
    assert {name: getattr(new, name) for name in bootstrap.Start.__slots__} == {
        "namespace": "moby",
        "id": "abc",
        "address": "/g",
        "ttrpc_address": "/t",
        "socket_dir": "/sd",
        "debug": True,
        "debug_socket": "",
        "modern": True,
    }
    assert BootstrapResult.FromString(bootstrap.answer(new, "unix:///s")) == BootstrapResult(
        version=3, address="unix:///s", protocol="ttrpc"
    )
    with pytest.raises(InvalidArgumentError, match="are of moby/other, not moby/abc"):
        bootstrap.read_params(
            BootstrapParams(instance_id="other", namespace="moby").SerializeToString(), "moby", "abc", "/a", False
        )


def test_socket_addresses(tmp_path: Path) -> None:
    start = bootstrap.Start("ns", "id", "/run/containerd/containerd.sock", "", "/run/containerd/s", False, False)
    digest = hashlib.sha256(b"/run/containerd/containerd.sock/ns/id").hexdigest()
    assert bootstrap.socket_address(start, "id") == f"/run/containerd/s/{digest}"
    config = tmp_path / "config.json"
    for text, group in [
        ('{"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}}', "pod"),
        ('{"annotations": null, "hostname": "io.containerd.runc.v2.group"}', "id"),
        ("{}", "id"),
    ]:
        config.write_text(text)
        assert bootstrap.group_of(str(tmp_path), "id") == group
    start.socket_dir = "/" + "x" * 60
    with pytest.raises(InvalidArgumentError, match="longer than 106 bytes"):
        bootstrap.socket_address(start, "id")


def run(*args: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*SHIM, *args], input=data, capture_output=True, timeout=30, check=False)


def test_command_line_without_a_container(tmp_path: Path) -> None:
    assert b"Version:" in run("-v").stdout
    info = RuntimeInfo.FromString(run("-info").stdout)
    assert info.name == "io.containerd.orlop.v2"
    for args, complaint in [
        (["-id", "x", "start"], b"shim namespace cannot be empty"),
        (["-namespace", "n", "start"], b"-id cannot be empty"),
        (["-namespace", "n", "-id", "x", "dance"], b"unknown action 'dance'"),
        (["-nope"], b"flag provided but not defined: -nope"),
    ]:
        done = run(*args)
        assert (done.returncode, done.stdout) == (1, b"")
        assert complaint in done.stderr
        assert done.stderr.count(b"\n") == 1


def test_loop_runs_coroutines_timers_and_locks() -> None:
    loop = Loop()
    seen: list[str] = []
    lock = Lock()

    async def worker(name: str, pause: float) -> str:
        async with lock:
            seen.append(f"{name} in")
            await loop.sleep(pause)
            seen.append(f"{name} out")
        return name

    async def fails() -> None:
        await loop.sleep(0.001)
        raise ValueError("no")

    first, second, failed = loop.spawn(worker("a", 0.02)), loop.spawn(worker("b", 0)), loop.spawn(fails())
    cancelled = loop.call_later(0.001, lambda: seen.append("never"))
    cancelled.cancel()
    second.on_done(loop.stop)
    loop.run()
    assert seen == ["a in", "a out", "b in", "b out"]
    assert (first.result(), second.result()) == ("a", "b")
    with pytest.raises(ValueError, match="no"):
        failed.result()
    reader, writer = os.pipe()
    got: Future[int] = loop.readable(reader)
    got.on_done(loop.stop)
    os.write(writer, b"x")
    loop.run()
    assert got.done
    os.close(reader)
    os.close(writer)
    loop.close()


def test_loop_survives_a_bug_in_a_callback() -> None:
    told: list[str] = []
    loop = Loop(lambda where, error: told.append(str(error)))
    reader, writer = os.pipe()
    os.write(writer, b"x")  # stays readable: the callback fails each time, until it is taken out

    def bug(_events: int) -> None:
        raise ValueError("bug")

    loop.add(reader, 1, bug)
    loop.call_later(0.2, loop.stop)
    loop.run()
    assert told == ["bug"] * 100
    os.close(reader)
    os.close(writer)
    loop.close()


def run_until(loop: Loop, condition: Any) -> None:
    def check() -> None:
        if condition():
            loop.stop()
        else:
            loop.call_later(0.005, check)

    loop.call_later(20, lambda: pytest.fail("it did not happen in time"))
    check()
    loop.run()


def test_publisher_keeps_order_while_containerd_is_away(tmp_path: Path) -> None:
    loop = Loop()
    publisher = Publisher(loop, str(tmp_path / "e"), "ns")
    for number in range(5):
        publisher.publish(events_pb2.TaskExit(container_id=str(number)))
    assert not publisher.idle
    sink = EventSink(tmp_path / "e")
    sink.refuse = 2
    publisher.poke()
    run_until(loop, lambda: publisher.idle)
    assert [event.container_id for _, event in sink.events] == list("01234")
    assert sink.namespaces == {"ns"}
    sink.close()
    publisher.publish(events_pb2.TaskOOM(container_id="5"))
    publisher.publish(events_pb2.TaskPaused(container_id="6"))
    again = EventSink(tmp_path / "e")
    run_until(loop, lambda: publisher.idle)
    assert again.topics() == ["oom", "paused"]
    publisher.close()
    again.close()
    loop.close()


def test_publisher_is_bounded_and_keeps_exits(tmp_path: Path) -> None:
    loop = Loop()
    publisher = Publisher(loop, str(tmp_path / "e"), "ns")
    publisher.publish(events_pb2.TaskExit(container_id="first"))
    for number in range(3000):
        kind = events_pb2.TaskExit if number % 2 else events_pb2.TaskPaused
        publisher.publish(kind(container_id=str(number)))
    sink = EventSink(tmp_path / "e")
    publisher.poke()
    run_until(loop, lambda: publisher.idle)
    exits = [event.container_id for topic, event in sink.events if topic == "/tasks/exit"]
    assert exits == ["first", *(str(number) for number in range(1, 3000, 2))]
    assert len(sink.events) == 2048
    publisher.close()
    sink.close()
    loop.close()


def test_plan_of_a_restore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What libcontainer is told of a task that has a checkpoint: images, a directory for logs, streams."""
    (tmp_path / "config.json").write_text('{"ociVersion":"1.0.2","process":{"args":["a"],"cwd":"/","user":{}}}')
    told: list[Any] = []

    def restore(*arguments: Any) -> Any:
        told.extend(arguments)
        return SimpleNamespace(init_pid=7, record=SimpleNamespace(cgroup_paths={"": "/c"}), console=None)

    monkeypatch.setattr(Container, "restore", restore)
    creation = helper.Creation("/state", "c", str(tmp_path), False, True, False, False)
    answer, console = helper.create(creation, (5, 6, 7), images=("/images", str(tmp_path / "work")))
    root, id, bundle, spec, options, images = told
    assert (root, id, bundle, spec.process.args) == ("/state", "c", str(tmp_path), ["a"])
    assert (images.image_path, images.work_path) == ("/images", str(tmp_path / "work"))
    assert (options.no_pivot, options.stdio, options.pid_file) == (True, Stdio(5, 6, 7), f"{tmp_path}/init.pid")
    assert (tmp_path / "work").is_dir()
    assert (answer["pid"], answer["cgroup_paths"], console) == (7, {"": "/c"}, None)


def test_checkpoint_of_a_request() -> None:
    assert checkpoint_of(CreateTaskRequest(bundle="/b"), Options()) is None
    request = CreateTaskRequest(bundle="/b", checkpoint="/images")
    assert checkpoint_of(request, Options()) == ("/images", "/b/criu-work")
    assert checkpoint_of(request, Options(criu_work_path="/w")) == ("/images", "/w")
