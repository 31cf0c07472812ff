# SPDX-License-Identifier: Apache-2.0
"""orlop beside Debian's docker.io: the same docker CLI, the same image, the same machine, in turn.

Prints the median of each workload for both engines and the ratio orlop / docker.
"""

import argparse
import concurrent.futures
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial

from account import account
from engines import Docker, Engine, Orlop, docker, pss_kib

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
                _load_busybox(engine)
            _report_machine(engines)
            if options.account:
                _account(engines, root)
                return
            _short(engines, options.n)
            _batch(engines)
        finally:
            for engine in started:
                engine.stop()


def _load_busybox(engine: Engine) -> None:
    archive = subprocess.run([sys.executable, "-m", "orlop.oci.busybox"], capture_output=True, check=True).stdout
    subprocess.run(["docker", "-H", engine.host, "load", "-q"], input=archive, capture_output=True, check=True)


def _report_machine(engines: list[Engine]) -> None:
    client = docker(engines[0].host, "version", "--format", "{{.Client.Version}}").strip()
    versions = [
        f"{e.name} {docker(e.host, 'version', '--format', '{{.Server.Version}}').strip()}" for e in engines
    ]
    print(f"docker CLI {client}; servers: {', '.join(versions)}; times in ms, medians (fastest…slowest)\n")
    heads = "".join(f"{engine.name:>28}" for engine in engines)
    print(f"{'':34}{heads}{'ratio':>8}")


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
        times: dict[str, list[float]] = {engine.name: [] for engine in engines}
        for index in range(runs + 1):
            for engine in engines:
                seconds = _timed(partial(docker, engine.host, *arguments))
                if index:  # the first of each is a warm-up
                    times[engine.name].append(seconds)
        _row(name, engines, times)
    for engine in engines:
        docker(engine.host, "rm", "-f", *docker(engine.host, "ps", "-aq").split())


def _batch(engines: list[Engine]) -> None:
    """40 containers, eight at a time, one engine after the other; memory while they run; then rm -f of all."""
    start: dict[str, list[float]] = {}
    remove: dict[str, list[float]] = {}
    memory: dict[str, dict[str, float]] = {}
    for engine in engines:
        start[engine.name] = [_timed(partial(_start_many, engine))]
        time.sleep(_REST_SECONDS)  # shims come to rest a second after their work, which nothing shows from outside
        memory[engine.name] = {role: pss_kib(pids) / 1024 for role, pids in engine.daemons().items()}
        memory[engine.name]["per container"] = pss_kib(engine.per_container()) / 1024 / _BATCH
        names = [f"c{index}" for index in range(_BATCH)]
        remove[engine.name] = [_timed(partial(docker, engine.host, "rm", "-f", *names))]
    _row(f"{_BATCH} x run -d, {_PARALLEL} at a time", engines, start)
    _row(f"rm -f of {_BATCH}", engines, remove)
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


def _timed(action: Callable[[], object]) -> float:
    before = time.perf_counter()
    action()
    return time.perf_counter() - before


def _row(name: str, engines: list[Engine], times: dict[str, list[float]]) -> None:
    cells = ""
    for engine in engines:
        values = [1000 * seconds for seconds in times[engine.name]]
        spread = f" ({min(values):.0f}…{max(values):.0f})" if len(values) > 1 else ""
        cells += f"{statistics.median(values):.1f}{spread}".rjust(28)
    medians = [statistics.median(times[engine.name]) for engine in engines]
    ratio = f"{medians[0] / medians[1]:.2f}" if len(medians) == 2 else ""
    print(f"{name:34}{cells}{ratio:>8}", flush=True)


if __name__ == "__main__":
    main()
