# SPDX-License-Identifier: Apache-2.0
"""`ctr run --rm IMAGE ID true` by Debian's ctr, in turn on Debian's containerd and on orlop-containerd.

Each daemon with its own shim and runtime, and either with that of the other. Prints medians in milliseconds and
ratios to Debian's daemon with Debian's shim and runc, by the clock and by the processor time of daemon, shim and
runtime (a third column is that of ctr itself, which is the same everywhere). Run as root.
"""

import argparse
import contextlib
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import NamedTuple

from cpu import Meter, meter
from report import timed

CTR = "/usr/bin/ctr"
IMAGE = "docker.io/library/busybox:latest"
_CONFIG = """
version = 2
root = "{base}/root"
state = "{state}"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{base}/c.sock"
"""


class Case(NamedTuple):
    """A daemon, and the runtime that `ctr run` asks it for."""

    name: str
    daemon: str
    runtime: str


class Run(NamedTuple):
    """What one container took: seconds of the clock, processor seconds of the daemon's side and of the client."""

    clock: float
    daemon: float
    client: float


CASES = (
    Case("containerd, shim-runc-v2, runc", "containerd", "io.containerd.runc.v2"),
    Case("containerd, shim-orlop-v2", "containerd", "io.containerd.orlop.v2"),
    Case("orlop-containerd, shim-runc-v2, runc", "orlop-containerd", "io.containerd.runc.v2"),
    Case("orlop-containerd, shim-orlop-v2", "orlop-containerd", "io.containerd.orlop.v2"),
)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="bench/ctr", description=__doc__)
    parser.add_argument("-n", type=int, default=20, help="runs of each (default: %(default)s)")
    options = parser.parse_args()
    with contextlib.ExitStack() as running:
        meters = {name: running.enter_context(meter(name)) for name in ("containerd", "orlop-containerd")}
        sockets = {name: running.enter_context(daemon(name, each)) for name, each in meters.items()}
        archive = subprocess.run([sys.executable, "-m", "orlop.oci.busybox"], capture_output=True, check=True)
        for socket in sockets.values():
            command = [CTR, "-a", socket, "images", "import", "-"]
            subprocess.run(command, input=archive.stdout, stdout=subprocess.DEVNULL, check=True)
        runs: dict[Case, list[Run]] = {case: [] for case in CASES}
        for index in range(options.n + 1):
            for case in CASES:
                done = run(case, sockets[case.daemon], meters[case.daemon], f"bench{index}")
                if index:  # the first of each is a warm-up
                    runs[case].append(done)
        print(f"ctr run --rm {IMAGE} ID true: {options.n} of each, in turn; load {os.getloadavg()[0]:.1f}")
        print("median ms, its ratio, fastest; processor ms of the daemon's side, its ratio; of ctr\n")
        base = Run(*(statistics.median(column) for column in zip(*runs[CASES[0]], strict=True)))
        for case, values in runs.items():
            columns = [*zip(*values, strict=True)]
            clock, daemon_side, client = (statistics.median(column) for column in columns)
            print(
                f"{case.name:40} {clock * 1000:7.1f} {clock / base.clock:5.2f} {min(columns[0]) * 1000:7.1f}"
                f"  {daemon_side * 1000:7.1f} {daemon_side / base.daemon:5.2f} {client * 1000:7.1f}"
            )


def run(case: Case, socket: str, group: Meter, id: str) -> Run:
    """One container's whole life."""
    options = ["--rm", "--runtime", case.runtime, "--cgroup", f"/{group.name}/{id}"]
    command = group.client.command([CTR, "-a", socket, "run", *options, IMAGE, id, "true"])
    before, client = group.all.seconds(), group.client.seconds()
    took = timed(lambda: subprocess.run(command, stdin=subprocess.DEVNULL, check=True))
    client = group.client.seconds() - client
    return Run(took, group.all.settled() - before - client, client)


@contextlib.contextmanager
def daemon(name: str, group: Meter | None = None) -> Iterator[str]:
    """The path of a daemon's socket; what it keeps is in directories of its own, its state on a tmpfs as usual."""
    with tempfile.TemporaryDirectory(prefix="bc") as base, tempfile.TemporaryDirectory(dir="/run") as state:
        socket = f"{base}/c.sock"
        if name == "containerd":
            pathlib.Path(f"{base}/config.toml").write_text(_CONFIG.format(base=base, state=state))
            command = [name, "-c", f"{base}/config.toml"]
        else:
            command = [name, "--root", f"{base}/root", "--state", state, "-a", socket]
        if group is not None:
            command = group.daemon.command(command)
        with open(f"{base}/log", "wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            while subprocess.run([CTR, "-a", socket, "version"], capture_output=True, check=False).returncode:
                if process.poll() is not None:
                    raise SystemExit(f"{name} ended:\n{pathlib.Path(f'{base}/log').read_text()}")
                time.sleep(0.05)
            yield socket
            subprocess.run([CTR, "-a", socket, "images", "rm", "--sync", IMAGE], capture_output=True, check=False)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
            for line in reversed(pathlib.Path("/proc/self/mountinfo").read_text().splitlines()):
                if (point := line.split()[4]).startswith((f"{base}/", f"{state}/")):
                    subprocess.run(["umount", "-l", point], check=False)


if __name__ == "__main__":
    os.environ.pop("NOTIFY_SOCKET", None)
    main()
