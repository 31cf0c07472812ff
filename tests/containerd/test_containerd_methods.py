# SPDX-License-Identifier: Apache-2.0
"""methods.tsv: each method of containerd's API has a test that sees its work; here is what no other file asks."""

from __future__ import annotations

import asyncio
import csv
import glob
import json
import os
import re
from pathlib import Path

import pytest
from support.containerd import Daemon
from support.containerd_records import record, spec

from orlop.api import events_pb2, events_ttrpc_pb2, health_pb2, images_pb2, types_pb2
from orlop.containerd.client import Client, typeurl
from orlop.errdefs import AlreadyExistsError, NotFoundError
from orlop.rpc.ttrpc import client as ttrpc

pytestmark = pytest.mark.root

HERE = Path(__file__).parent
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DIGESTS = [f"sha256:{number:064x}" for number in (1, 2)]


def test_every_method_has_a_row() -> None:
    """Of the descriptors that the daemon serves by; and the tests of the table exist."""
    with (HERE / "methods.tsv").open(encoding="utf-8", newline="") as file:
        rows = {(row["service"], row["method"]): row["seen by"] for row in csv.DictReader(file, delimiter="\t")}
    described = set()
    for path in (HERE.parents[1] / "src/orlop/api").glob("*.proto"):
        text = path.read_text()
        package = re.search(r"^package ([\w.]+);", text, re.MULTILINE)
        for name, body in re.findall(r"^service (\w+) \{(.*?)^\}", text, re.MULTILINE | re.DOTALL):
            assert package is not None
            described |= {(f"{package[1]}.{name}", method) for method in re.findall(r"rpc (\w+)", body)}
    ours = {(service, method) for service, method in described if re.search(r"\.services\.|^grpc", service)}
    assert ours == set(rows)
    for row, seen in rows.items():
        found = re.findall(r"([\w/.]+):((?:Test\w+\.)?test_\w+)", seen)
        assert found, row
        for place, test in found:
            assert re.search(rf"def {test.rpartition('.')[2]}\(", (HERE / f"{place}.py").read_text()), (row, test)


async def test_terminal_and_input(daemon: Daemon, rootfs: str) -> None:
    """ResizePty and CloseIO, of a container's process and of an exec."""
    document = json.loads(spec(daemon.namespace, rootfs, "sh", "-c", "read x; stty size; read y; exit 4"))
    document["process"]["terminal"] = True
    options = ["newinstance", "ptmxmode=0666"]
    pts = {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": options}
    document["mounts"].append(pts)
    streams = {name: f"{daemon.base}/{name}" for name in ("in", "out", "exec-in", "exec-out")}
    for path in streams.values():
        os.mkfifo(path)
    ends = {name: os.open(path, os.O_RDWR | os.O_NONBLOCK) for name, path in streams.items()}
    try:
        async with Client(daemon.address, daemon.namespace) as client:
            await client.containers.create(record("t", json.dumps(document).encode()))
            await client.tasks.create("t", stdin=streams["in"], stdout=streams["out"], terminal=True)
            await client.tasks.start("t")
            waiting = asyncio.ensure_future(client.tasks.wait("t"))
            await client.tasks.resize_pty("t", width=91, height=31)
            os.write(ends["in"], b"\n")
            assert "31 91" in await _read(ends["out"], "31 91")

            process = {"args": ["sh", "-c", "cat; exit 6"], "cwd": "/", "env": ["PATH=/bin"], "user": {}}
            out = {"stdout": streams["exec-out"], "stderr": streams["exec-out"]}
            packed = typeurl.pack_json(typeurl.PROCESS, json.dumps(process).encode())
            await client.tasks.exec("t", "e", packed, stdin=streams["exec-in"], **out)
            await client.tasks.start("t", "e")
            exec_waiting = asyncio.ensure_future(client.tasks.wait("t", "e"))
            os.write(ends["exec-in"], b"typed")
            assert await _read(ends["exec-out"], "typed") == "typed"
            os.close(ends.pop("exec-in"))  # the shim holds the other end that writes
            await client.tasks.close_io("t", "e")
            assert (await exec_waiting).exit_status == 6
            await client.tasks.delete_process("t", "e")

            os.write(ends["in"], b"\n")
            assert (await waiting).exit_status == 4
            await client.tasks.delete("t")
            await client.containers.delete("t")
    finally:
        for fd in ends.values():
            os.close(fd)


async def _read(fd: int, wanted: str) -> str:
    """What comes up to these words."""
    text = ""
    loop = asyncio.get_running_loop()
    while wanted not in text:
        readable = asyncio.Event()
        loop.add_reader(fd, readable.set)
        try:
            await asyncio.wait_for(readable.wait(), 60)
        finally:
            loop.remove_reader(fd)
        text += os.read(fd, 4096).decode()
    return text


async def test_limits_are_changed(daemon: Daemon, rootfs: str) -> None:
    """Update, and Checkpoint of what there is not."""
    async with Client(daemon.address, daemon.namespace) as client:
        await client.containers.create(record("t", spec(client.namespace, rootfs, "sleep", "100")))
        await client.tasks.create("t")
        await client.tasks.start("t")
        resources = typeurl.pack_json(typeurl.LINUX_RESOURCES, b'{"pids": {"limit": 77}}')
        await client.tasks.update("t", resources)
        (limit,) = glob.glob(f"/sys/fs/cgroup/**/{client.namespace}/x/pids.max", recursive=True)
        assert Path(limit).read_text().strip() == "77"
        with pytest.raises(NotFoundError):
            await client.tasks.update("none", resources)
        with pytest.raises(NotFoundError):
            await client.tasks.checkpoint("none")
        waiting = asyncio.ensure_future(client.tasks.wait("t"))
        await client.tasks.kill("t", 9)
        await waiting
        await client.tasks.delete("t")
        await client.containers.delete("t")


async def test_records(daemon_shared: Daemon) -> None:
    """Images, leases and namespaces, by the wire: what other tests ask of the stores."""
    async with Client(daemon_shared.address, "records") as client:
        targets = [types_pb2.Descriptor(media_type=MANIFEST, digest=digest, size=10) for digest in DIGESTS]
        made = await client.images.create("one", targets[0], {"a": "1"})
        assert await client.images.get("one") == made
        with pytest.raises(AlreadyExistsError):
            await client.images.create("one", targets[0])
        await client.images.create("two", targets[1])
        assert [each.name for each in await client.images.list("labels.a==1")] == ["one"]
        change = images_pb2.Image(name="one", target=targets[1], labels={"b": "2"})
        changed = await client.images.update(change, "labels.b")
        assert (dict(changed.labels), changed.target.digest) == ({"a": "1", "b": "2"}, DIGESTS[0])
        assert (await client.images.update(change)).target.digest == DIGESTS[1]

        lease = await client.leases.create("lease", {"c": "3"})
        assert [each.id for each in await client.leases.list("labels.c==3")] == [lease.id]
        await client.leases.add_resource("lease", "content", DIGESTS[0])
        assert [(each.type, each.id) for each in await client.leases.resources("lease")] == [
            ("content", DIGESTS[0])
        ]
        await client.leases.delete_resource("lease", "content", DIGESTS[0])
        assert await client.leases.resources("lease") == []
        await client.leases.delete("lease", sync=True)
        with pytest.raises(NotFoundError):
            await client.leases.delete("lease")

        await client.namespaces.update("records", {"d": "4"}, ["labels.d"])
        assert dict((await client.namespaces.get("records")).labels) == {"d": "4"}
        assert "records" in [each.name for each in await client.namespaces.list()]
        for name in ("one", "two"):
            await client.images.delete(name, sync=True)
        with pytest.raises(NotFoundError):
            await client.images.delete("one")
        await client.namespaces.delete("records")
        assert "records" not in [each.name for each in await client.namespaces.list()]
        await client.namespaces.create("records", {"e": "5"})
        await client.namespaces.delete("records")


async def test_health_is_watched(daemon_shared: Daemon) -> None:
    async with Client(daemon_shared.address) as client:
        watching = client.system._health.Watch(health_pb2.HealthCheckRequest())
        assert (await asyncio.wait_for(watching.read(), 60)).status == health_pb2.HealthCheckResponse.SERVING
        watching.cancel()
        unknown = client.system._health.Watch(health_pb2.HealthCheckRequest(service="none"))
        first = await asyncio.wait_for(unknown.read(), 60)
        assert first.status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        unknown.cancel()


async def test_events_are_forwarded(daemon_shared: Daemon) -> None:
    """By gRPC and, as shims do it, by ttrpc: with the time and the namespace that they have."""
    async with (
        Client(daemon_shared.address, daemon_shared.namespace) as client,
        client.events.subscribe('topic=="/tasks/oom",namespace==of-others') as events,
    ):
        envelope = types_pb2.Envelope(namespace="of-others", topic="/tasks/oom")
        envelope.timestamp.FromNanoseconds(1_700_000_000_000_000_001)
        envelope.event.CopyFrom(typeurl.pack(events_pb2.TaskOOM(container_id="g")))
        await client.events.forward(envelope)
        assert await anext(events) == envelope
        envelope.event.CopyFrom(typeurl.pack(events_pb2.TaskOOM(container_id="t")))
        await asyncio.to_thread(_forward, f"{daemon_shared.address}.ttrpc", envelope)
        assert await anext(events) == envelope


def _forward(address: str, envelope: types_pb2.Envelope) -> None:
    service = events_ttrpc_pb2.DESCRIPTOR.services_by_name["Events"]
    connection = ttrpc.Client.connect(address)
    try:
        connection.call(service, "Forward", events_ttrpc_pb2.ForwardRequest(envelope=envelope))
    finally:
        connection.close()
