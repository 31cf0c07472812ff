# SPDX-License-Identifier: Apache-2.0
"""What one operation costs besides time: processes, execs, fsyncs, bytes and system calls of the daemons.

usage: bench/run --account        (strace(1) attached to every daemon while `docker run --rm busybox true` runs)
"""

import collections
import pathlib
import re
import signal
import subprocess
import time

from engines import Engine, docker

_CALL = re.compile(r"^(?:\d+ +)?(?:[\d.:]+ +)?(?:<\.\.\. )?(\w+)[( ]")
_NEW_PROCESS = {"clone", "clone3", "fork", "vfork"}
_SYNC = {"fsync", "fdatasync", "sync_file_range", "syncfs"}


def account(engine: Engine, arguments: list[str], directory: pathlib.Path) -> dict[str, int]:
    """Counts over all daemons, and what they fork, for one docker command."""
    docker(engine.host, *arguments)  # warm
    pids = [str(pid) for group in [*engine.daemons().values(), engine.per_container()] for pid in group]
    trace = directory / f"{engine.name}.strace"
    attach = [item for pid in pids for item in ("-p", pid)]
    strace = subprocess.Popen(["strace", "-f", "-qq", "-o", str(trace), *attach], stderr=subprocess.PIPE)
    _wait_attached(pids)
    docker(engine.host, *arguments)
    time.sleep(0.5)  # removal goes on behind the answer, and nothing tells from outside that it has ended
    strace.send_signal(signal.SIGINT)
    strace.wait()
    return _count(trace)


def _wait_attached(pids: list[str]) -> None:
    deadline = time.monotonic() + 10
    while any("TracerPid:\t0\n" in pathlib.Path(f"/proc/{pid}/status").read_text() for pid in pids):
        if time.monotonic() > deadline:
            raise SystemExit("strace did not attach")
        time.sleep(0.01)


def _count(trace: pathlib.Path) -> dict[str, int]:
    calls: collections.Counter[str] = collections.Counter()
    processes = threads = execs = 0
    for line in trace.read_text(errors="replace").splitlines():
        match = _CALL.match(line)
        if match is None or "resumed>" in line:
            continue
        name = match[1]
        calls[name] += 1
        if name in _NEW_PROCESS:
            if "CLONE_THREAD" in line:
                threads += 1
            else:
                processes += 1
        if name in ("execve", "execveat") and "= -1" not in line:
            execs += 1
    return {
        "processes": processes,
        "threads": threads,
        "execs": execs,
        "fsyncs": sum(calls[name] for name in _SYNC),
        "mounts": sum(calls[name] for name in ("mount", "move_mount", "fsmount", "open_tree")),
        "system calls": sum(calls.values()),
    }
