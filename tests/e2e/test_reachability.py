# SPDX-License-Identifier: Apache-2.0
"""Who reaches whom: one table, held against our stack and against Debian's docker.io."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from support import images
from support.e2e import Stack
from support.networks import HOST_ADDRESS, NEIGHBOUR_ADDRESS, Neighbour, echo, fresh_netns, pings

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.original]

DOCKERD = "/usr/sbin/dockerd"
NETWORKS = {
    "front": (),
    "zone": (),
    "inner": ("--internal",),
    "still": ("-o", "com.docker.network.bridge.enable_icc=false"),
}
CONTAINERS = {
    "f1": ["front"],
    "f2": ["front"],
    "z1": ["zone"],
    "i1": ["inner"],
    "i2": ["inner"],
    "s1": ["still"],
    "s2": ["still"],
    "d1": ["bridge"],
    "fi": ["front", "inner"],
}
REACHES = {
    "f1": {"f2", "fi", "outside"},
    "z1": {"outside"},
    "i1": {"i2", "fi"},
    "s1": {"outside"},
    "d1": {"outside"},
    "fi": {"f1", "f2", "i1", "i2", "outside"},
}
"""By address, over any of the networks that both are in; `outside` is a machine beyond the host."""
RESOLVES = {
    "f1": {"f1", "f2", "fi"},
    "z1": {"z1"},
    "i1": {"i1", "i2", "fi"},
    "s1": {"s1", "s2"},
    "d1": set(),
    "fi": {"f1", "f2", "fi", "i1", "i2"},
}


class Engine:
    """A docker command, the environment that points it at an engine, and the machine beyond the host."""

    def __init__(self, environment: dict[str, str], *, ours: bool) -> None:
        self._environment = environment
        self.neighbour = ""
        self.ours = ours

    def __call__(self, *arguments: str, check: bool = True) -> str:
        command = ["docker", *arguments]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout.strip()


@pytest.fixture(scope="module", params=["orlop", "docker.io"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine in a network namespace of its own, with a neighbour, and the containers of the table."""
    if request.param == "orlop":
        with Stack() as stack:
            yield from _furnished(Engine(stack.environment(), ours=True))
    else:
        with fresh_netns():
            yield from _original()


def _original() -> Iterator[Engine]:
    base = tempfile.mkdtemp(prefix="orlop-original-")
    with open(f"{base}/daemon.json", "w", encoding="ascii") as file:
        file.write("{}")
    command = [
        DOCKERD,
        "--config-file",
        f"{base}/daemon.json",
        "-H",
        f"unix://{base}/s",
        "--pidfile",
        f"{base}/pid",
    ]
    command += ["--data-root", f"{base}/data", "--exec-root", f"{base}/exec", "--cgroup-parent", "/orlop-original"]
    log = open(f"{base}/log", "wb")  # noqa: SIM115
    with log, subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, bufsize=0) as process:
        assert process.stderr is not None
        started = b""
        while b"API listen on" not in started:
            ready, _, _ = select.select([process.stderr], [], [], 30)
            data = process.stderr.read(65536) if ready else b""
            assert data, f"dockerd is not ready: {started.decode()}"
            started += data
        drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=log)
        try:
            yield from _furnished(
                Engine({**os.environ, "DOCKER_HOST": f"unix://{base}/s", "DOCKER_CONFIG": base}, ours=False)
            )
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(40)
            drain.wait(10)
    for place in (f"{base}/exec/netns/default", f"{base}/data/overlay2"):
        subprocess.run(["umount", "-l", place], check=False, stderr=subprocess.DEVNULL)
    shutil.rmtree(base, ignore_errors=True)
    for directory in os.listdir("/sys/fs/cgroup"):
        for name in (f"/sys/fs/cgroup/{directory}/orlop-original",):
            if os.path.isdir(name):
                os.rmdir(name)


def _furnished(docker: Engine) -> Iterator[Engine]:
    neighbour = Neighbour()
    docker.neighbour = neighbour.netns
    try:
        docker("load", "-q", "-i", images.archive("busybox"))
        for name, flags in NETWORKS.items():
            docker("network", "create", *flags, name)
        for name, networks in CONTAINERS.items():
            docker(
                "run",
                "-d",
                "--name",
                name,
                "--dns",
                "127.0.0.1",
                "--network",
                networks[0],
                "busybox",
                "sleep",
                "999",
            )
            for network in networks[1:]:
                docker("network", "connect", network, name)
        yield docker
    finally:
        docker("rm", "-f", *CONTAINERS, check=False)
        for name in NETWORKS:
            docker("network", "rm", name, check=False)
        neighbour.close()


def _addresses(docker: Engine, name: str) -> list[str]:
    text = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
    return docker("inspect", "-f", text, name).split()


def test_addresses(engine: Engine) -> None:
    targets = {name: _addresses(engine, name) for name in CONTAINERS} | {"outside": [NEIGHBOUR_ADDRESS]}

    def reached(name: str) -> set[str]:
        netns = f"/proc/{engine('inspect', '-f', '{{.State.Pid}}', name)}/ns/net"
        wanted = [(target, address) for target, found in targets.items() if target != name for address in found]
        with ThreadPoolExecutor(24) as threads:
            answers = threads.map(lambda pair: pings(netns, pair[1]), wanted)
        return {target for (target, _), answer in zip(wanted, answers, strict=True) if answer}

    assert {name: reached(name) for name in REACHES} == REACHES


def test_names(engine: Engine) -> None:
    look = "(timeout 4 nslookup -type=a {0} | grep -q '^Name:' && echo {0}) &"
    script = " ".join(look.format(target) for target in CONTAINERS) + " wait"
    with ThreadPoolExecutor(len(RESOLVES)) as threads:
        found = threads.map(lambda name: set(engine("exec", name, "sh", "-c", script).split()), RESOLVES)
        assert dict(zip(RESOLVES, found, strict=True)) == RESOLVES


def test_files(engine: Engine) -> None:
    assert "nameserver 127.0.0.11" in engine("exec", "f1", "cat", "/etc/resolv.conf").splitlines()
    assert "options ndots:0" in engine("exec", "f1", "cat", "/etc/resolv.conf").splitlines()
    assert "127.0.0.11" not in engine("exec", "d1", "cat", "/etc/resolv.conf")
    for address in _addresses(engine, "fi"):
        assert address in engine("exec", "fi", "cat", "/etc/hosts")


def test_published_port(engine: Engine) -> None:
    serve = "echo served > /tmp/index.html; exec httpd -f -p 80 -h /tmp"
    engine("run", "-d", "--name", "web", "--network", "zone", "-p", "8080:80", "busybox", "sh", "-c", serve)
    try:
        (address,) = _addresses(engine, "web")
        pid = {name: engine("inspect", "-f", "{{.State.Pid}}", name) for name in ("web", "z1", "f1", "d1", "i1")}
        places = {name: f"/proc/{number}/ns/net" for name, number in pid.items()}
        places |= {"host": "/proc/thread-self/ns/net", "outside": engine.neighbour}
        found = {
            (place, target)
            for place, netns in places.items()
            for target, port in (("127.0.0.1", 8080), (HOST_ADDRESS, 8080), (address, 80))
            if b"served" in echo(target, port, b"GET / HTTP/1.0\r\n\r\n", netns)
        }
    finally:
        engine("rm", "-f", "web")
    if not engine.ours:
        found.discard(("outside", address))  # before version 28: past the host's address, by a route of one's own
    assert found == {
        ("host", "127.0.0.1"), ("host", HOST_ADDRESS), ("host", address),
        ("outside", HOST_ADDRESS),
        ("web", HOST_ADDRESS), ("web", address),
        ("z1", HOST_ADDRESS), ("z1", address),
        ("f1", HOST_ADDRESS),
        ("d1", HOST_ADDRESS),
    }  # fmt: skip
