# SPDX-License-Identifier: Apache-2.0
"""Sandboxes: the store of records, and the controller over a shim that serves the Sandbox API."""

from __future__ import annotations

import asyncio
import glob
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support import sandbox_shim
from support.containerd import RUNC_SHIM, Daemon, processes_about, wait_until

from orlop.api import events_pb2
from orlop.api import sandbox_pb2 as pb
from orlop.api.containers_pb2 import Container
from orlop.api.tasks_pb2 import CreateTaskRequest
from orlop.api.types_pb2 import Sandbox
from orlop.containerd.client import Client, typeurl
from orlop.errdefs import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    NotImplementedByUsError,
    OrlopError,
    UnavailableError,
)

pytestmark = pytest.mark.root

BUNDLES = "io.containerd.sandbox.controller.v1.shim"
SPEC = typeurl.pack_json(typeurl.SPEC, b'{"hostname":"in"}')


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    daemon = Daemon("orlop").start()
    yield daemon
    daemon.remove()


@pytest.fixture
async def client(shared: Daemon) -> AsyncIterator[Client]:
    async with Client(shared.address, shared.namespace) as client:
        yield client
        assert await client.sandboxes.records() == []
        base = f"{shared.state}/{BUNDLES}/{shared.namespace}"
        assert not os.path.isdir(base) or os.listdir(base) == []


def sandbox(id: str, runtime: str = "io.example.runtime.v1", **labels: str) -> Sandbox:
    return Sandbox(sandbox_id=id, runtime=Sandbox.Runtime(name=runtime), spec=SPEC, labels=labels)


async def test_records(client: Client) -> None:
    made = await client.sandboxes.create_record(sandbox("a", x="1"))
    assert (made.sandbox_id, dict(made.labels), made.spec) == ("a", {"x": "1"}, SPEC)
    assert made.created_at.seconds > 0
    with pytest.raises(AlreadyExistsError):
        await client.sandboxes.create_record(sandbox("a"))
    await client.sandboxes.create_record(sandbox("b"))
    assert [one.sandbox_id for one in await client.sandboxes.records()] == ["a", "b"]
    assert [one.sandbox_id for one in await client.sandboxes.records("labels.x==1")] == ["a"]
    assert [one.sandbox_id for one in await client.sandboxes.records("id==b")] == ["b"]
    other = client.with_namespace("elsewhere")
    assert await other.sandboxes.records() == []
    with pytest.raises(FailedPreconditionError, match="sandboxes"):
        await client.namespaces.delete(client.namespace)
    changed = await client.sandboxes.update_record(sandbox("a", y="2"), "labels.y")
    assert dict(changed.labels) == {"x": "1", "y": "2"}
    changed = await client.sandboxes.update_record(sandbox("a", z="3"))
    assert dict(changed.labels) == {"z": "3"}
    assert await client.sandboxes.record("a") == changed
    with pytest.raises(InvalidArgumentError, match="immutable"):
        await client.sandboxes.update_record(sandbox("a", "io.other.v1"))
    with pytest.raises(InvalidArgumentError, match='cannot update "id"'):
        await client.sandboxes.update_record(sandbox("a"), "id")
    for bad in (sandbox("../a"), Sandbox(sandbox_id="c")):
        with pytest.raises(InvalidArgumentError):
            await client.sandboxes.create_record(bad)
    for id in ("a", "b"):
        await client.sandboxes.delete_record(id)
        with pytest.raises(NotFoundError):
            await client.sandboxes.delete_record(id)


async def test_life(client: Client, shared: Daemon, tmp_path: object) -> None:
    program = sandbox_shim.install(str(tmp_path))
    one = sandbox("s", program)
    await client.sandboxes.create(one, netns_path="/run/netns/x", annotations={"a": "b"})
    with pytest.raises(AlreadyExistsError):
        await client.sandboxes.create(one)
    started = await client.sandboxes.start("s")
    assert started.pid > 1
    assert (started.address.startswith("unix:///tmp/"), started.version) == (True, 3)
    assert (await client.sandboxes.platform("s")).architecture == "amd64"
    status = await client.sandboxes.status("s", verbose=True)
    bundle = f"{shared.state}/{BUNDLES}/{shared.namespace}/s"
    assert (status.state, dict(status.info)) == ("running", {"netns": "/run/netns/x", "bundle": bundle})
    with open(f"{bundle}/config.json", "rb") as file:
        assert file.read() == SPEC.value
    assert (await client.sandboxes.metrics("s")).id == "s"
    asked = pb.ControllerUpdateRequest(sandbox_id="s", sandboxer="shim", sandbox=sandbox("s", program, x="1"))
    await client.sandboxes._controller.Update(asked, metadata=(("containerd-namespace", client.namespace),))
    waiting = asyncio.ensure_future(client.sandboxes.wait("s"))
    await client.sandboxes.stop("s", 9)
    assert (await waiting).exit_status == 7
    assert (await client.sandboxes.status("s")).state == "stopped within 9"
    await client.sandboxes.shutdown("s")
    assert not os.path.exists(bundle)
    wait_until(lambda: not list(processes_about(bundle)))
    gone = await client.sandboxes.status("s")
    assert (gone.state, gone.exited_at.seconds > 0) == ("", True)
    await client.sandboxes.stop("s")
    for call in (client.sandboxes.shutdown("s"), client.sandboxes.start("s"), client.sandboxes.wait("s")):
        with pytest.raises(NotFoundError):
            await call


async def test_events(client: Client, tmp_path: object) -> None:
    program = sandbox_shim.install(str(tmp_path))
    async with client.events.subscribe("topic~=/sandboxes/") as stream:
        await client.sandboxes.create(sandbox("e", program))
        await client.sandboxes.start("e")
        await client.sandboxes.stop("e")
        await client.sandboxes.wait("e")
        await client.sandboxes.shutdown("e")
        seen = [await anext(stream) for _ in range(3)]
    assert [envelope.topic for envelope in seen] == ["/sandboxes/create", "/sandboxes/start", "/sandboxes/exit"]
    assert typeurl.unpack(seen[2].event, events_pb2.SandboxExit).exit_status == 7


async def test_failed_creations(client: Client, shared: Daemon, tmp_path: object) -> None:
    program = sandbox_shim.install(str(tmp_path))
    with pytest.raises(NotFoundError, match="told to fail"):
        await client.sandboxes.create(sandbox("f", program), annotations={"fail": "yes"})
    wait_until(lambda: not list(processes_about(f"{shared.state}/{BUNDLES}/")))
    # Our own shim, like Go's, has no Sandbox API.
    with pytest.raises(NotImplementedByUsError):
        await client.sandboxes.create(sandbox("f", "io.containerd.orlop.v2"))
    wait_until(lambda: not list(processes_about(f"{shared.state}/{BUNDLES}/")))
    with pytest.raises(NotFoundError, match="not installed"):
        await client.sandboxes.create(sandbox("f", "io.example.none.v1"))
    with pytest.raises(InvalidArgumentError):
        await client.sandboxes.create(sandbox("../f", program))


async def test_controllers(client: Client) -> None:
    stub = client.sandboxes._controller
    metadata = (("containerd-namespace", client.namespace),)
    for name, code in (("", "INVALID_ARGUMENT"), ("podsandbox", "NOT_FOUND")):
        with pytest.raises(Exception, match=code):
            await stub.Status(pb.ControllerStatusRequest(sandbox_id="x", sandboxer=name), metadata=metadata)


async def test_deaths(tmp_path: object) -> None:
    """Of the daemon, which the sandbox outlives, and of the shim."""
    program = sandbox_shim.install(str(tmp_path))
    daemon = Daemon("orlop").start()
    async with Client(daemon.address, daemon.namespace) as client:
        await client.sandboxes.create(sandbox("s", program))
        await client.sandboxes.create(sandbox("t", program))
        pids = {id: (await client.sandboxes.start(id)).pid for id in "st"}
        daemon.kill()
        os.kill(pids["t"], signal.SIGKILL)
        daemon.start()
        status = await client.sandboxes.status("s")
        assert (status.pid, status.state) == (pids["s"], "running")
        assert (await client.sandboxes.status("t")).pid == 0
        os.kill(pids["s"], signal.SIGKILL)
        with pytest.raises((UnavailableError, NotFoundError)):
            await client.sandboxes.wait("s")
        await client.sandboxes.stop("s")
        await client.sandboxes.shutdown("s")
        assert os.listdir(f"{daemon.state}/{BUNDLES}/{daemon.namespace}") == []
    daemon.remove()


def container(client: Client, id: str, rootfs: str, runtime: str, sandbox: str = "") -> Container:
    """A record whose task sleeps."""
    spec = {
        "ociVersion": "1.0.2",
        "process": {"args": ["sleep", "1000"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}},
        "root": {"path": rootfs},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")],
            "cgroupsPath": f"/{client.namespace}/{id}",
        },
    }
    packed = typeurl.pack_json(typeurl.SPEC, json.dumps(spec).encode())
    return Container(id=id, runtime=Container.Runtime(name=runtime), spec=packed, sandbox=sandbox)


async def finish(client: Client, id: str) -> None:
    waiting = asyncio.ensure_future(client.tasks.wait(id))
    await client.tasks.kill(id, 9)
    assert (await waiting).exit_status == 137
    await client.tasks.delete(id)
    await client.containers.delete(id)


@pytest.mark.parametrize("runtime", ["io.containerd.orlop.v2", RUNC_SHIM])
async def test_tasks_in_the_shim_of_a_pod(runtime: str, rootfs: str) -> None:
    """A container with a sandbox joins its shim, and leaves it to the others; so it is after a restart, too."""
    daemon = Daemon("orlop").start()
    async with Client(daemon.address, daemon.namespace) as client:
        for id, pod in (("pod", ""), ("one", "pod"), ("two", "pod")):
            await client.containers.create(container(client, id, rootfs, runtime, pod))
            await client.tasks.create(id)
            await client.tasks.start(id)
        bundles = f"{daemon.state}/io.containerd.runtime.v2.task/{daemon.namespace}"
        notes = [Path(f"{bundles}/{id}/bootstrap.json").read_text() for id in ("pod", "one", "two")]
        assert len({json.loads(note)["address"] for note in notes}) == 1
        await finish(client, "one")
        assert {task.id for task in await client.tasks.list()} == {"pod", "two"}
        with pytest.raises(NotFoundError, match="sandbox none: not found"):
            await client.containers.create(container(client, "lost", rootfs, runtime, "none"))
            await client.tasks.create("lost")
        await client.containers.delete("lost")
        daemon.kill()
    daemon.start()
    async with Client(daemon.address, daemon.namespace) as client:
        assert {task.id for task in await client.tasks.list()} == {"pod", "two"}
        await finish(client, "two")
        assert [task.id for task in await client.tasks.list()] == ["pod"]
        await finish(client, "pod")
        wait_until(lambda: not list(processes_about(bundles)), timeout=30)
        wait_until(lambda: not os.listdir(bundles), timeout=30)
    if runtime == RUNC_SHIM:  # runc gives up on a control group that stays busy for a third of a second
        for group in glob.glob(f"/sys/fs/cgroup/*/{daemon.namespace}/*/"):
            os.rmdir(group)
    daemon.remove()


async def test_bad_endpoints_of_sandboxes(client: Client, shared: Daemon, rootfs: str) -> None:
    """Of a client that names the shim itself."""
    made = container(client, "c", rootfs, "io.containerd.orlop.v2", "pod")
    await client.containers.create(made)
    for fields, complaint in (
        ({"task_api_address": "tcp://1.2.3.4:5", "task_api_version": 3}, "expected a unix:// address"),
        ({"task_api_address": "unix:///tmp/none", "task_api_version": 9}, "version 2 or 3"),
        ({"task_api_address": "unix:///tmp/none", "task_api_version": 3}, "none"),
    ):
        request = CreateTaskRequest(container_id="c", **fields)
        with pytest.raises(OrlopError, match=complaint):
            await client.tasks._call(client.tasks._stub.Create, request)
    await client.containers.delete("c")
    assert not os.listdir(f"{shared.state}/io.containerd.runtime.v2.task/{shared.namespace}")
