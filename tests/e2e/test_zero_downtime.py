# SPDX-License-Identifier: Apache-2.0
"""Daemons restart and are killed under load: no request fails, no connection breaks."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import http_load
from support.e2e import Stack, eventually
from support.networks import HOST_ADDRESS, Neighbour

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

pytestmark = pytest.mark.root

RATE = 200
"""Requests a second on each way."""
_PYTHON = [flag for place in ("/usr", "/lib", "/lib64") for flag in ("-v", f"{place}:{place}:ro")]


class Site:
    """A container that serves HTTP, another one in its network, and the ways to it."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.port = stack.free_port()
        self._run("network", "create", "site")
        program = http_load.__file__
        self._run(
            "run", "-d", "--name", "server", "--network", "site", "-p", f"{self.port}:80", *_PYTHON,
            "-v", f"{program}:/load.py:ro", "busybox", "/usr/bin/python3", "-S", "/load.py", "serve", "80",
        )  # fmt: skip
        self._run("run", "-d", "--name", "client", "--network", "site", "busybox", "sleep", "100000")
        eventually(lambda: "serving" in self._run("logs", "server"))
        client = self._run("inspect", "-f", "{{.State.Pid}}", "client")
        self.inside = ["nsenter", f"--net=/proc/{client}/ns/net"]

    def _run(self, *arguments: str) -> str:
        done = self.stack.docker(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def ways(self, outside: Neighbour) -> dict[str, list[str]]:
        """Commands that put load on the server, by what they go through."""
        port = str(self.port)
        load = [sys.executable, "-S", http_load.__file__, "load"]
        return {
            "host address": [*load, HOST_ADDRESS, port, str(RATE)],
            "other machine": ["nsenter", f"--net={outside.netns}", *load, HOST_ADDRESS, port, str(RATE)],
            "localhost": [*load, "127.0.0.1", port, str(RATE)],
            "localhost, IPv6": [*load, "::1", port, str(RATE)],
            "name": [*self.inside, *load, "server", "80", str(RATE), "127.0.0.11"],
        }

    def close(self) -> None:
        """Remove the containers and the network."""
        self.stack.docker("rm", "-f", "server", "client")
        self.stack.docker("network", "rm", "site")


# What a client says of a connection whose proxy is gone.
_CUT = {
    "ConnectionResetError",
    "IncompleteReadError",
    "kept connection: ConnectionResetError",
    "kept connection: IncompleteReadError",
}


@pytest.fixture
def site(stack: Stack) -> Iterator[Site]:
    stack.daemon("start")
    made = Site(stack)
    yield made
    stack.daemon("start")
    made.close()


@contextlib.contextmanager
def under_load(site: Site) -> Iterator[dict[str, dict[str, Any]]]:
    """Load on every way while the block runs; what came of it is in the dictionary afterwards."""
    results: dict[str, dict[str, Any]] = {}
    outside = Neighbour()
    try:
        with contextlib.ExitStack() as stack:
            loads = {}
            for name, command in site.ways(outside).items():
                load = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                loads[name] = stack.enter_context(load)
                stack.callback(load.kill)
                assert load.stdout and load.stdout.readline() == "loading\n"
            yield results
            for name, load in loads.items():
                output, _ = load.communicate(timeout=60)
                results[name] = json.loads(output)
    finally:
        outside.close()


def restart(stack: Stack, component: str) -> None:
    """End a daemon in good order and start it again."""
    before = stack.pid(component)
    stack.daemon("restart", component)
    assert stack.pid(component) != before
    _works(stack)


def kill(stack: Stack, component: str) -> None:
    """SIGKILL, and wait for the supervisor to have it back."""
    before = stack.pid(component)
    stack.kill(component)
    eventually(lambda: stack.pid(component) != before)  # until the supervisor has seen the death
    stack.daemon("start", component)
    _works(stack)


def _worker(keeper: int) -> int:
    """The worker of an orlop-netd, as soon as there is one."""
    children = Path(f"/proc/{keeper}/task/{keeper}/children")
    eventually(lambda: children.read_text() != "", seconds=60)
    return int(children.read_text())


def _works(stack: Stack) -> None:
    eventually(lambda: stack.docker("exec", "client", "true").returncode == 0)


@pytest.mark.parametrize("rounds", [2, pytest.param(20, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
def test_no_request_fails_while_daemons_go(stack: Stack, site: Site, rounds: int) -> None:
    with under_load(site) as results:
        for _ in range(rounds):
            for component in ("dockerd", "containerd"):
                restart(stack, component)
                kill(stack, component)
    for name, result in results.items():
        print(f"{name}: {result}")
        assert result["failures"] == {}, name
        assert result["done"] > 50 and result["kept"] > 10, name


@pytest.mark.parametrize("rounds", [3, pytest.param(20, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
def test_a_killed_netd_costs_what_it_carried_and_no_more(stack: Stack, site: Site, rounds: int) -> None:
    """Published ports that the kernel redirects, and names, do not notice; localhost is carried by the worker."""
    with under_load(site) as results:
        for _ in range(rounds):
            os.kill(_worker(stack.pid("netd")), signal.SIGKILL)
            _works(stack)
        stack.daemon("stop", "dockerd")  # nobody is there to tell a new one what to do
        keeper = stack.pid("netd")
        worker = _worker(keeper)
        os.kill(keeper, signal.SIGKILL)
        _works(stack)
        assert stack.pid("netd") != keeper
    os.kill(worker, signal.SIGTERM)  # the one that the supervisor has started takes over
    _worker(stack.pid("netd"))
    for name, result in results.items():
        print(f"{name}: {result}")
        assert result["done"] > 50, name
        if not name.startswith("localhost"):
            assert result["failures"] == {}, name
            continue
        assert result["failures"].keys() <= _CUT, name
        # what a worker had in hand, no more
        assert sum(result["failures"].values()) <= rounds * result["at_a_time"], name
