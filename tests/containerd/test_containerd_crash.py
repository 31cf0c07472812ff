# SPDX-License-Identifier: Apache-2.0
"""Deaths: of the daemon, of a shim, of the zygote, of a client. No container notices, no exit code is lost."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
from support.containerd import Daemon, mounts_below, processes_about, wait_until
from support.containerd_records import spec

from orlop.api import containers_pb2, events_pb2, types_pb2
from orlop.containerd.client import Client, typeurl
from orlop.containerd.plugins.runtime.former import note_zygote
from orlop.errdefs import AlreadyExistsError, NotFoundError, OrlopError, UnavailableError

pytestmark = pytest.mark.root

OWN = "io.containerd.orlop.v2"
DEBIAN = "io.containerd.runc.v2"
TASKS = "io.containerd.runtime.v2.task"


@pytest.fixture(params=[OWN, DEBIAN])
def runtime(request: pytest.FixtureRequest) -> str:
    """Each kind of shim: forked by the zygote, and Debian's program."""
    name: str = request.param
    return name


@pytest.fixture
def daemon(orlop: Daemon) -> Iterator[Daemon]:
    """orlop-containerd; at the end nothing is left of its tasks."""
    yield orlop
    base = f"{orlop.state}/{TASKS}/{orlop.namespace}"
    wait_until(lambda: not os.path.isdir(base) or not os.listdir(base))


async def start(client: Client, id: str, runtime: str, rootfs: str, *arguments: str) -> int:
    """A container and its running task: its pid."""
    await store(client, id, runtime, spec(client.namespace, rootfs, *arguments, id=id))
    await client.tasks.create(id)
    return await client.tasks.start(id)


async def store(client: Client, id: str, runtime: str, spec_: bytes) -> None:
    await client.containers.create(
        containers_pb2.Container(
            id=id,
            runtime=containers_pb2.Container.Runtime(name=runtime),
            spec=typeurl.pack_json(typeurl.SPEC, spec_),
        )
    )


async def finish(client: Client, *ids: str) -> None:
    """Kill and remove tasks and containers."""
    for id in ids:
        waiting = asyncio.ensure_future(client.tasks.wait(id))
        await client.tasks.kill(id, signal.SIGKILL)
        await waiting
        await client.tasks.delete(id)
        await client.containers.delete(id)


def shim_of(daemon: Daemon, id: str) -> int:
    """The pid of the shim that holds a task: the one whose directory is the bundle, and no zygote or container."""
    bundle = f"{daemon.state}/{TASKS}/{daemon.namespace}/{id}"
    found: list[int] = []

    def is_alone() -> bool:
        found[:] = [pid for pid, _ in processes_about(bundle)]
        return len(found) == 1

    wait_until(is_alone)  # a helper of the shim's ends some moments after its answer
    return found[0]


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_daemon_dies(daemon: Daemon, runtime: str, rootfs: str) -> None:
    async with Client(daemon.address, daemon.namespace) as client:
        runs = await start(client, "runs", runtime, rootfs, "sleep", "100")
        ends = await start(client, "ends", runtime, rootfs, "sleep", "100")
        await store(client, "waits", runtime, spec(client.namespace, rootfs, "sh", "-c", "exit 3", id="waits"))
        created = await client.tasks.create("waits")
        daemon.kill()
        os.kill(ends, signal.SIGKILL)
        wait_until(lambda: not alive(ends))
        assert alive(runs)
        daemon.start()
        assert {task.id for task in await client.tasks.list()} == {"runs", "ends", "waits"}
        assert (await client.tasks.get("runs")).pid == runs
        assert (await client.tasks.get("runs")).status == 2
        ended = await client.tasks.get("ends")
        assert (ended.status, ended.exit_status) == (3, 137)
        assert (await client.tasks.wait("ends")).exit_status == 137
        assert (await client.tasks.delete("ends")).exit_status == 137
        await client.containers.delete("ends")
        # One that was created is started by the next daemon.
        async with client.events.subscribe('topic=="/tasks/exit"') as events:
            assert await client.tasks.start("waits") == created
            exit_ = typeurl.unpack((await anext(events)).event, events_pb2.TaskExit)
            assert (exit_.container_id, exit_.exit_status) == ("waits", 3)
        assert (await client.tasks.delete("waits")).exit_status == 3
        await client.containers.delete("waits")
        process = (
            b'{"args": ["sh", "-c", "exit 5"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}'
        )
        await client.tasks.exec("runs", "e", typeurl.pack_json(typeurl.PROCESS, process))
        waiting = asyncio.ensure_future(client.tasks.wait("runs", "e"))
        await client.tasks.start("runs", "e")
        assert (await waiting).exit_status == 5
        await client.tasks.delete_process("runs", "e")
        await finish(client, "runs")


async def test_exit_code_of_the_absence(daemon: Daemon, runtime: str, rootfs: str) -> None:
    async with Client(daemon.address, daemon.namespace) as client:
        pid = await start(client, "a", runtime, rootfs, "sh", "-c", "sleep 0.3; exit 42")
        daemon.kill()
        wait_until(lambda: not alive(pid))
        daemon.start()
        assert (await client.tasks.wait("a")).exit_status == 42
        assert (await client.tasks.delete("a")).exit_status == 42
        await client.containers.delete("a")


async def test_daemon_stops(daemon: Daemon, runtime: str, rootfs: str) -> None:
    async with Client(daemon.address, daemon.namespace) as client:
        pid = await start(client, "a", runtime, rootfs, "sleep", "100")
        waiting = asyncio.ensure_future(client.tasks.wait("a"))
        async with client.events.subscribe() as events:
            await asyncio.sleep(0.05)  # for the wait to have reached the shim
            began = time.monotonic()
            assert daemon.stop() == 0
            assert time.monotonic() - began < 4  # nobody who waits for a process holds it up
            with pytest.raises(UnavailableError):
                while True:  # Debian's shim is late to tell of the start
                    await anext(events)
        with pytest.raises(UnavailableError):
            await waiting
        assert not os.path.exists(daemon.address)
        assert not os.path.exists(daemon.address + ".ttrpc")
        assert alive(pid)
        daemon.start()
        await client.connect()
        assert (await client.tasks.get("a")).pid == pid
        await finish(client, "a")


async def test_patient_client(daemon: Daemon) -> None:
    """With patience, a restart of the daemon fails nobody's call; without, a call fails at once."""
    async with (
        Client(daemon.address, daemon.namespace, patience=20) as patient,
        Client(daemon.address, daemon.namespace) as impatient,
    ):
        assert await patient.tasks.list() == await impatient.tasks.list() == []
        daemon.kill()
        calls = [patient.tasks.list(), patient.with_lease("l").snapshots().usage("none"), patient.images.list()]
        waiting = asyncio.gather(*calls, return_exceptions=True)
        with pytest.raises(UnavailableError):
            await impatient.tasks.list()
        assert not waiting.done()
        await asyncio.to_thread(daemon.start)
        tasks, usage, found = await waiting
        assert (tasks, found) == ([], [])
        assert isinstance(usage, NotFoundError)
    async with Client("/tmp/oc-nowhere.sock", patience=0.1) as client:
        with pytest.raises(UnavailableError, match=r"0\.1 s"):
            await client.tasks.list()


async def test_shim_dies(daemon: Daemon, runtime: str, rootfs: str) -> None:
    async with Client(daemon.address, daemon.namespace) as client:
        pid = await start(client, "a", runtime, rootfs, "sleep", "100")
        waiting = asyncio.ensure_future(client.tasks.wait("a"))
        await asyncio.sleep(0.05)  # for the wait to have reached the shim
        async with client.events.subscribe("topic~=|^/tasks/|") as events:
            os.kill(shim_of(daemon, "a"), signal.SIGKILL)
            first, second = await anext(events), await anext(events)
        exit_ = typeurl.unpack(first.event, events_pb2.TaskExit)
        assert (first.namespace, first.topic) == (daemon.namespace, "/tasks/exit")
        assert (exit_.container_id, exit_.id, exit_.exit_status) == ("a", "a", 137)
        assert exit_.exited_at.seconds > 0
        assert second.topic == "/tasks/delete"
        assert (await waiting).exit_status == 137
        wait_until(lambda: not alive(pid))
        with pytest.raises(NotFoundError):
            await client.tasks.get("a")
        # The name is free again.
        await client.tasks.create("a")
        await client.tasks.start("a")
        await finish(client, "a")


async def test_shim_dies_in_the_absence(daemon: Daemon, runtime: str, rootfs: str) -> None:
    async with Client(daemon.address, daemon.namespace) as client:
        pid = await start(client, "a", runtime, rootfs, "sleep", "100")
        shim = shim_of(daemon, "a")
        daemon.kill()
        os.kill(shim, signal.SIGKILL)
        wait_until(lambda: not alive(shim))
        daemon.start()
        with pytest.raises(NotFoundError):
            await client.tasks.get("a")
        wait_until(lambda: not alive(pid))
        await client.tasks.create("a")
        await client.tasks.start("a")
        await finish(client, "a")


async def test_shim_is_slow_to_answer(daemon: Daemon, runtime: str, rootfs: str) -> None:
    """A daemon that starts keeps the task of a shim that does not answer in time, and so do its later ones."""
    async with Client(daemon.address, daemon.namespace) as client:
        pid = await start(client, "a", runtime, rootfs, "sleep", "100")
        shim = shim_of(daemon, "a")
        with open(f"{daemon.base}/slow.toml", "w", encoding="utf-8") as file:
            file.write('version = 2\n[timeouts]\n"io.containerd.timeout.shim.load" = "200ms"\n')
        daemon.kill()
        os.kill(shim, signal.SIGSTOP)
        try:
            daemon.start("-c", f"{daemon.base}/slow.toml")
            assert "keeping it" in daemon.log()
        finally:
            os.kill(shim, signal.SIGCONT)
        found = await client.tasks.get("a")
        assert (found.pid, found.status) == (pid, 2)
        await finish(client, "a")


async def test_many_at_once(daemon: Daemon, runtime: str, rootfs: str) -> None:
    """Tasks side by side, and each name used again at once."""

    async def live(client: Client, id: str) -> None:
        await store(client, id, runtime, spec(client.namespace, rootfs, "sh", "-c", "exit 3", id=id))
        for _ in range(3):
            await client.tasks.create(id)
            waiting = asyncio.ensure_future(client.tasks.wait(id))
            await asyncio.sleep(0)
            await client.tasks.start(id)
            assert (await waiting).exit_status == 3
            assert (await client.tasks.delete(id)).exit_status == 3
        await client.containers.delete(id)

    async with Client(daemon.address, daemon.namespace) as client:
        await asyncio.gather(*(live(client, f"c{number}") for number in range(8)))
        assert await client.tasks.list() == []


async def test_half_made_bundles(daemon: Daemon) -> None:
    daemon.kill()
    base = f"{daemon.state}/{TASKS}/{daemon.namespace}"
    for name, files in {
        "empty": {},
        "config": {"config.json": "{}"},
        "intent": {"config.json": "{}", "shim-binary-path": "/usr/bin/containerd-shim-runc-v2"},
        "dead": {
            "shim-binary-path": "/usr/bin/containerd-shim-runc-v2",
            "bootstrap.json": '{"version":2,"address":"unix:///tmp/none","protocol":"ttrpc"}',
        },
        "broken": {"shim-binary-path": "/usr/bin/containerd-shim-runc-v2", "bootstrap.json": '{"ver'},
        ".removal": {"config.json": "{}"},
    }.items():
        os.makedirs(f"{base}/{name}/rootfs")
        for file, text in files.items():
            with open(f"{base}/{name}/{file}", "w", encoding="ascii") as out:
                out.write(text)
    os.makedirs(f"{daemon.root}/{TASKS}/{daemon.namespace}/stray/x")
    daemon.start()
    assert os.listdir(base) == []
    assert os.listdir(f"{daemon.root}/{TASKS}/{daemon.namespace}") == []


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.005, 0.01, 0.02, 0.03])
async def test_daemon_dies_in_create(daemon: Daemon, runtime: str, rootfs: str, delay: float) -> None:
    tmpfs = types_pb2.Mount(type="tmpfs", source="tmpfs")
    async with Client(daemon.address, daemon.namespace) as client:
        await store(client, "a", runtime, spec(client.namespace, rootfs, "sleep", "100", id="a"))
        await store(client, "m", runtime, spec(client.namespace, "rootfs", "sleep", "100", id="m"))
        calls = [
            asyncio.ensure_future(client.tasks.create("a")),
            asyncio.ensure_future(client.tasks.create("m", rootfs=[tmpfs])),
        ]
        await asyncio.sleep(delay)
        daemon.kill()
        await asyncio.gather(*calls, return_exceptions=True)
        daemon.start()
        await client.connect()
        tasks = {task.id for task in await client.tasks.list()}
        for id in ("a", "m"):
            if id in tasks:  # the shim had it already: it is whole
                await client.tasks.kill(id, signal.SIGKILL)
                await client.tasks.wait(id)
                await client.tasks.delete(id)
        assert await client.tasks.list() == []
        assert mounts_below(daemon.state) == []
        await client.tasks.create("a")
        await client.tasks.start("a")
        await finish(client, "a")
        if runtime == DEBIAN:  # removed while Debian's runc was still making it, which goes on a moment longer
            for path in glob.glob(f"/sys/fs/cgroup/*/{daemon.namespace}/m"):
                with contextlib.suppress(OSError):
                    os.rmdir(path)


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.005, 0.01, 0.02])
async def test_client_gives_up_in_create(daemon: Daemon, runtime: str, rootfs: str, delay: float) -> None:
    async with Client(daemon.address, daemon.namespace) as client:
        await store(client, "a", runtime, spec(client.namespace, rootfs, "sleep", "100", id="a"))
        call = asyncio.ensure_future(client.tasks.create("a"))
        await asyncio.sleep(delay)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

        for _ in range(200):
            try:
                await client.tasks.create("a")
                break
            except AlreadyExistsError:  # it is being undone, or was whole before the daemon heard of it
                for task in await client.tasks.list():
                    await client.tasks.kill(task.id, signal.SIGKILL)
                    await client.tasks.wait(task.id)
                    await client.tasks.delete(task.id)
                await asyncio.sleep(0.02)
        await client.tasks.start("a")
        await finish(client, "a")


async def test_client_gives_up_in_delete(daemon: Daemon, runtime: str, rootfs: str) -> None:
    """A deletion is carried through, and the name is free."""
    async with Client(daemon.address, daemon.namespace) as client:
        await store(client, "a", runtime, spec(client.namespace, rootfs, "true", id="a"))
        for delay in (0.0, 0.001, 0.003, 0.006, 0.012):
            await client.tasks.create("a")
            waiting = asyncio.ensure_future(client.tasks.wait("a"))
            await asyncio.sleep(0)
            await client.tasks.start("a")
            await waiting
            call = asyncio.ensure_future(client.tasks.delete("a"))
            await asyncio.sleep(delay)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            try:
                await client.tasks.delete("a")
            except NotFoundError:
                pass  # the call that was given up has done it
            base = f"{daemon.state}/{TASKS}/{daemon.namespace}"
            wait_until(lambda base=base: not os.listdir(base))
        await client.containers.delete("a")


async def test_zygote_dies(daemon: Daemon, rootfs: str) -> None:
    async with Client(daemon.address, daemon.namespace) as client:
        await start(client, "before", OWN, rootfs, "sleep", "100")
        assert daemon.process is not None
        zygote = _zygote_of(daemon.process.pid)
        await asyncio.sleep(1.1)  # one that lives under a second is taken for broken
        os.kill(zygote, signal.SIGKILL)
        wait_until(lambda: not alive(zygote))
        await start(client, "after", OWN, rootfs, "sleep", "100")
        assert _zygote_of(daemon.process.pid) != zygote
        assert {task.id for task in await client.tasks.list()} == {"before", "after"}
        await finish(client, "before", "after")


def test_zygote_outlives_its_daemon() -> None:
    """One that is still busy when the next daemon starts is gone once that one is ready: it forks no more."""
    daemon = Daemon("orlop")
    os.makedirs(daemon.state)
    with subprocess.Popen(["sleep", "100"]) as busy:
        note_zygote(daemon.state, busy.pid)
        daemon.start()
        assert busy.wait(0) == -signal.SIGKILL
    daemon.kill()  # its own zygote ends by itself, or is ended
    with subprocess.Popen(["sleep", "100"]) as other:
        with open(f"{daemon.state}/zygote", "w", encoding="ascii") as file:
            file.write(f"{other.pid} 1")  # a number that has been used before
        daemon.start()
        assert other.poll() is None
        other.kill()
    daemon.remove()


async def test_without_a_zygote(rootfs: str, tmp_path: object) -> None:
    """Where the zygote cannot live, the shim's program is run."""
    shadow = f"{tmp_path}/orlop_zygote_breaks"
    os.mkdir(shadow)
    with open(f"{shadow}/sitecustomize.py", "w", encoding="ascii") as file:
        file.write("import sys\nif any('zygote' in word for word in sys.orig_argv): raise SystemExit(1)\n")
    daemon = Daemon("orlop").start(environment={"PYTHONPATH": shadow})
    async with Client(daemon.address, daemon.namespace) as client:
        await start(client, "a", OWN, rootfs, "sleep", "100")
        await finish(client, "a")
    assert "by its binary" in daemon.log()
    daemon.remove()


def _zygote_of(daemon: int) -> int:
    with open(f"/proc/{daemon}/task/{daemon}/children", encoding="ascii") as file:
        children = [int(pid) for pid in file.read().split()]
    found = [pid for pid in children if alive(pid)]
    assert len(found) == 1, found
    return found[0]


async def test_two_daemons(daemon: Daemon) -> None:
    rival = Daemon("orlop", daemon.base)
    with pytest.raises((AssertionError, OSError)):
        rival.start()
    assert rival.process is not None
    assert rival.process.wait(10) == 1
    assert f"root {daemon.root} is in use by another containerd" in daemon.log()
    other = Daemon("orlop")
    other.address = daemon.address
    with pytest.raises((AssertionError, OSError)):
        other.start()
    assert other.process is not None
    assert other.process.wait(10) == 1
    assert "is served by another process" in other.log()
    other.process = None
    other.remove()
    async with Client(daemon.address, daemon.namespace) as client:
        assert await client.system.healthy()


async def test_event_of_a_dead_namespace_is_refused(daemon: Daemon) -> None:
    async with Client(daemon.address, daemon.namespace) as client:
        envelope = types_pb2.Envelope(namespace="", topic="/x", event=typeurl.pack(events_pb2.TaskOOM()))
        with pytest.raises(OrlopError, match="namespace"):
            await client.events.forward(envelope)
        envelope.namespace = "there"
        with pytest.raises(OrlopError, match="timestamp"):
            await client.events.forward(envelope)
