# SPDX-License-Identifier: Apache-2.0
"""Many containers, and a daemon that is killed again and again: none notices, and every exit told is true."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable

import pytest
from support.containerd import Daemon, wait_until
from support.containerd_records import spec
from support.containerd_state import assert_settled, control_groups, report_of

from orlop.api import containers_pb2
from orlop.containerd.client import Client, typeurl
from orlop.errdefs import (
    AlreadyExistsError,
    FailedPreconditionError,
    InternalError,
    NotFoundError,
    OrlopError,
    UnavailableError,
)

pytestmark = pytest.mark.root

RUNTIME = "io.containerd.orlop.v2"
KINDS = ("pid", "ipc", "uts", "mount")
AT_ONCE = 8  # containers that are created at a time


class Fleet:
    """Containers of one client, which tries again when the daemon dies under a call."""

    def __init__(self, client: Client, rootfs: str) -> None:
        self.client = client
        self.rootfs = rootfs
        self.slots = asyncio.Semaphore(AT_ONCE)

    async def insist(self, call: Callable[[], Awaitable[object]], *done: type[OrlopError]) -> None:
        """Call until it succeeds, or fails in the way that says that an earlier try had succeeded."""
        deadline = time.monotonic() + 60
        while True:
            try:
                await call()
                return
            except done:
                return
            except UnavailableError:
                assert time.monotonic() < deadline

    async def start(self, id: str, *arguments: str) -> int:
        """Create a container and start its task: the pid."""
        client = self.client
        record = containers_pb2.Container(
            id=id,
            runtime=containers_pb2.Container.Runtime(name=RUNTIME),
            spec=typeurl.pack_json(
                typeurl.SPEC, spec(client.namespace, self.rootfs, *arguments, id=id, kinds=KINDS)
            ),
        )
        async with self.slots:
            await self.insist(lambda: client.containers.create(record), AlreadyExistsError)
            await self.insist(lambda: client.tasks.create(id), AlreadyExistsError)
            # Both say that it was started: it runs, or it has ended.
            await self.insist(lambda: client.tasks.start(id), FailedPreconditionError, InternalError)
            state = await self.get(id)
        assert state.status in (2, 3), state
        return state.pid

    async def get(self, id: str):  # type: ignore[no-untyped-def]
        """The state of a task."""
        found = []

        async def call() -> None:
            found.append(await self.client.tasks.get(id))

        await self.insist(call)
        return found[-1]

    async def end(self, id: str) -> int:
        """Wait for the end and remove everything: the exit status."""
        client, statuses = self.client, []

        async def wait() -> None:
            statuses.append((await client.tasks.wait(id)).exit_status)

        await self.insist(wait)
        await self.insist(lambda: client.tasks.delete(id), NotFoundError)
        await self.insist(lambda: client.containers.delete(id), NotFoundError)
        return statuses[-1]


async def restart(daemon: Daemon, times: int) -> None:
    """Kill the daemon and start it again, with a while of absence that grows."""
    for number in range(times):
        await asyncio.sleep(0.8)
        daemon.kill()
        await asyncio.sleep(0.1 * number)
        await asyncio.to_thread(daemon.start)


async def run_fleet(daemon: Daemon, rootfs: str, count: int, restarts: int) -> None:
    async with Client(daemon.address, daemon.namespace, patience=30) as client:
        fleet = Fleet(client, rootfs)
        stay = [f"stay{number}" for number in range(count // 2)]
        pids = dict(
            zip(stay, await asyncio.gather(*(fleet.start(id, "sleep", "1000") for id in stay)), strict=True)
        )
        births = {id: birth(pid) for id, pid in pids.items()}

        async def come_and_go(number: int) -> tuple[int, int]:
            code = number % 120 + 1
            id = f"go{number}"
            await fleet.start(id, "sh", "-c", f"sleep 0.{number % 10}; exit {code}")
            return code, await fleet.end(id)

        restarting = asyncio.ensure_future(restart(daemon, restarts))
        rounds = 0
        while rounds < 2 or not restarting.done():
            numbers = range(rounds * count, rounds * count + count - len(stay))
            for wanted, told in await asyncio.gather(*map(come_and_go, numbers)):
                assert told == wanted
            rounds += 1
        await restarting

        tasks = {task.id: task for task in await client.tasks.list()}
        assert {id: tasks[id].pid for id in stay} == pids
        assert {task.status for task in tasks.values()} == {2}
        assert {id: birth(pid) for id, pid in pids.items()} == births
        assert set(tasks) == set(stay)
        # Half of them end while nobody is there.
        daemon.kill()
        for id in stay[::2]:
            os.kill(pids[id], signal.SIGKILL)
        wait_until(lambda: not any(is_alive(pids[id]) for id in stay[::2]))
        await asyncio.to_thread(daemon.start)
        assert set(await asyncio.gather(*map(fleet.end, stay[::2]))) == {137}
        for id in stay[1::2]:
            await client.tasks.kill(id, signal.SIGKILL)
        assert set(await asyncio.gather(*map(fleet.end, stay[1::2]))) == {137}
    await asyncio.to_thread(assert_settled, daemon)
    assert control_groups(daemon) == set()
    assert {key: value for key, value in report_of(daemon).counts.items() if value} == {}


def birth(pid: int) -> str:
    """When a process started, by which one is told from another with its pid."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[19]


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_sixty_containers(orlop: Daemon, rootfs: str) -> None:
    await run_fleet(orlop, rootfs, 64, restarts=5)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_two_hundred_containers(orlop: Daemon, rootfs: str) -> None:
    await run_fleet(orlop, rootfs, 200, restarts=10)


async def test_killed_shims(orlop: Daemon, rootfs: str) -> None:
    """Shims are killed, also while the daemon is away: each end is told as 137 or found, nothing is left."""
    async with Client(orlop.address, orlop.namespace, patience=30) as client:
        fleet = Fleet(client, rootfs)
        ids = [f"c{number}" for number in range(6)]
        pids = await asyncio.gather(*(fleet.start(id, "sleep", "1000") for id in ids))
        waits = [asyncio.ensure_future(client.tasks.wait(id)) for id in ids[:3]]
        await asyncio.sleep(0.1)  # for the waits to have reached their shims
        for id in ids[:3]:
            os.kill(shim_of(orlop, id), signal.SIGKILL)
        assert [(await wait).exit_status for wait in waits] == [137, 137, 137]
        orlop.kill()
        for id in ids[3:]:
            os.kill(shim_of(orlop, id), signal.SIGKILL)
        await asyncio.to_thread(orlop.start)
        assert await client.tasks.list() == []
        assert not any(map(is_alive, pids))
        await asyncio.to_thread(assert_settled, orlop)
        for id in ids:
            await client.containers.delete(id)
            await fleet.start(id, "sh", "-c", "exit 9")
        assert set(await asyncio.gather(*map(fleet.end, ids))) == {9}
    await asyncio.to_thread(assert_settled, orlop)


def shim_of(daemon: Daemon, id: str) -> int:
    from support.containerd_state import TASKS, shims

    bundle = f"{daemon.state}/{TASKS}/{daemon.namespace}/{id}"
    (pid,) = [pid for pid in shims(daemon) if os.readlink(f"/proc/{pid}/cwd") == bundle]
    return pid
