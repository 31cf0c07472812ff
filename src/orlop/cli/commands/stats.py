# SPDX-License-Identifier: Apache-2.0
"""`stats`: what containers use, live or once."""

import select
from typing import Any

from orlop.cli import format as listing
from orlop.cli.command import Command
from orlop.cli.flags import Args, Flag
from orlop.cli.format import Column
from orlop.cli.units import binary_size, human_size
from orlop.engine.client import Client, EngineError
from orlop.engine.http import Connection

_COLUMNS = [
    Column("ID", "CONTAINER ID"),
    Column("Name", "NAME"),
    Column("Container", "CONTAINER"),
    Column("CPUPerc", "CPU %"),
    Column("MemUsage", "MEM USAGE / LIMIT"),
    Column("MemPerc", "MEM %"),
    Column("NetIO", "NET I/O"),
    Column("BlockIO", "BLOCK I/O"),
    Column("PIDs", "PIDS"),
]
_SHOWN = ["ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs"]
_CLEAR = "\x1b[H\x1b[J"


def run(client: Client, args: Args) -> int:
    while True:
        names = args.positional or _all_names(client, everything=args.flag("all"))
        rows = [_row(name, sample, full=args.flag("no-trunc")) for name, sample in _samples(client, names)]
        text = listing.render_rows(rows, args.text("format"), _SHOWN, _COLUMNS)
        if args.flag("no-stream"):
            print(text, end="")
            return 0
        print(_CLEAR + text, end="", flush=True)
        if not rows:
            # Nothing to wait for in the daemon's answers: look again for new containers in a while.
            select.select([], [], [], 1.0)


def _all_names(client: Client, *, everything: bool) -> list[str]:
    return [container["Id"] for container in client.get("/containers/json", {"all": everything or None})]


def _samples(client: Client, names: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """One sample a container, all asked for at once: the daemon takes a second for each to measure the CPU."""
    pending: list[tuple[str, Connection]] = [
        (name, client.begin("GET", f"/containers/{name}/stats", {"stream": False})) for name in names
    ]
    samples = []
    for name, connection in pending:
        try:
            samples.append((name, client.finish(connection, "GET")))
        except EngineError:
            if len(names) == 1:
                raise
        finally:
            connection.close()
    return samples


def _row(name: str, sample: dict[str, Any], *, full: bool) -> dict[str, str]:
    memory = sample.get("memory_stats") or {}
    used = _memory_used(memory)
    limit = memory.get("limit") or 0
    networks = (sample.get("networks") or {}).values()
    received, sent = (sum(n.get(key, 0) for n in networks) for key in ("rx_bytes", "tx_bytes"))
    read, written = _block_io(sample.get("blkio_stats") or {})
    identifier = sample.get("id") or ""
    return {
        "ID": identifier if full else identifier[:12],
        "Name": (sample.get("name") or "").lstrip("/"),
        "Container": name,
        "CPUPerc": f"{_cpu_percent(sample):.2f}%",
        "MemUsage": f"{binary_size(used)} / {binary_size(limit)}",
        "MemPerc": f"{100 * used / limit if limit else 0:.2f}%",
        "NetIO": f"{human_size(received)} / {human_size(sent)}",
        "BlockIO": f"{human_size(read)} / {human_size(written)}",
        "PIDs": str((sample.get("pids_stats") or {}).get("current") or 0),
    }


def _cpu_percent(sample: dict[str, Any]) -> float:
    now, before = sample.get("cpu_stats") or {}, sample.get("precpu_stats") or {}
    cpu = (now.get("cpu_usage") or {}).get("total_usage", 0) - (before.get("cpu_usage") or {}).get(
        "total_usage", 0
    )
    system = (now.get("system_cpu_usage") or 0) - (before.get("system_cpu_usage") or 0)
    cpus = now.get("online_cpus") or len((now.get("cpu_usage") or {}).get("percpu_usage") or []) or 1
    return 100.0 * cpus * cpu / system if cpu > 0 and system > 0 else 0.0


def _memory_used(memory: dict[str, Any]) -> int:
    """Without the page cache that the kernel would give up first: cgroup v1 and v2 name it differently."""
    usage = int(memory.get("usage") or 0)
    details = memory.get("stats") or {}
    for key in ("total_inactive_file", "inactive_file"):
        if 0 < details.get(key, 0) < usage:
            return usage - int(details[key])
    return usage


def _block_io(stats: dict[str, Any]) -> tuple[int, int]:
    entries = stats.get("io_service_bytes_recursive") or []
    read, written = (
        sum(entry["value"] for entry in entries if entry["op"].lower() == operation)
        for operation in ("read", "write")
    )
    return read, written


STATS = Command(
    "stats [OPTIONS] [CONTAINER...]",
    "Display a live stream of container(s) resource usage statistics",
    run,
    flags=[
        Flag("all", "a", "bool", "Show all containers (default shows just running)"),
        Flag("format", "", "string", listing.HELP),
        Flag("no-stream", "", "bool", "Disable streaming stats and only pull the first result"),
        Flag("no-trunc", "", "bool", "Do not truncate output"),
    ],
    max_args=None,
)
