# SPDX-License-Identifier: Apache-2.0
"""The Engine API of orlop beside that of Debian's docker.io, spoken directly: one run, in turn, ratios.

Lifecycles and execs over a kept connection, `ps` with many containers, large logs, large copies.
"""

import argparse
import contextlib
import http.client
import io
import json
import pathlib
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable

from engines import Docker, Engine, Orlop, docker
from report import head, in_turn, row, timed

_LOG_LINE = "x" * 1023
_TREE_FILES = 2000
_CHUNK = 1 << 20


class Api(http.client.HTTPConnection):
    """A kept connection to an engine's socket."""

    def __init__(self, engine: Engine) -> None:
        super().__init__("localhost")
        self._path = engine.host.removeprefix("unix://")

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)

    def call(self, method: str, path: str, body: object = None) -> dict[str, object]:
        """Send a request; the answer's JSON, {} without one. Raises SystemExit with the engine's words."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        self.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = self.getresponse()
        content = answer.read()
        if answer.status >= 400:
            raise SystemExit(f"{method} {path}: {answer.status} {content.decode()}")
        decoded: dict[str, object] = json.loads(content) if content else {}
        return decoded

    def read_all(self, path: str) -> int:
        """GET a stream to its end; its length in bytes."""
        self.request("GET", path)
        answer = self.getresponse()
        if answer.status >= 400:
            raise SystemExit(f"GET {path}: {answer.status} {answer.read().decode()}")
        total = 0
        while chunk := answer.read(_CHUNK):
            total += len(chunk)
        return total


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench/api", description=__doc__)
    parser.add_argument("-n", type=int, default=15, help="runs of each short workload (default: %(default)s)")
    parser.add_argument("--containers", type=int, default=300, help="running ones for ps (default: %(default)s)")
    parser.add_argument("--megabytes", type=int, default=1024, help="size of the log (default: %(default)s)")
    parser.add_argument("--tree", type=int, default=500, help="megabytes that cp moves (default: %(default)s)")
    parser.add_argument("--only", choices=["life", "ps", "logs", "cp"], action="append", help="only these parts")
    options = parser.parse_args()
    parts: dict[str, Callable[[list[Engine], argparse.Namespace], None]] = {
        "life": _life, "logs": _logs, "cp": _copy, "ps": _list
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm") as directory:
        root = pathlib.Path(directory)
        engines: list[Engine] = [Orlop(root / "o"), Docker(root / "d")]
        started: list[Engine] = []
        try:
            for engine in engines:
                started.append(engine)
                engine.start()
                archive = subprocess.run(
                    [sys.executable, "-m", "orlop.oci.busybox"], capture_output=True, check=True
                )
                subprocess.run(
                    ["docker", "-H", engine.host, "load", "-q"],
                    input=archive.stdout,
                    capture_output=True,
                    check=True,
                )
            head(engines)
            for name, part in parts.items():
                if not options.only or name in options.only:
                    part(engines, options)
        finally:
            for engine in started:
                engine.stop()


def _life(engines: list[Engine], options: argparse.Namespace) -> None:
    """create + start + wait + remove, and exec, over one connection that is kept."""
    connections = {engine.name: Api(engine) for engine in engines}
    networks = ("bridge", "none", "host")
    times: dict[str, dict[str, list[float]]] = {network: {e.name: [] for e in engines} for network in networks}
    # The networks in turn, too: a machine that slows down on the way must not make one look dearer than another.
    for _ in range(options.n):
        for network in networks:
            one = in_turn(engines, 1, lambda engine: _live(connections[engine.name], network))  # noqa: B023
            for name, seconds in one.items():
                times[network][name] += seconds
    for network in networks:
        row(f"create+start+wait+remove, {network}", engines, times[network])
    for engine in engines:
        docker(engine.host, "run", "-d", "--name", "target", "busybox", "sleep", "1000000")
    row("exec", engines, in_turn(engines, options.n, lambda engine: _execute(engine, connections[engine.name])))
    for engine in engines:
        connections[engine.name].close()
        docker(engine.host, "rm", "-f", "target")


def _live(api: Api, network: str) -> None:
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": network}}
    identifier = api.call("POST", "/containers/create", body)["Id"]
    api.call("POST", f"/containers/{identifier}/start")
    status = api.call("POST", f"/containers/{identifier}/wait")
    assert status["StatusCode"] == 0, status
    api.call("DELETE", f"/containers/{identifier}")


def _execute(engine: Engine, api: Api) -> None:
    """Create, start attached (a connection of its own, as the protocol wants), inspect."""
    body = {"Cmd": ["true"], "AttachStdout": True, "AttachStderr": True}
    identifier = api.call("POST", "/containers/target/exec", body)["Id"]
    with contextlib.closing(Api(engine)) as attached:
        attached.request("POST", f"/exec/{identifier}/start", "{}", {"Content-Type": "application/json"})
        attached.getresponse().read()
    assert api.call("GET", f"/exec/{identifier}/json")["ExitCode"] == 0


def _logs(engines: list[Engine], options: argparse.Namespace) -> None:
    """A large log written by a container, read whole, and its tail."""
    lines = options.megabytes * 1024
    script = f"yes {_LOG_LINE} | head -n {lines}"
    flags = ("--name", "log", "-d", "--log-opt", "max-size=100g")

    def write(engine: Engine) -> None:
        docker(engine.host, "run", *flags, "busybox", "sh", "-c", script)
        _wait(engine)

    written = in_turn_once(engines, write)
    row(f"write a log of {options.megabytes} MB", engines, written)
    whole = "/containers/log/logs?stdout=1&stderr=1"
    row("logs, whole (API)", engines, in_turn(engines, 2, lambda e: _read(e, whole, lines * 1032)))
    row(
        "logs --tail 10 (API)", engines, in_turn(engines, options.n, lambda e: _read(e, whole + "&tail=10", 10320))
    )
    for engine in engines:
        docker(engine.host, "rm", "log")


def _wait(engine: Engine) -> None:
    assert docker(engine.host, "wait", "log").strip() == "0"


def _read(engine: Engine, path: str, expected: int) -> None:
    with contextlib.closing(Api(engine)) as api:
        total = api.read_all(path)
    assert total == expected, (engine.name, total, expected)


def _copy(engines: list[Engine], options: argparse.Namespace) -> None:
    """A tree into a container and out of it, as `docker cp` sends it."""
    archive = _tree(options.tree)
    for engine in engines:
        docker(engine.host, "create", "--name", "box", "busybox", "true")
    row(f"cp of {options.tree} MB in (API)", engines, in_turn(engines, 2, lambda e: _put(e, archive)))
    row(f"cp of {options.tree} MB out (API)", engines, in_turn(engines, 2, _get))
    for engine in engines:
        docker(engine.host, "rm", "box")


def _tree(megabytes: int) -> bytes:
    content = bytes(range(256)) * (megabytes * 4096 // _TREE_FILES)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for index in range(_TREE_FILES):
            member = tarfile.TarInfo(f"tree/{index // 100}/{index}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def _put(engine: Engine, archive: bytes) -> None:
    with contextlib.closing(Api(engine)) as api:
        api.request("PUT", "/containers/box/archive?path=/tmp", archive, {"Content-Type": "application/x-tar"})
        answer = api.getresponse()
        assert answer.status == 200, answer.read()


def _get(engine: Engine) -> None:
    with contextlib.closing(Api(engine)) as api:
        assert api.read_all("/containers/box/archive?path=/tmp/tree") > 0


def _list(engines: list[Engine], options: argparse.Namespace) -> None:
    """`ps` while many containers run."""
    for engine in engines:
        with contextlib.closing(Api(engine)) as api:
            for _ in range(options.containers):
                body = {"Image": "busybox", "Cmd": ["sleep", "1000000"], "HostConfig": {"NetworkMode": "none"}}
                api.call("POST", f"/containers/{api.call('POST', '/containers/create', body)['Id']}/start")
    row(
        f"ps, {options.containers} running (CLI)",
        engines,
        in_turn(engines, options.n, lambda e: docker(e.host, "ps")),
    )
    row("the same (API)", engines, in_turn(engines, options.n, lambda e: _read_list(e, options.containers)))
    row("ps -a --size (API)", engines, in_turn(engines, 2, _sized))


def _read_list(engine: Engine, expected: int) -> None:
    with contextlib.closing(Api(engine)) as api:
        assert len(api.call("GET", "/containers/json")) == expected


def _sized(engine: Engine) -> None:
    with contextlib.closing(Api(engine)) as api:
        api.call("GET", "/containers/json?all=1&size=1")


def in_turn_once(engines: list[Engine], action: Callable[[Engine], object]) -> dict[str, list[float]]:
    """Seconds of one run by engine, without a warm-up."""
    return {engine.name: [timed(lambda engine=engine: action(engine))] for engine in engines}  # type: ignore[misc]


if __name__ == "__main__":
    main()
