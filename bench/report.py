# SPDX-License-Identifier: Apache-2.0
"""The table that every comparison prints: a row for each workload, a column for each engine, and the ratio."""

import statistics
import time
from collections.abc import Callable, Sequence

from engines import Engine, docker


def head(engines: Sequence[Engine]) -> None:
    """What is compared, and the names of the columns."""
    client = docker(engines[0].host, "version", "--format", "{{.Client.Version}}").strip()
    versions = [
        f"{e.name} {docker(e.host, 'version', '--format', '{{.Server.Version}}').strip()}" for e in engines
    ]
    print(f"docker CLI {client}; servers: {', '.join(versions)}; times in ms, medians (fastest…slowest)\n")
    heads = "".join(f"{engine.name:>28}" for engine in engines)
    print(f"{'':34}{heads}{'ratio':>8}")


def row(name: str, engines: Sequence[Engine], times: dict[str, list[float]]) -> None:
    """One workload: medians of seconds by the engine's name, printed as milliseconds."""
    cells = ""
    for engine in engines:
        values = [1000 * seconds for seconds in times[engine.name]]
        spread = f" ({min(values):.0f}…{max(values):.0f})" if len(values) > 1 else ""
        cells += f"{statistics.median(values):.1f}{spread}".rjust(28)
    medians = [statistics.median(times[engine.name]) for engine in engines]
    ratio = f"{medians[0] / medians[1]:.2f}" if len(medians) == 2 else ""
    print(f"{name:34}{cells}{ratio:>8}", flush=True)


def in_turn(engines: Sequence[Engine], runs: int, action: Callable[[Engine], object]) -> dict[str, list[float]]:
    """Seconds of each of `runs` by engine, the engines in turn; the first of each is a warm-up, not counted."""
    times: dict[str, list[float]] = {engine.name: [] for engine in engines}
    for index in range(runs + 1):
        for engine in engines:
            seconds = timed(lambda engine=engine: action(engine))  # type: ignore[misc]
            if index:
                times[engine.name].append(seconds)
    return times


def timed(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    before = time.perf_counter()
    action()
    return time.perf_counter() - before
