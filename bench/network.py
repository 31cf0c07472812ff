# SPDX-License-Identifier: Apache-2.0
"""Networking of orlop beside Debian's docker.io: the same clients, the same machine, in turn.

usage: bench/run --network [PART ...]      parts: setup, ports, proxy, dns, scale (default: all but scale)

Needs Debian's iperf3, wrk, nginx-light and dnsperf. Prints for each figure both engines and orlop / docker.
"""

import argparse
import json
import pathlib
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial

from compare import load_busybox
from engines import Docker, Engine, Orlop, cpu_seconds, docker
from network_scale import scale
from report import row, timed

_HOST, _OUTSIDE = "198.51.100.1", "198.51.100.2"
_HOST6, _OUTSIDE6 = "fd00:51::1", "fd00:51::2"
_TOOLS = ("iperf3", "wrk", "nginx", "dnsperf", "curl")
_SECONDS = 3
_ROUNDS = 3
_USR = [flag for place in ("/usr", "/lib", "/lib64") for flag in ("-v", f"{place}:{place}:ro")]
_NGINX = """
daemon off; worker_processes 1; pid /tmp/nginx.pid; error_log /dev/null;
events { worker_connections 1024; }
http { access_log off; keepalive_requests 1000000000; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p;
fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
server { listen 80; location / { return 200 "served"; } } }
"""


def main() -> None:
    parts: dict[str, Callable[[list[Engine]], None]] = {
        "setup": _setup, "ports": _ports, "proxy": _proxy, "dns": _dns, "scale": scale,
    }  # fmt: skip
    parser = argparse.ArgumentParser(prog="bench/run --network", description=__doc__)
    parser.add_argument("part", nargs="*", choices=[*parts, []], help="what to measure")
    chosen = parser.parse_args().part or [part for part in parts if part != "scale"]
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        raise SystemExit(f"not installed: {', '.join(missing)} (Debian: iperf3 wrk nginx-light dnsperf)")
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        root = pathlib.Path(directory)
        engines: list[Engine] = [Orlop(root / "o"), Docker(root / "d")]
        started: list[Engine] = []
        try:
            for engine in engines:
                started.append(engine)
                engine.start()
                load_busybox(engine)
                _add_neighbour(engine)
            for part in chosen:
                print(f"\n{part:34}" + "".join(f"{engine.name:>28}" for engine in engines) + f"{'ratio':>8}")
                parts[part](engines)
        finally:
            for engine in started:
                _remove_neighbour(engine)
                engine.stop()


# -- set-up and tear-down of a container's network


def _setup(engines: list[Engine]) -> None:
    """What a network adds to `docker run --rm`, in ms."""
    for engine in engines:
        docker(engine.host, "network", "create", "zone")
    times: dict[str, dict[str, list[float]]] = {}
    for index in range(13):
        for engine in engines:
            for name, extra in (
                ("none", ("--network", "none")),
                ("bridge", ()),
                ("bridge, -p", ("-p", "8000:80")),
                ("user's network", ("--network", "zone")),
            ):
                seconds = timed(partial(docker, engine.host, "run", "--rm", *extra, "busybox", "true"))
                if index:
                    times.setdefault(name, {}).setdefault(engine.name, []).append(seconds)
    for name, found in times.items():
        row(f"run --rm, {name}", engines, found)
    bare = times.pop("none")
    for what, of in (("median", statistics.median), ("fastest", min)):
        for name, found in times.items():
            shares = {e.name: [of(found[e.name]) - of(bare[e.name])] for e in engines}
            row(f"share of {name}, {what}", engines, shares)


# -- published ports


def _ports(engines: list[Engine]) -> None:
    """What the kernel redirects."""
    _through("outside → host:port", engines, lambda engine: (f"{engine.netns}-out", _HOST))
    _through("host → its address:port", engines, lambda engine: (engine.netns, _HOST))


def _proxy(engines: list[Engine]) -> None:
    """What it does not: userland proxies."""
    _through("host → localhost:port", engines, lambda engine: (engine.netns, "127.0.0.1"))
    _through("host → [::1]:port", engines, lambda engine: (engine.netns, "::1"))
    _through("outside → [host]:port", engines, lambda engine: (f"{engine.netns}-out", _HOST6))


def _through(name: str, engines: list[Engine], way: Callable[[Engine], tuple[str, str]]) -> None:
    speeds: dict[str, list[float]] = {engine.name: [] for engine in engines}
    wrk: dict[str, dict[str, list[float]]] = {}
    for engine in engines:
        _serve(engine)
    try:
        for _ in range(_ROUNDS):
            for engine in engines:
                netns, address = way(engine)
                speeds[engine.name].append(_iperf(netns, address))
                for what, value in _wrk(netns, address, engine.proxies()).items():
                    wrk.setdefault(what, {}).setdefault(engine.name, []).append(value)
    finally:
        for engine in engines:
            docker(engine.host, "rm", "-f", "iperf", "nginx")
    figures(f"{name}, Gbit/s", engines, speeds)
    for what, found in wrk.items():
        if len(found) == len(engines):
            figures(f"{name}, {what}", engines, found)


def _serve(engine: Engine) -> None:
    config = pathlib.Path(tempfile.gettempdir()) / f"{engine.netns}.conf"
    config.write_text(_NGINX)
    docker(
        engine.host, "run", "-d", "--name", "iperf", "-p", "5201:5201", *_USR, "busybox", "/usr/bin/iperf3", "-s"
    )
    docker(
        engine.host, "run", "-d", "--name", "nginx", "-p", "8080:80", *_USR, "-v", f"{config}:/nginx.conf",
        "-v", "/etc/passwd:/etc/passwd:ro", "-v", "/etc/group:/etc/group:ro",
        "-v", "/var/log/nginx:/var/log/nginx",
        "busybox", "/usr/sbin/nginx", "-c", "/nginx.conf",
    )  # fmt: skip
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        asked = ["curl", "-s", "-m", "1", f"http://{_HOST}:8080/"]
        if _inside(engine.netns, *asked, check=False) == "served":
            break
        time.sleep(0.05)
    config.unlink()


def _iperf(netns: str, address: str) -> float:
    output = _inside(netns, "iperf3", "-J", "-t", str(_SECONDS), "-c", address)
    return float(json.loads(output)["end"]["sum_received"]["bits_per_second"]) / 1e9


def _wrk(netns: str, address: str, proxies: list[int]) -> dict[str, float]:
    host = f"[{address}]" if ":" in address else address
    command = ["wrk", "-t1", "-c8", f"-d{_SECONDS}s", "--latency"]
    found: dict[str, float] = {}
    for what, extra in (("request", ()), ("connection", ("-H", "Connection: close"))):
        before = cpu_seconds(proxies)
        output = _inside(netns, *command, *extra, f"http://{host}:8080/")
        used = cpu_seconds(proxies) - before
        found[f"{what}s/s"] = float(_found(r"Requests/sec:\s+([\d.]+)", output))
        if used > 0.1:  # less is no measure; the kernel alone carries it
            found[f"proxy's µs a {what}"] = 1e6 * used / int(_found(r"(\d+) requests in", output))
        if what == "request":
            found["median latency, µs"] = _micro(_found(r" 50%\s+([\d.]+[mu]?s)\n", output))
            found["99% latency, µs"] = _micro(_found(r" 99%\s+([\d.]+[mu]?s)\n", output))
    return found


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise SystemExit(f"unexpected output: {text}")
    return match[1]


def _micro(text: str) -> float:
    unit = {"us": 1.0, "ms": 1e3, "s": 1e6}
    match = re.fullmatch(r"([\d.]+)(us|ms|s)", text)
    if match is None:
        raise SystemExit(f"unexpected time: {text}")
    return float(match[1]) * unit[match[2]]


# -- DNS


def _dns(engines: list[Engine]) -> None:
    """Queries a second of one container, of names that the resolver knows itself."""
    rates: dict[str, dict[str, list[float]]] = {}
    with tempfile.NamedTemporaryFile("w", suffix=".queries") as queries:
        queries.write("web A\nweb AAAA\nalias A\nasker A\n")
        queries.flush()
        for engine in engines:
            docker(engine.host, "network", "create", "names")
            common = ("run", "-d", "--network", "names", "--dns", "127.0.0.1")
            docker(engine.host, *common, "--name", "web", "--network-alias", "alias", "busybox", "sleep", "10000")
            docker(engine.host, *common, "--name", "asker", "busybox", "sleep", "10000")
        for _ in range(_ROUNDS):
            for engine in engines:
                pid = docker(engine.host, "inspect", "-f", "{{.State.Pid}}", "asker").strip()
                for waiting in (1, 50):
                    command = ["nsenter", f"--net=/proc/{pid}/ns/net", "dnsperf", "-s", "127.0.0.11"]
                    command += ["-d", queries.name, "-l", str(_SECONDS), "-q", str(waiting), "-c", "1"]
                    daemons = [pid for pids in engine.daemons().values() for pid in pids]
                    before = cpu_seconds(daemons)
                    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                    used = cpu_seconds(daemons) - before
                    value = float(_found(r"Queries per second:\s+([\d.]+)", output))
                    cost = 1e6 * used / int(_found(r"Queries completed:\s+(\d+)", output))
                    for what, figure in (("queries/s", value), ("daemons' µs a query", cost)):
                        name = f"{waiting} at a time, {what}"
                        rates.setdefault(name, {}).setdefault(engine.name, []).append(figure)
                    lost = int(_found(r"Queries lost:\s+(\d+)", output))
                    if lost:
                        print(f"  {engine.name}: {lost} queries lost, {waiting} at a time")
        for engine in engines:
            docker(engine.host, "rm", "-f", "web", "asker")
            docker(engine.host, "network", "rm", "names")
    for name, found in rates.items():
        figures(name, engines, found)


# -- around


def _add_neighbour(engine: Engine) -> None:
    """A machine on the outer wire of the engine's host."""
    outside = f"{engine.netns}-out"
    for command in (
        f"netns add {outside}",
        f"-n {outside} link set lo up",
        f"-n {engine.netns} link add wire0 type veth peer name wire1 netns {outside}",
        f"-n {engine.netns} addr add {_HOST}/24 dev wire0",
        f"-n {engine.netns} addr add {_HOST6}/64 dev wire0 nodad",
        f"-n {engine.netns} link set wire0 up",
        f"-n {outside} addr add {_OUTSIDE}/24 dev wire1",
        f"-n {outside} addr add {_OUTSIDE6}/64 dev wire1 nodad",
        f"-n {outside} link set wire1 up",
    ):
        subprocess.run(["ip", *command.split()], check=True)


def _remove_neighbour(engine: Engine) -> None:
    subprocess.run(["ip", "netns", "del", f"{engine.netns}-out"], check=False, stderr=subprocess.DEVNULL)


def _inside(netns: str, *command: str, check: bool = True) -> str:
    entered = ["nsenter", f"--net=/run/netns/{netns}", *command]
    return subprocess.run(entered, capture_output=True, text=True, check=check).stdout


def figures(name: str, engines: list[Engine], values: dict[str, list[float]]) -> None:
    """A row of figures that are no times."""
    row(name, engines, {engine: [value / 1000 for value in found] for engine, found in values.items()})


if __name__ == "__main__":
    main()
