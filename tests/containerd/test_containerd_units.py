# SPDX-License-Identifier: Apache-2.0
"""The exchange, bundles, configuration and shim programs of the daemon, each by itself."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any

from orlop.api import events_pb2, types_pb2
from orlop.api.bootstrap_pb2 import BootstrapResult
from orlop.containerd import config, config_file, sockets
from orlop.containerd.client import typeurl
from orlop.containerd.plugins.exchange import Exchange, validate_topic
from orlop.containerd.plugins.runtime import zygote as zygote_module
from orlop.containerd.plugins.runtime.binary import program_of
from orlop.containerd.plugins.runtime.bundle import (
    Bootstrap,
    Bundle,
    bundle_at,
    parse_bootstrap,
    remapped_group,
    remove_hidden,
)
from orlop.containerd.plugins.runtime.zygote import Zygote
from orlop.errdefs import (
    AlreadyExistsError,
    DataLossError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    NotImplementedByUsError,
    ResourceExhaustedError,
    UnavailableError,
)

# The exchange


async def test_exchange_keeps_the_order() -> None:
    exchange = Exchange()
    everything, some = exchange.subscribe(), exchange.subscribe(["topic~=/exit$/", "namespace==two"])
    for namespace, topic in (("one", "/tasks/start"), ("one", "/tasks/exit"), ("two", "/tasks/start")):
        exchange.publish(namespace, topic, events_pb2.TaskStart(container_id="c"))
    assert [(await anext(everything)).envelope.topic for _ in range(3)] == [
        "/tasks/start",
        "/tasks/exit",
        "/tasks/start",
    ]
    assert [(await anext(some)).envelope.namespace for _ in range(2)] == ["one", "two"]
    everything.close()
    exchange.publish("one", "/tasks/oom", events_pb2.TaskOOM())
    exchange.close()
    with pytest.raises(UnavailableError):
        await anext(some)


async def test_exchange_packs_by_bare_name() -> None:
    exchange = Exchange()
    subscription = exchange.subscribe()
    exchange.publish("n", "/tasks/oom", events_pb2.TaskOOM(container_id="c"))
    envelope = (await anext(subscription)).envelope
    assert envelope.event.type_url == "containerd.events.TaskOOM"
    assert envelope.timestamp.seconds > 0
    packed = Any(type_url="some.unknown.Type", value=b"\x01")
    exchange.publish("n", "/some/event", packed)
    assert (await anext(subscription)).envelope.event == packed


async def test_slow_subscriber_is_cut_off() -> None:
    exchange = Exchange(backlog=3)
    slow, quick = exchange.subscribe(), exchange.subscribe()
    for number in range(4):
        exchange.publish("n", "/x", events_pb2.TaskOOM(container_id=str(number)))
        assert typeurl.unpack((await anext(quick)).envelope.event, events_pb2.TaskOOM).container_id == str(number)
    with pytest.raises(ResourceExhaustedError):
        await anext(slow)


async def test_filters_on_fields_of_events() -> None:
    exchange = Exchange()
    by_map = exchange.subscribe(['event.labels."a.b"==c'])
    by_absent = exchange.subscribe(["event.nothing"])
    exchange.publish("n", "/containers/update", events_pb2.ContainerUpdate(id="x", labels={"a.b": "d"}))
    exchange.publish("n", "/containers/update", events_pb2.ContainerUpdate(id="y", labels={"a.b": "c"}))
    exchange.publish("n", "/x", Any(type_url="unknown", value=b""))
    assert typeurl.unpack((await anext(by_map)).envelope.event, events_pb2.ContainerUpdate).id == "y"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(by_absent), 0.01)


@pytest.mark.parametrize("topic", ["", "x", "/", "/a//b", "/a b", "/a/"])
def test_bad_topics(topic: str) -> None:
    with pytest.raises(InvalidArgumentError):
        validate_topic(topic)


async def test_forward_wants_a_whole_envelope() -> None:
    exchange = Exchange()
    with pytest.raises(InvalidArgumentError, match="timestamp"):
        exchange.forward(types_pb2.Envelope(namespace="n", topic="/x"))
    with pytest.raises(InvalidArgumentError):
        exchange.publish("bad name", "/x", events_pb2.TaskOOM())


# Any


def test_typeurl() -> None:
    event = events_pb2.TaskExit(container_id="c", exit_status=3)
    packed = typeurl.pack(event)
    assert packed.type_url == "containerd.events.TaskExit"
    assert typeurl.unpack(packed, events_pb2.TaskExit) == typeurl.decode(packed) == event
    packed.type_url = "type.googleapis.com/containerd.events.TaskExit"
    assert typeurl.decode(packed) == event
    with pytest.raises(InvalidArgumentError, match=r"expected a containerd\.events\.TaskOOM"):
        typeurl.unpack(packed, events_pb2.TaskOOM)
    with pytest.raises(InvalidArgumentError, match="unknown message type"):
        typeurl.decode(Any(type_url="no.such.Type"))
    with pytest.raises(InvalidArgumentError, match="malformed"):
        typeurl.decode(Any(type_url="containerd.events.TaskExit", value=b"\xff"))
    assert typeurl.pack_json(typeurl.SPEC, b'{"a": 1}').value == b'{"a": 1}'
    assert typeurl.pack_json(typeurl.SPEC, {"a": 1}).value == b'{"a":1}'


# Bundles


def _bundle(tmp_path: Path, id: str = "task") -> Bundle:
    return bundle_at(str(tmp_path / "state"), str(tmp_path / "root"), "space", id)


def test_bundle(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path)
    spec = b'{ "odd":   "spacing" }'
    bundle.create(spec)
    assert Path(bundle.file("config.json")).read_bytes() == spec
    assert stat.S_IMODE(os.stat(bundle.path).st_mode) == 0o700
    assert stat.S_ISFIFO(os.lstat(bundle.file("log")).st_mode)
    assert os.readlink(bundle.file("work")) == bundle.work
    assert os.path.isdir(bundle.work)
    with pytest.raises(AlreadyExistsError):
        bundle.create(spec)
    assert bundle.read_shim() is None
    assert bundle.read_bootstrap() is None
    bundle.write_shim("/usr/bin/shim")
    assert bundle.read_shim() == "/usr/bin/shim"
    bootstrap = Bootstrap(3, "unix:///run/s/x")
    bundle.write_bootstrap(bootstrap)
    assert bundle.read_bootstrap() == bootstrap
    assert json.loads(Path(bundle.file("bootstrap.json")).read_bytes()) == {
        "version": 3,
        "address": "unix:///run/s/x",
        "protocol": "ttrpc",
    }
    bundle.remove()
    assert not os.path.exists(bundle.path)
    assert not os.path.exists(bundle.work)
    bundle.remove()


def test_bundle_with_the_leavings_of_a_reboot(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path)
    os.makedirs(f"{bundle.work}/old")
    bundle.create(b"{}")
    assert os.listdir(bundle.work) == []


def test_bundle_id_is_checked(tmp_path: Path) -> None:
    for id in ("../x", ".x", "", "a/b"):
        with pytest.raises(InvalidArgumentError):
            _bundle(tmp_path, id).create(b"{}")
    assert not (tmp_path / "state").exists()


def test_bundle_keeps_what_is_not_its_own(tmp_path: Path) -> None:
    """A rootfs that is full but not mounted is no mount of ours: it is not removed, and the error says so."""
    bundle = _bundle(tmp_path)
    bundle.create(b"{}")
    Path(bundle.file("rootfs/precious")).write_text("data")
    with pytest.raises(InternalError, match="rootfs"):
        bundle.remove()
    assert Path(bundle.file("rootfs/precious")).read_text() == "data"


@pytest.mark.root
def test_bundle_unmounts(tmp_path: Path) -> None:
    from orlop.unix.mount import mount

    bundle = _bundle(tmp_path)
    bundle.create(b"{}")
    for _ in range(2):
        mount("tmpfs", bundle.file("rootfs"), "tmpfs")
    os.mkdir(bundle.file("rootfs/a b"))
    mount("tmpfs", bundle.file("rootfs/a b"), "tmpfs")
    bundle.remove()
    assert not os.path.exists(bundle.path)


def test_old_bundles(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path)
    bundle.create(b"{}")
    Path(bundle.file("address")).write_text("unix:///run/s/old")
    assert bundle.read_bootstrap() == Bootstrap(2, "unix:///run/s/old")
    os.makedirs(tmp_path / "dir" / ".half" / "x")
    os.makedirs(tmp_path / "dir" / "whole")
    remove_hidden(str(tmp_path / "dir"))
    assert os.listdir(tmp_path / "dir") == ["whole"]


@pytest.mark.parametrize(
    ("spec", "group"),
    [
        (b"{}", 0),
        (b'{"linux":{"gidMappings":[{"containerID":0,"hostID":100000,"size":10}]}}', 100000),
        (b'{"linux":{"gidMappings":[{"containerID":5,"hostID":100000,"size":10}]}}', 0),
        (b'{"linux":{"gidMappings":null}}', 0),
        (b'{"gidMappings" broken', 0),
    ],
)
def test_remapped_group(spec: bytes, group: int) -> None:
    assert remapped_group(spec) == group


def test_answers_of_shims() -> None:
    for answer, expected in {
        b"unix:///run/s/x\n": Bootstrap(2, "unix:///run/s/x"),
        b'{"version":3,"address":"unix:///a","protocol":"ttrpc"}': Bootstrap(3, "unix:///a"),
        BootstrapResult(version=3, address="unix:///a", protocol="ttrpc").SerializeToString(): Bootstrap(
            3, "unix:///a"
        ),
    }.items():
        assert parse_bootstrap(answer) == expected
    with pytest.raises(NotImplementedByUsError, match=r"version \(4\)"):
        parse_bootstrap(b'{"version":4,"address":"unix:///a"}')
    with pytest.raises(NotImplementedByUsError, match="grpc"):
        parse_bootstrap(b'{"version":3,"address":"unix:///a","protocol":"grpc"}')
    for answer in (b"", b"{", b'{"version":3}', b"something went wrong"):
        with pytest.raises(DataLossError):
            parse_bootstrap(answer)


# Shim programs


def test_program_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shim = tmp_path / "containerd-shim-name-v7"
    shim.write_text("#!/bin/sh\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program_of("io.example.name.v7") == str(shim)
    assert program_of(str(shim)) == str(shim)
    assert program_of("io.containerd.orlop.v2").endswith("/bin/containerd-shim-orlop-v2")
    assert program_of("io.containerd.runc.v2").endswith("/bin/containerd-shim-orlop-v2")
    for name in ("", "one", "a/b.c", ".x", "a."):
        with pytest.raises(InvalidArgumentError, match="invalid runtime name"):
            program_of(name)
    with pytest.raises(NotFoundError, match="not installed"):
        program_of("io.example.missing.v1")
    with pytest.raises(NotFoundError):
        program_of("/no/such/program")


# The zygote's client


async def test_zygote_answers_in_order() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    child = os.posix_spawn("/bin/sleep", ["sleep", "100"], os.environ)  # noqa: ASYNC221 - does not wait
    zygote = Zygote((ours, child))
    calls = [asyncio.ensure_future(zygote.start_shim({"id": str(number)}, 0)) for number in range(3)]
    await asyncio.sleep(0)
    requests = []
    for _ in range(3):
        packet, fds, _, _ = socket.recv_fds(theirs, 4096, 4)
        requests.append(json.loads(packet)["id"])
        assert len(fds) == 1
        os.close(fds[0])
    assert requests == ["0", "1", "2"]
    calls[1].cancel()  # a caller that gives up takes no other's answer
    theirs.send(b'{"address":"unix:///0","pid":10}')
    theirs.send(b'{"address":"unix:///1","pid":11}')
    theirs.send(b'{"error":"no room"}')
    assert await calls[0] == ("unix:///0", 10)
    with pytest.raises(InternalError, match="no room"):
        await calls[2]
    lost = asyncio.ensure_future(zygote.start_shim({"id": "x"}, 0))
    await asyncio.sleep(0)
    os.kill(child, 9)
    theirs.close()
    with pytest.raises(UnavailableError):
        await lost
    with pytest.raises(UnavailableError, match="stay alive"):  # it lived under a second
        await zygote.start_shim({"id": "y"}, 0)
    await zygote.close()


async def test_zygote_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise FileNotFoundError(2, "no such file")

    monkeypatch.setattr(zygote_module, "spawn", broken)
    zygote = Zygote()
    with pytest.raises(UnavailableError, match="start the zygote"):
        await zygote.start_shim({}, 0)
    await zygote.close()


# Configuration


def test_config_file(tmp_path: Path) -> None:
    path = tmp_path / "containerd.toml"
    path.write_text(
        """
        version = 2
        root = "/var/lib/x"
        oom_score = -500
        [grpc]
          address = "/run/x/c.sock"
          gid = 7
        [debug]
          level = "debug"
        [plugins."io.containerd.grpc.v1.cri"]
          sandbox_image = "ignored"
        [timeouts]
          "io.containerd.timeout.shim.load" = "1m30s"
        """
    )
    made = config.load(str(path), {"root": "/from/flag"})
    assert (made.root, made.address, made.gid) == ("/from/flag", "/run/x/c.sock", 7)
    assert (made.ttrpc, made.level, made.oom_score, made.load_timeout) == (
        "/run/x/c.sock.ttrpc",
        "debug",
        -500,
        90.0,
    )
    path.write_text(config_file.dump(made))
    again = config.load(str(path), {})
    assert again == made._replace(ttrpc_address=made.ttrpc, shim_socket_dir=made.socket_dir, opt=made.opt_dir)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("version = 1", "version"),
        ("version = 2\nroot = 5", "root: expected a string"),
        ("version = 2\nroot = 'relative'", "root: expected an absolute path"),
        ("version = 2\n[debug]\nlevel = 'loud'", "level: expected one of"),
        ("version = 2\n[grpc]\ngid = 'wheel'", "gid: expected an integer"),
        ("version = 2\n[timeouts]\n'io.containerd.timeout.shim.load' = '5'", "expected a duration"),
        ("version = 2\noom_score = 2000", "oom_score"),
        ("version = ", "toml"),
    ],
)
def test_bad_config(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "containerd.toml"
    path.write_text(text)
    with pytest.raises(InvalidArgumentError, match=complaint):
        config.load(str(path), {})


def test_missing_config() -> None:
    with pytest.raises(NotFoundError, match="no such configuration file"):
        config.load("/no/such/file", {})


# Sockets


def test_stale_sockets(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    first = sockets.listen(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with pytest.raises(FailedPreconditionError, match="served by another"):
        sockets.listen(path)
    first.close()
    sockets.listen(path).close()
    os.unlink(path)
    Path(path).write_text("a file")
    with pytest.raises(FailedPreconditionError, match="no socket"):
        sockets.listen(path)
    assert Path(path).read_text() == "a file"


def test_one_daemon_a_root(tmp_path: Path) -> None:
    made = config.Config(root=str(tmp_path / "r"), state=str(tmp_path / "s"), address=str(tmp_path / "a/c.sock"))
    lock = sockets.prepare_directories(made)
    assert stat.S_IMODE(os.stat(made.root).st_mode) == stat.S_IMODE(os.stat(made.state).st_mode) == 0o700
    with pytest.raises(FailedPreconditionError, match="in use"):
        sockets.prepare_directories(made)
    os.close(lock)
    os.close(sockets.prepare_directories(made))
