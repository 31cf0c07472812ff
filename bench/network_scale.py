# SPDX-License-Identifier: Apache-2.0
"""How the time of network operations grows with what there is: 300 containers on 30 networks, 1,000 ports."""

import concurrent.futures
import statistics
from collections.abc import Callable
from functools import partial

from engines import Engine, docker
from report import timed

_NETWORKS = 30
_CONTAINERS = 300
_PORTS = 1000
_STEPS = 6
_PARALLEL = 4


def scale(engines: list[Engine]) -> None:
    """Prints a curve for each operation: ms an operation in each step, the last step over the first."""
    for engine in engines:
        try:
            _networks(engine)
            _containers(engine)
            _churn(engine)
        finally:
            _remove_all(engine)
        try:
            _ports(engine)
        finally:
            _remove_all(engine)


def _networks(engine: Engine) -> None:
    size = _NETWORKS // _STEPS
    _curve(engine, "network create", size, lambda n: docker(engine.host, "network", "create", f"n{n}"))


def _containers(engine: Engine) -> None:
    def run(number: int) -> None:
        arguments = ("--network", f"n{number % _NETWORKS}", "--name", f"c{number}", "busybox", "sleep", "100000")
        docker(engine.host, "run", "-d", *arguments)

    _curve(engine, f"run -d on one of {_NETWORKS}", _CONTAINERS // _STEPS, run)


def _churn(engine: Engine) -> None:
    """Every container enters a second network and leaves it again."""
    size = _CONTAINERS // _STEPS
    other = [f"n{(number + 1) % _NETWORKS}" for number in range(_CONTAINERS)]
    _curve(engine, "connect", size, lambda n: docker(engine.host, "network", "connect", other[n], f"c{n}"))
    _curve(engine, "disconnect", size, lambda n: docker(engine.host, "network", "disconnect", other[n], f"c{n}"))
    _curve(engine, "rm -f", size, lambda n: docker(engine.host, "rm", "-f", f"c{n}"))


def _ports(engine: Engine) -> None:
    """100 containers with ten ports each."""

    def run(number: int) -> None:
        first = 20000 + 10 * number
        ports = f"{first}-{first + 9}:80-89"
        docker(engine.host, "run", "-d", "--name", f"p{number}", "-p", ports, "busybox", "sleep", "100000")

    count = _PORTS // 10
    _curve(engine, "run -d with 10 ports", count // 5, run, steps=5)
    _curve(engine, "rm -f with 10 ports", count // 5, lambda n: docker(engine.host, "rm", "-f", f"p{n}"), steps=5)


def _curve(
    engine: Engine, name: str, size: int, operation: Callable[[int], object], *, steps: int = _STEPS
) -> None:
    medians = []
    for step in range(steps):
        times = [timed(partial(operation, number)) for number in range(step * size, (step + 1) * size)]
        medians.append(1000 * statistics.median(times))
    points = " ".join(f"{(step + 1) * size}:{ms:.0f}" for step, ms in enumerate(medians))
    print(f"  {engine.name:8}{name:26}n:ms {points}   last/first {medians[-1] / medians[0]:.2f}", flush=True)


def _remove_all(engine: Engine) -> None:
    names = docker(engine.host, "ps", "-aq").split()
    groups = [names[start : start + 20] for start in range(0, len(names), 20)]
    with concurrent.futures.ThreadPoolExecutor(_PARALLEL) as pool:
        list(pool.map(lambda group: docker(engine.host, "rm", "-f", *group), groups))
    docker(engine.host, "network", "prune", "-f")
