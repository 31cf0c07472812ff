# SPDX-License-Identifier: Apache-2.0
"""Who reaches whom: one table, held against our stack and against Debian's docker.io."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from support import images, probe
from support.e2e import Stack, eventually
from support.networks import HOST_ADDRESS, NEIGHBOUR_ADDRESS, Neighbour, echo, fresh_netns, ip, pings, run

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.original]

DOCKERD = "/usr/sbin/dockerd"
HOST_ADDRESS6, NEIGHBOUR_ADDRESS6 = "fd00:51::1", "fd00:51::2"
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

    def __call__(self, *arguments: str, check: bool = True, error: bool = False) -> str:
        command = ["docker", *arguments]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0 or not check, done.stderr
        return (done.stderr if error else done.stdout).strip()


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
        ip(f"addr add {HOST_ADDRESS6}/64 dev wire0 nodad")
        run(neighbour.netns, "ip", "addr", "add", f"{NEIGHBOUR_ADDRESS6}/64", "dev", "wire1", "nodad")
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


def test_files_follow_a_running_container(engine: Engine) -> None:
    """Its files as it enters and leaves a network and gets another name; what it added itself stays."""

    def lines(name: str) -> list[str]:
        text = engine("exec", "roamer", "cat", f"/etc/{name}")
        return [" ".join(line.split()) for line in text.splitlines() if line and line[0] not in "#"]

    engine(
        "run",
        "-d",
        "--name",
        "roamer",
        "--hostname",
        "here",
        "--add-host",
        "far:192.0.2.9",
        "busybox",
        "sleep",
        "999",
    )
    try:
        (first,) = _addresses(engine, "roamer")
        assert lines("hostname") == ["here"]
        assert lines("hosts")[0] == "127.0.0.1 localhost"
        assert "192.0.2.9 far" in lines("hosts") and lines("hosts")[-1] == f"{first} here"
        engine("exec", "roamer", "sh", "-c", "echo 192.0.2.10 own >> /etc/hosts")
        before = lines("hosts")
        assert "nameserver 127.0.0.11" not in lines("resolv.conf")
        engine("network", "connect", "zone", "roamer")
        second = next(address for address in _addresses(engine, "roamer") if address != first)
        assert lines("hosts") == [*before, f"{second} here"]
        assert "nameserver 127.0.0.11" in lines("resolv.conf")
        engine("rename", "roamer", "other")
        assert "Address" in engine("exec", "z1", "nslookup", "-type=a", "other", "127.0.0.11")
        engine("rename", "other", "roamer")
        assert lines("hosts") == [*before, f"{second} here"] and lines("hostname") == ["here"]
        engine("network", "disconnect", "zone", "roamer")
        # Version 20.10 takes away every line about the container's own name.
        assert lines("hosts") == before if engine.ours else "192.0.2.10 own" in lines("hosts")
        engine("restart", "-t", "0", "roamer")
        (third,) = _addresses(engine, "roamer")  # often the first again
        assert lines("hosts") == [line for line in before if line not in ("192.0.2.10 own", f"{first} here")] + [
            f"{third} here"
        ]
        engine("exec", "roamer", "sh", "-c", "echo nameserver 192.0.2.11 > /etc/resolv.conf")
        engine("network", "connect", "zone", "roamer")
        if engine.ours:  # version 20.10 writes its own over it here
            assert lines("resolv.conf") == ["nameserver 192.0.2.11"]
    finally:
        engine("rm", "-f", "roamer", "other", check=False)


def test_published_port(engine: Engine) -> None:
    serve = "echo served > /tmp/index.html; exec httpd -f -p 80 -h /tmp"
    engine("run", "-d", "--name", "web", "--network", "zone", "-p", "8080:80", "busybox", "sh", "-c", serve)
    try:
        (address,) = _addresses(engine, "web")
        pid = {name: engine("inspect", "-f", "{{.State.Pid}}", name) for name in ("web", "z1", "f1", "d1", "i1")}
        places = {name: f"/proc/{number}/ns/net" for name, number in pid.items()}
        places |= {"host": "/proc/thread-self/ns/net", "outside": engine.neighbour}
        targets = {"127.0.0.1": 8080, HOST_ADDRESS: 8080, address: 80}
        asked = [(place, target) for place in places for target in targets]
        with ThreadPoolExecutor(len(asked)) as threads:
            answers = threads.map(
                lambda pair: echo(pair[1], targets[pair[1]], b"GET / HTTP/1.0\r\n\r\n", places[pair[0]]), asked
            )
            found = {pair for pair, answer in zip(asked, answers, strict=True) if b"served" in answer}
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


def test_ipv6(engine: Engine) -> None:
    """Two networks with both families: who reaches whose address of the second one, and by which name."""
    try:
        for number, name in ((6, "six"), (7, "seven")):
            engine("network", "create", "--ipv6", "--subnet", f"fd00:51:{number}::/64", name)
        for name, network in (("x1", "six"), ("x2", "six"), ("y1", "seven")):
            engine("run", "-d", "--name", name, "--network", network, "busybox", "sleep", "999")
        text = "{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}}{{end}}"
        addresses = {name: engine("inspect", "-f", text, name) for name in ("x1", "x2", "y1")}
        addresses["outside"] = NEIGHBOUR_ADDRESS6
        places = ("host", "outside", "x1", "y1", "f1")
        wanted = [(place, to) for place in places for to in addresses if to != place]
        netns = {place: _netns(engine, place) for place in places}

        def reached() -> set[tuple[str, str]]:
            with ThreadPoolExecutor(len(wanted)) as threads:
                answers = threads.map(lambda pair: pings(netns[pair[0]], addresses[pair[1]]), wanted)
                return {pair for pair, answer in zip(wanted, answers, strict=True) if answer}

        inside = {("host", "x1"), ("host", "x2"), ("host", "y1"), ("x1", "x2")}
        if engine.ours:
            assert reached() == inside | {("x1", "outside"), ("y1", "outside"), ("host", "outside")}
        else:
            # Version 20.10 has no rules for IPv6: networks are open to each other, nothing is masqueraded. And it
            # leaves it to the kernel to look for duplicates of the bridge's address, which takes a second.
            eventually(lambda: inside <= reached())
        assert addresses["x2"] in engine("exec", "x1", "nslookup", "-type=aaaa", "x2", "127.0.0.11")
    finally:
        engine("rm", "-f", "x1", "x2", "y1", check=False)
        for name in ("six", "seven"):
            engine("network", "rm", name, check=False)


# -- published ports, generated: each place asks each address for each port over each protocol

PLACES = ("host", "outside", "web", "z1", "f1", "d1", "i1", "s1")
PUBLISH = ("-p", "8080:80/tcp", "-p", "8080:80/udp", "-p", "127.0.0.1:8081:81/tcp", "-p", "127.0.0.1:8081:81/udp")
PUBLISH += ("-p", "8090-8092:90-92/tcp", "-p", "8090-8092:90-92/udp", "-p", f"{HOST_ADDRESS}:8083:83/tcp")
TARGETS = {
    "127.0.0.1": "127.0.0.1",
    "::1": "::1",
    "host": HOST_ADDRESS,
    "host6": HOST_ADDRESS6,
    "gateway": "",  # the host's address on the container's own bridge
    "container": "",
}
EVERYWHERE = {"host", "outside", "web", "z1", "f1", "d1", "s1"}
"""All but the internal network."""
PUBLISHED = {
    # (target, port): who reaches it; for both protocols
    ("127.0.0.1", 8080): {"host"},
    ("::1", 8080): {"host"},
    ("host", 8080): EVERYWHERE,
    ("host6", 8080): {"host", "outside"},
    ("gateway", 8080): EVERYWHERE,
    ("container", 80): {"host", "web", "z1"},
    ("127.0.0.1", 8081): {"host"},
    ("container", 81): {"host", "web", "z1"},
    ("127.0.0.1", 8091): {"host"},
    ("::1", 8091): {"host"},
    ("host", 8091): EVERYWHERE,
    ("host6", 8091): {"host", "outside"},
    ("gateway", 8091): EVERYWHERE,
    ("container", 91): {"host", "web", "z1"},
    ("host", 8083): EVERYWHERE,  # published at this address, for TCP only
    ("container", 83): {"host", "web", "z1"},
}
PORTS = {8080: 80, 8081: 81, 8091: 91, 8083: 83}
PROBE = [flag for place in ("/usr", "/lib", "/lib64") for flag in ("-v", f"{place}:{place}:ro")]
PROBE += ["-v", f"{probe.__file__}:/probe.py:ro", "busybox", "/usr/bin/python3", "-S", "/probe.py", "serve"]


def _serving(engine: Engine, name: str, *flags: str, ports: tuple[int, ...]) -> None:
    engine("run", "-d", "--name", name, "--hostname", name, *flags, *PROBE, *(str(port) for port in ports))
    eventually(lambda: "serving" in engine("logs", name))


def _asked(netns: str, targets: list[tuple[str, str, int]]) -> list[str | None]:
    words = [f"{protocol},{address},{port}" for protocol, address, port in targets]
    output = run(netns, sys.executable, "-S", probe.__file__, "ask", *words).stdout
    return list(json.loads(output))


def _netns(engine: Engine, place: str) -> str:
    if place in ("host", "outside"):
        return engine.neighbour if place == "outside" else "/proc/thread-self/ns/net"
    return f"/proc/{engine('inspect', '-f', '{{.State.Pid}}', place)}/ns/net"


def test_published_ports_by_family_and_protocol(engine: Engine) -> None:
    _serving(engine, "web", "--network", "zone", *PUBLISH, ports=(80, 81, 83, 90, 91, 92))
    try:
        (address,) = _addresses(engine, "web")
        gateway = engine("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "zone")
        addresses = TARGETS | {"gateway": gateway, "container": address}
        rows = [
            (target, inside if target == "container" else port, protocol)
            for target in TARGETS
            for port, inside in PORTS.items()
            for protocol in ("tcp", "udp")
            if (port, protocol) != (8083, "udp")
        ]
        netns = {place: _netns(engine, place) for place in PLACES}

        def reached(place: str) -> set[tuple[str, str, int, str]]:
            answers = _asked(
                netns[place], [(protocol, addresses[target], port) for target, port, protocol in rows]
            )
            return {(place, *row) for row, answer in zip(rows, answers, strict=True) if answer}

        with ThreadPoolExecutor(len(PLACES)) as threads:
            found = set().union(*threads.map(reached, PLACES))
    finally:
        engine("rm", "-f", "web")
    expected = {
        (place, target, port, protocol)
        for (target, port), places in PUBLISHED.items()
        for place in places
        for protocol in ("tcp", "udp")
        if (port, protocol) in {(port, protocol) for _, port, protocol in rows}
    }
    differences = found ^ expected
    if not engine.ours:
        # docker-proxy answers over UDP from an address that was not asked, and before version 28 whoever had a
        # route reached containers directly.
        differences = {
            (place, target, port, protocol)
            for place, target, port, protocol in differences
            if not (protocol == "udp" and target in ("host", "gateway") and place in CONTAINERS | {"web": []})
            and not (place == "outside" and target == "container")
        }
    assert differences == set()


def test_random_ports_and_ranges_never_collide(engine: Engine) -> None:
    """Containers that start at the same time get ports that nobody else has, in and out of a range."""
    exposed = ("--expose", "80", "--expose", "81/udp", "-P", "-p", "9100-9103:82")
    try:
        with ThreadPoolExecutor(4) as threads:
            names = [f"r{number}" for number in range(4)]
            start = ("run", "-d", *exposed, "--name")
            list(threads.map(lambda name: engine(*start, name, "busybox", "sleep", "99"), names))
        ports = [set(engine("port", name).split("\n")) for name in names]
        taken = [
            (line.split("/")[1].split(" ")[0], line.rpartition(":")[2])
            for lines in ports
            for line in lines
            if "0.0.0.0" in line
        ]
        assert len(taken) == len(set(taken)) == 12, taken
        in_range = {int(port) for _, port in taken if 9100 <= int(port) <= 9103}
        assert in_range == {9100, 9101, 9102, 9103}
        refused = engine(
            "run", "-d", "--name", "r4", "-p", "9100-9103:82", "busybox", "sleep", "9", check=False, error=True
        )
        assert "all ports are allocated" in refused or "port is already allocated" in refused
    finally:
        engine("rm", "-f", *names, "r4", check=False)
