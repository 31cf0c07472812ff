# SPDX-License-Identifier: Apache-2.0
"""Daemons die at any instant: containers go on, and everything is known and manageable again afterwards."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.containerd import wait_until

if TYPE_CHECKING:
    from support.stack import Stack

pytestmark = pytest.mark.root

BOTH = pytest.mark.parametrize(
    "own_stack",
    [
        pytest.param(("orlop", "orlop"), id="orlop"),
        pytest.param(("original", "runc"), id="original", marks=pytest.mark.original),
    ],
    indirect=True,
)
COUNT = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done"


def inspect(stack: Stack, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(stack.docker("inspect", name).ok())[0]
    return found


def state(stack: Stack, name: str) -> dict[str, Any]:
    found: dict[str, Any] = inspect(stack, name)["State"]
    return found


@BOTH
def test_containers_and_logs_survive_a_killed_dockerd(own_stack: Stack) -> None:
    stack = own_stack
    stack.docker("run", "-d", "--name", "count", "busybox", "sh", "-c", COUNT).ok()
    before = state(stack, "count")
    stack.kill()
    time.sleep(0.3)  # the container counts on meanwhile
    stack.start()
    wait_until(lambda: state(stack, "count")["Running"])
    after = state(stack, "count")
    assert (after["Pid"], after["StartedAt"]) == (before["Pid"], before["StartedAt"])
    stack.docker("exec", "count", "true").ok()
    assert "count" in stack.docker("ps", "--format", "{{.Names}}").ok()
    stack.docker("stop", "-t", "0", "count").ok()
    lines = [int(line) for line in stack.docker("logs", "count").ok().split()]
    assert lines == list(range(len(lines)))
    assert len(lines) > 15
    stack.docker("rm", "count").ok()


@BOTH
def test_an_exit_while_dockerd_was_away_is_settled_with_the_true_code(own_stack: Stack) -> None:
    stack = own_stack
    script = "echo first; sleep 0.5; echo last; exit 42"
    stack.docker("run", "-d", "--name", "short", "busybox", "sh", "-c", script).ok()
    stack.docker("run", "-d", "--rm", "--name", "gone", "busybox", "sleep", "0.5").ok()
    stack.docker("run", "-d", "--name", "again", "--restart", "always", "busybox", "sleep", "0.5").ok()
    started = state(stack, "again")["StartedAt"]
    stack.kill()
    time.sleep(1.5)
    stack.start()
    wait_until(lambda: not state(stack, "short")["Running"])
    found = state(stack, "short")
    assert (found["ExitCode"], found["Status"]) == (42, "exited")
    assert found["FinishedAt"] > found["StartedAt"]
    finished = time.mktime(time.strptime(found["FinishedAt"][:19], "%Y-%m-%dT%H:%M:%S"))
    assert time.time() + time.timezone - finished > 0.7, "the end is when the process ended, not when it was found"
    assert stack.docker("logs", "short").ok() == "first\nlast\n"
    wait_until(lambda: "gone" not in stack.docker("ps", "-a", "--format", "{{.Names}}").ok())
    wait_until(lambda: state(stack, "again")["StartedAt"] > started)
    stack.docker("rm", "-f", "short", "again").ok()


def test_execs_survive_and_their_exit_codes_are_known(own_stack: Stack) -> None:
    stack = own_stack
    stack.docker("run", "-d", "--name", "host", "busybox", "sleep", "100").ok()
    script = "until [ -e /go ]; do sleep 0.1; done; touch /went; exit 9"
    stack.docker("exec", "-d", "host", "sh", "-c", script).ok()
    stack.docker("exec", "-d", "host", "sleep", "50").ok()
    ids = inspect(stack, "host")["ExecIDs"]
    assert len(ids) == 2
    root = Path(f"/proc/{state(stack, 'host')['Pid']}/root")
    stack.kill()
    (root / "go").touch()
    wait_until((root / "went").exists)
    stack.start()
    wait_until(lambda: len(inspect(stack, "host")["ExecIDs"] or []) == 1)
    codes = {exec_inspect(stack, id)["ExitCode"] for id in ids}
    assert codes == {9, None}
    stack.docker("rm", "-f", "host").ok()


def test_a_shim_that_is_slow_to_answer_is_not_a_container_that_has_ended(own_stack: Stack) -> None:
    """Its machine may be short of processors; containerd's list tells of no state then."""
    stack = own_stack
    stack.docker("run", "-d", "--name", "slow", "busybox", "sleep", "1000").ok()
    pid = state(stack, "slow")["Pid"]
    shim = parent_of(pid)
    assert stack.stop() == 0
    os.kill(shim, signal.SIGSTOP)
    try:
        stack.start()
        wait_until(lambda: "state of task" in stack.containerd.log(), timeout=30)
    finally:
        os.kill(shim, signal.SIGCONT)
    assert stack.docker("exec", "slow", "echo", "alive").ok() == "alive\n"
    assert (state(stack, "slow")["Status"], state(stack, "slow")["Pid"]) == ("running", pid)
    stack.docker("rm", "-f", "slow").ok()


def parent_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def exec_inspect(stack: Stack, exec_id: str) -> dict[str, Any]:
    import docker

    client = docker.APIClient(base_url=stack.host, version="1.44")
    try:
        found: dict[str, Any] = client.exec_inspect(exec_id)
        return found
    finally:
        client.close()


def test_a_policy_honours_what_the_user_wanted(own_stack: Stack) -> None:
    stack = own_stack
    for name, policy in (("unless", "unless-stopped"), ("always", "always"), ("no", "no")):
        stack.docker("run", "-d", "--name", name, "--restart", policy, "busybox", "sleep", "100").ok()
    stack.docker("stop", "-t", "0", "unless", "always", "no").ok()
    stack.docker("run", "-d", "--name", "up", "--restart", "unless-stopped", "busybox", "sleep", "100").ok()
    pid = state(stack, "up")["Pid"]
    assert stack.stop() == 0
    stack.start()
    wait_until(lambda: state(stack, "always")["Status"] == "running")
    assert state(stack, "up")["Pid"] == pid
    assert state(stack, "unless")["Status"] == "exited"
    assert state(stack, "no")["Status"] == "exited"
    stack.docker("rm", "-f", "unless", "always", "no", "up").ok()


@BOTH
def test_containerd_dies_and_comes_back(own_stack: Stack) -> None:
    stack = own_stack
    stack.docker("run", "-d", "--name", "count", "busybox", "sh", "-c", COUNT).ok()
    stack.docker("run", "-d", "--name", "short", "busybox", "sh", "-c", "sleep 0.6; exit 5").ok()
    logged = len(stack.log())
    stack.containerd.kill()
    failed = stack.docker("run", "--rm", "busybox", "true")
    assert failed.status == 125
    assert len(failed.err.strip().splitlines()) <= 3, failed.err
    assert "containerd" in failed.err or "connect" in failed.err
    assert stack.docker("ps", "--format", "{{.Names}}").ok().split() == ["short", "count"]
    assert stack.docker("logs", "--tail", "1", "count").ok().split()[-1].isdigit()
    time.sleep(0.8)
    stack.start_containerd()
    wait_until(lambda: state(stack, "short")["Status"] == "exited")
    assert state(stack, "short")["ExitCode"] == 5
    stack.docker("exec", "count", "true").ok()
    stack.docker("run", "--rm", "busybox", "true").ok()
    stack.docker("stop", "-t", "0", "count").ok()
    lines = [int(line) for line in stack.docker("logs", "count").ok().split()]
    assert lines == list(range(len(lines)))
    stack.docker("rm", "short", "count").ok()
    lines_since = stack.log()[logged:].splitlines()
    told = [line for line in lines_since if "level=WARNING" in line or "containerd is back" in line]
    assert ["is away" in line for line in told] == [True, False], told


def test_what_a_crash_left_half_made_is_removed(own_stack: Stack) -> None:
    stack = own_stack
    stack.docker("create", "--name", "kept", "busybox", "true").ok()
    stack.docker("run", "-d", "--name", "lost", "busybox", "sleep", "100").ok()
    kept = inspect(stack, "kept")["Id"]
    lost = inspect(stack, "lost")["Id"]
    stack.kill()
    forget(stack, lost)  # as if the daemon had died before it wrote the container down
    stack.start()
    wait_until(lambda: stack.containerd.ctr("containers", "ls", "-q").ok() == "")
    wait_until(lambda: lost not in stack.containerd.ctr("snapshots", "ls").ok())
    assert kept in stack.containerd.ctr("snapshots", "ls").ok()
    assert stack.containerd.ctr("tasks", "ls", "-q").ok() == ""
    assert stack.docker("start", "-a", "kept").status == 0
    stack.docker("rm", "kept").ok()


def forget(stack: Stack, container_id: str) -> None:
    import sqlite3

    connection = sqlite3.connect(f"{stack.data_root}/dockerd.db")
    with connection:
        connection.execute("DELETE FROM containers WHERE id = ?", (container_id,))
    connection.close()


def test_a_removal_that_was_interrupted_is_finished(own_stack: Stack) -> None:
    stack = own_stack
    stack.docker("create", "--name", "half", "busybox").ok()
    container_id = inspect(stack, "half")["Id"]
    stack.kill()
    stack.containerd.ctr("snapshots", "rm", container_id).ok()
    stack.start()
    stack.docker("rm", "half").ok()
    assert stack.docker("ps", "-aq").ok() == ""


def test_a_client_of_logs_and_wait_is_cut_at_the_end_of_dockerd_and_nothing_hangs(own_stack: Stack) -> None:
    stack = own_stack
    stack.docker("run", "-d", "--name", "long", "busybox", "sleep", "100").ok()
    clients = [stack.popen("logs", "-f", "long"), stack.popen("wait", "long"), stack.popen("events")]
    time.sleep(0.2)
    begun = time.monotonic()
    assert stack.stop() == 0
    assert time.monotonic() - begun < 12  # and not the 15 seconds that other requests are given
    for client in clients:
        client.communicate(timeout=5)
    stack.start()
    stack.docker("rm", "-f", "long").ok()


@pytest.mark.long
@pytest.mark.parametrize("victim", ["dockerd", "containerd"])
def test_deaths_at_random_moments_leave_nothing_behind(own_stack: Stack, victim: str) -> None:
    """Three clients make, run, restart and remove containers while a daemon is killed again and again.

    That nothing is left - task, record, snapshot, directory, namespace - is what `Stack.remove` and the last
    assertions see; whether a request succeeds is up to its luck.
    """
    stack, over = own_stack, threading.Event()
    clients = [threading.Thread(target=live, args=(stack, number, over)) for number in range(3)]
    for client in clients:
        client.start()
    chance = random.Random(victim)
    try:
        for _ in range(8):
            time.sleep(chance.uniform(0.2, 1.5))
            if victim == "dockerd":
                stack.kill()
                stack.start()
            else:
                stack.containerd.kill()
                stack.start_containerd()
    finally:
        over.set()
        for client in clients:
            client.join(100)
    stack.docker("exec", "nosuch", "true")  # the daemon answers
    wait_until(lambda: all_removed(stack), 100)
    wait_until(lambda: stack.containerd.ctr("tasks", "ls", "-q").ok() == "")
    wait_until(lambda: stack.containerd.ctr("containers", "ls", "-q").ok() == "")
    assert "Active" not in stack.containerd.ctr("snapshots", "ls").ok()
    for directory in (
        f"{stack.data_root}/containers",
        f"{stack.exec_root}/containers",
        f"{stack.exec_root}/netns",
    ):
        assert os.listdir(directory) == []
    volumes = stack.docker("volume", "ls", "-q").ok().split()
    if volumes:
        stack.docker("volume", "rm", *volumes).ok()


def all_removed(stack: Stack) -> bool:
    """Remove what is there; some of it may be about to go by itself."""
    ids = stack.docker("ps", "-aq").ok().split()
    if ids:
        stack.docker("rm", "-fv", *ids, timeout=100)
    return not ids


def live(stack: Stack, number: int, over: threading.Event) -> None:
    """A client that does one thing after the other with three names of its own."""
    chance, turn = random.Random(number), 0
    while not over.is_set():
        turn += 1
        name = f"c{number}x{turn % 3}"
        commands = (
            ("run", "-d", "--name", name, "busybox", "sleep", "1000"),
            ("run", "--rm", "busybox", "true"),
            ("run", "-d", "--name", name, "--restart", "always", "busybox", "false"),
            ("run", "-d", "--rm", "--name", name, "-v", f"v{number}:/v", "busybox", "sleep", "0.3"),
            ("restart", "-t", "0", name),
            ("stop", "-t", "0", name),
            ("exec", name, "true"),
            ("rm", "-f", name),
        )
        stack.docker(*chance.choice(commands), timeout=60)
