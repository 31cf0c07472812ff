# SPDX-License-Identifier: Apache-2.0
"""The client library against orlop's daemon and the original."""

import asyncio
import hashlib
import signal

import pytest
from support.containerd import Daemon
from support.containerd_records import RUNC, record, spec

from orlop.api import containers_pb2, events_pb2, types_pb2
from orlop.containerd.client import Client, typeurl
from orlop.errdefs import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    OrlopError,
    UnavailableError,
)

pytestmark = pytest.mark.root


async def test_no_daemon() -> None:
    async with Client("/tmp/oc-nowhere.sock") as client:
        with pytest.raises(UnavailableError):
            await client.system.version(timeout=5)
        with pytest.raises(UnavailableError, match=r"/tmp/oc-nowhere\.sock"):
            await client.connect(0.2)


async def test_system(daemon: Daemon) -> None:
    async with Client(daemon.address, daemon.namespace) as client:
        await client.connect()
        assert (await client.system.version()).version
        assert await client.system.healthy()
        server = await client.system.server()
        assert len(server.uuid) == 36
        overlay = await client.system.plugins("type==io.containerd.snapshotter.v1,id==overlayfs")
        assert [plugin.id for plugin in overlay] == ["overlayfs"]
        assert overlay[0].exports["root"].startswith(daemon.root)


async def test_server_uuid_is_kept(orlop: Daemon) -> None:
    async with Client(orlop.address) as client:
        before = (await client.system.server()).uuid
        orlop.stop()
        orlop.start()
        assert (await client.system.server()).uuid == before


async def test_plugin_info(orlop: Daemon) -> None:
    async with Client(orlop.address) as client:
        info = await client.system.plugin_info("io.containerd.grpc.v1", "tasks")
        assert list(info.plugin.requires) == ["io.containerd.runtime.v2"]
        with pytest.raises(NotFoundError):
            await client.system.plugin_info("io.containerd.grpc.v1", "nothing")


async def test_containers(daemon: Daemon) -> None:
    document = b'{ "process": {"args": ["x"]},  "kept": "byte for byte" }'
    async with Client(daemon.address, "one") as client, Client(daemon.address, "two") as other:
        made = await client.containers.create(record("a", document, role="web"))
        assert made.created_at.seconds == made.updated_at.seconds > 0
        with pytest.raises(AlreadyExistsError):
            await client.containers.create(record("a", document))
        await client.containers.create(record("b", document))
        got = await client.containers.get("a")
        assert got.spec.value == document
        assert got == made
        assert [each.id for each in await client.containers.list()] == ["a", "b"]
        assert [each.id for each in await client.containers.list("labels.role==web")] == ["a"]
        assert [each.id for each in await client.containers.list("id==b", "labels.role")] == ["a", "b"]
        assert await other.containers.list() == []
        with pytest.raises(NotFoundError):
            await other.containers.get("a")
        await client.containers.delete("a")
        with pytest.raises(NotFoundError):
            await client.containers.delete("a")
        with pytest.raises(FailedPreconditionError):
            await client.namespaces.delete("one")
        await client.containers.delete("b")
        await client.namespaces.delete("one")


async def test_container_stream(orlop: Daemon) -> None:
    async with Client(orlop.address) as client:
        for name in ("a", "b"):
            await client.containers.create(record(name, b"{}"))
        assert [each.id async for each in client.containers.stream()] == ["a", "b"]
        assert [each.id async for each in client.containers.stream("id==b")] == ["b"]


async def test_container_updates(daemon: Daemon) -> None:
    async with Client(daemon.address, daemon.namespace) as client:
        made = await client.containers.create(record("a", b"{}", one="1", two="2"))
        change = record("a", b'{"new": 1}', one="I", three="3")
        change.extensions["x"].CopyFrom(typeurl.pack(events_pb2.ContainerDelete(id="x")))
        got = await client.containers.update(change, "labels.one")
        assert (dict(got.labels), got.spec.value) == ({"one": "I", "two": "2"}, b"{}")
        got = await client.containers.update(change, "labels", "extensions.x")
        assert dict(got.labels) == {"one": "I", "three": "3"}
        assert got.extensions["x"].type_url == "containerd.events.ContainerDelete"
        got = await client.containers.update(change)
        assert got.spec.value == b'{"new": 1}'
        assert got.created_at == made.created_at
        assert got.updated_at.ToNanoseconds() > made.updated_at.ToNanoseconds()
        with pytest.raises(InvalidArgumentError, match="runtime"):
            await client.containers.update(change, "runtime")
        with pytest.raises(InvalidArgumentError):
            await client.containers.update(record("a", b"{}", runtime="other.name.v1"))
        with pytest.raises(NotFoundError):
            await client.containers.update(record("none", b"{}"))


@pytest.mark.parametrize(
    "container",
    [
        record("", b"{}"),
        record("with space", b"{}"),
        record("a" * 77, b"{}"),
        record("a", b"{}", runtime=""),
        record("a", b"{}", big="x" * 5000),
        containers_pb2.Container(id="a", runtime=containers_pb2.Container.Runtime(name=RUNC)),
        containers_pb2.Container(id="a", runtime={"name": RUNC}, spec={"value": b"{}"}, snapshot_key="k"),
    ],
)
async def test_bad_containers(daemon_shared: Daemon, container: containers_pb2.Container) -> None:
    async with Client(daemon_shared.address, daemon_shared.namespace) as client:
        with pytest.raises(InvalidArgumentError):
            await client.containers.create(container)
        assert await client.containers.list() == []


async def test_namespace_is_required(daemon_shared: Daemon) -> None:
    async with Client(daemon_shared.address, "") as client:
        with pytest.raises(FailedPreconditionError, match="namespace is required"):
            await client.containers.list()
        with pytest.raises(FailedPreconditionError, match="namespace is required"):
            await client.tasks.list()


async def test_content_and_images(daemon: Daemon) -> None:
    data = b"some bytes" * 300_000
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    async with Client(daemon.address, daemon.namespace) as client:
        await client.leases.create("keep")
        held = client.with_lease("keep")
        await held.content.write_blob("upload", data, digest, {"kind": "test"})
        await held.content.write_blob("again", data, digest, {"more": "1"})
        info = await client.content.info(digest)
        assert (info.size, dict(info.labels)) == (len(data), {"kind": "test", "more": "1"})
        assert await client.content.read_blob(digest) == data
        assert b"".join([part async for part in client.content.read(digest, 5, 10)]) == data[5:15]
        assert [each.digest async for each in client.content.list()] == [digest]
        async with held.content.writer("half") as writer:
            await writer.write(b"half")
        assert [status.ref for status in await client.content.statuses()] == ["half"]
        async with held.content.writer("half") as writer:
            assert writer.offset == 4
            with pytest.raises(FailedPreconditionError):
                await writer.commit(expected="sha256:" + "0" * 64)
        image = await client.images.create(
            "example.com/x:1", types_pb2.Descriptor(media_type="text/plain", digest=digest, size=len(data))
        )
        assert (await client.images.get("example.com/x:1")).target == image.target
        with pytest.raises(AlreadyExistsError):
            await client.images.create("example.com/x:1", image.target)
        await client.leases.delete("keep", sync=True)
        assert (await client.content.info(digest)).size == len(data)
        await client.images.delete("example.com/x:1", sync=True)
        with pytest.raises(NotFoundError):
            await client.content.info(digest)


async def test_events(daemon: Daemon) -> None:
    async with (
        Client(daemon.address, "here") as client,
        client.events.subscribe("topic~=|^/containers/|") as events,
    ):
        await client.containers.create(record("a", b"{}"))
        await client.events.publish("/tasks/oom", events_pb2.TaskOOM(container_id="a"))
        await client.with_namespace("there").containers.create(record("b", b"{}"))
        await client.containers.delete("a")
        got = [await anext(events) for _ in range(3)]
        assert [(each.namespace, each.topic) for each in got] == [
            ("here", "/containers/create"),
            ("there", "/containers/create"),
            ("here", "/containers/delete"),
        ]
        assert typeurl.unpack(got[2].event, events_pb2.ContainerDelete).id == "a"
        with pytest.raises(InvalidArgumentError):
            await client.events.publish("no-slash", events_pb2.TaskOOM(container_id="a"))


async def test_event_filters_see_fields(daemon: Daemon) -> None:
    async with Client(daemon.address, daemon.namespace) as client:
        wanted = 'topic=="/tasks/oom",event.container_id==b'
        async with client.events.subscribe(wanted) as events:
            for id in ("a", "b", "c", "b"):
                await client.events.publish("/tasks/oom", events_pb2.TaskOOM(container_id=id))
            got = [typeurl.unpack((await anext(events)).event, events_pb2.TaskOOM) for _ in range(2)]
            assert [event.container_id for event in got] == ["b", "b"]


async def test_bad_event_filter(daemon_shared: Daemon) -> None:
    async with Client(daemon_shared.address, daemon_shared.namespace) as client:
        with pytest.raises(OrlopError, match="filters: parse error"):
            async with client.events.subscribe("topic=~x") as events:
                await anext(events)


async def test_task_life(daemon: Daemon, rootfs: str) -> None:
    async with (
        Client(daemon.address, daemon.namespace) as client,
        client.events.subscribe("topic~=|^/tasks/|") as events,
    ):
        await client.containers.create(record("t", spec(client.namespace, rootfs, "sleep", "100")))
        pid = await client.tasks.create("t")
        assert pid > 1
        with pytest.raises(AlreadyExistsError):
            await client.tasks.create("t")
        assert await client.tasks.start("t") == pid
        assert (await client.tasks.get("t")).status == 2
        assert [process.pid for process in await client.tasks.pids("t")] == [pid]
        waiting = asyncio.ensure_future(client.tasks.wait("t"))
        process = (
            b'{"args": ["sh", "-c", "exit 5"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}'
        )
        await client.tasks.exec("t", "e", typeurl.pack_json(typeurl.PROCESS, process))
        exec_waiting = asyncio.ensure_future(client.tasks.wait("t", "e"))
        await client.tasks.start("t", "e")
        assert (await exec_waiting).exit_status == 5
        assert (await client.tasks.delete_process("t", "e")).exit_status == 5
        with pytest.raises(NotFoundError):
            await client.tasks.get("t", "e")
        await client.tasks.pause("t")
        assert (await client.tasks.get("t")).status == 4
        await client.tasks.resume("t")
        assert [metric.id for metric in await client.tasks.metrics("id==t")] == ["t"]
        assert await client.tasks.metrics("id==u") == []
        with pytest.raises(OrlopError, match="running"):  # Debian's shim gives it no code
            await client.tasks.delete("t")
        await client.tasks.kill("t", signal.SIGKILL)
        assert (await waiting).exit_status == 137
        gone = await client.tasks.delete("t")
        assert (gone.exit_status, gone.pid) == (137, pid)
        with pytest.raises(NotFoundError):
            await client.tasks.get("t")
        await client.containers.delete("t")
        topics = []
        while "/tasks/delete" not in topics:
            topics.append((await anext(events)).topic)
    assert topics == [
        f"/tasks/{name}"
        for name in (
            "create", "start", "exec-added", "exec-started", "exit", "paused", "resumed", "exit", "delete"
        )
    ]  # fmt: skip


async def test_unknown_runtime(daemon_shared: Daemon) -> None:
    async with Client(daemon_shared.address, daemon_shared.namespace) as client:
        for number, runtime in enumerate(("io.containerd.nothing.v9", "relative/path", "/no/such/shim")):
            id = f"r{number}"
            await client.containers.create(record(id, b"{}", runtime))
            with pytest.raises(Exception, match=r"runtime|binary"):
                await client.tasks.create(id)
            assert await client.tasks.list() == []
            await client.containers.delete(id)


async def test_failed_create_leaves_nothing(daemon: Daemon, rootfs: str) -> None:
    async with Client(daemon.address, daemon.namespace) as client:
        await client.containers.create(record("f", spec(client.namespace, rootfs, "/no/such/program")))
        with pytest.raises(Exception, match="no such"):
            await client.tasks.create("f")
        assert await client.tasks.list() == []
        with pytest.raises(NotFoundError):
            await client.tasks.get("f")
        await client.containers.delete("f")
