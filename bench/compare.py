# SPDX-License-Identifier: Apache-2.0
"""orlop beside Debian's docker.io: the same docker CLI, the same image, the same machine, in turn.

Prints the median of each workload for both engines and the ratio orlop / docker.
"""

import argparse
import concurrent.futures
import pathlib
import subprocess
import sys
import tempfile
import time
from functools import partial

from account import account
from engines import Docker, Engine, Orlop, docker, pss_kib
from report import head, in_turn, row, timed

_BATCH = 40
_PARALLEL = 8
_REST_SECONDS = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench/run", description=__doc__)
    parser.add_argument("-n", type=int, default=15, help="runs of each short workload (default: %(default)s)")
    parser.add_argument("--only", choices=["orlop", "docker"], help="measure one engine alone, without ratios")
    parser.add_argument("--account", action="store_true", help="count processes, execs, fsyncs instead of time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        root = pathlib.Path(directory)
        candidates: list[Engine] = [Orlop(root / "o"), Docker(root / "d")]
        engines = [engine for engine in candidates if options.only in (None, engine.name)]
        started: list[Engine] = []
        try:
            for engine in engines:
                started.append(engine)
                engine.start()
                load_busybox(engine)
            head(engines)
            if options.account:
                _account(engines, root)
                return
            _short(engines, options.n)
            _batch(engines)
        finally:
            for engine in started:
                engine.stop()


def load_busybox(engine: Engine) -> None:
    archive = subprocess.run([sys.executable, "-m", "orlop.oci.busybox"], capture_output=True, check=True).stdout
    subprocess.run(["docker", "-H", engine.host, "load", "-q"], input=archive, capture_output=True, check=True)


def _short(engines: list[Engine], runs: int) -> None:
    for engine in engines:
        docker(engine.host, "run", "-d", "--name", "target", "busybox", "sleep", "1000000")
    workloads: dict[str, list[str]] = {
        "ps (the CLI's own cost)": ["ps"],
        "run --rm, bridge": ["run", "--rm", "busybox", "true"],
        "run --rm, none": ["run", "--rm", "--network", "none", "busybox", "true"],
        "run --rm, host": ["run", "--rm", "--network", "host", "busybox", "true"],
        "run -d, bridge": ["run", "-d", "busybox", "true"],
        "exec": ["exec", "target", "true"],
    }
    for name, arguments in workloads.items():
        row(name, engines, in_turn(engines, runs, lambda engine: docker(engine.host, *arguments)))  # noqa: B023 - used at once
    for engine in engines:
        docker(engine.host, "rm", "-f", *docker(engine.host, "ps", "-aq").split())


def _batch(engines: list[Engine]) -> None:
    """40 containers, eight at a time, one engine after the other; memory while they run; then rm -f of all."""
    start: dict[str, list[float]] = {}
    remove: dict[str, list[float]] = {}
    memory: dict[str, dict[str, float]] = {}
    for engine in engines:
        start[engine.name] = [timed(partial(_start_many, engine))]
        time.sleep(_REST_SECONDS)  # shims come to rest a second after their work, which nothing shows from outside
        memory[engine.name] = {role: pss_kib(pids) / 1024 for role, pids in engine.daemons().items()}
        memory[engine.name]["per container"] = pss_kib(engine.per_container()) / 1024 / _BATCH
        names = [f"c{index}" for index in range(_BATCH)]
        remove[engine.name] = [timed(partial(docker, engine.host, "rm", "-f", *names))]
    row(f"{_BATCH} x run -d, {_PARALLEL} at a time", engines, start)
    row(f"rm -f of {_BATCH}", engines, remove)
    print(f"\nmemory (PSS, MiB) with {_BATCH} containers running, their own processes not counted:")
    for engine in engines:
        parts = ", ".join(f"{role} {size:.2f}" for role, size in memory[engine.name].items())
        print(f"  {engine.name:8}{parts}")


def _account(engines: list[Engine], directory: pathlib.Path) -> None:
    operations = {
        "run --rm, bridge": ["run", "--rm", "busybox", "true"],
        "exec": ["exec", "target", "true"],
    }
    for engine in engines:
        docker(engine.host, "run", "-d", "--name", "target", "busybox", "sleep", "1000000")
    for name, arguments in operations.items():
        for engine in engines:
            counts = account(engine, arguments, directory)
            print(f"{name}, {engine.name}: " + ", ".join(f"{count} {what}" for what, count in counts.items()))


def _start_many(engine: Engine) -> None:
    with concurrent.futures.ThreadPoolExecutor(_PARALLEL) as pool:
        commands = [("run", "-d", "--name", f"c{index}", "busybox", "sleep", "1000000") for index in range(_BATCH)]
        list(pool.map(lambda command: docker(engine.host, *command), commands))


if __name__ == "__main__":
    main()
