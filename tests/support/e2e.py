# SPDX-License-Identifier: Apache-2.0
"""The stack as a user starts it, `orlop daemon start`, in directories and a network namespace of its own.

The test itself runs in that namespace (its main thread does), and so do the commands that it starts.
A `Cli` is one of the two command lines (the real `docker`, ours) pointed at it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from support.networks import NEIGHBOUR_ADDRESS, Neighbour, fresh_netns, run
from support.pace import PACE
from support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BIN = Path(sys.executable).parent
COMPONENTS = ("socket", "dockerd", "containerd", "netd")


class Cli:
    """One command line: `cli("run", "--rm", "busybox", "true")` runs it to its end."""

    def __init__(self, program: str, stack: Stack) -> None:
        self.program = program
        self._stack = stack

    def __call__(
        self, *arguments: str, input: str | None = None, timeout: float = 90
    ) -> subprocess.CompletedProcess[str]:
        streams = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
        return subprocess.run(
            [self.program, *arguments], capture_output=True, text=True, timeout=timeout * PACE, check=False,
            env=self._stack.environment(), **streams,
        )  # type: ignore[call-overload,no-any-return]  # fmt: skip

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Run it in the background, with pipes."""
        return subprocess.Popen(
            [self.program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=self._stack.environment(),
        )  # fmt: skip

    def terminal(self, *arguments: str, rows: int = 24, columns: int = 80) -> Terminal:
        """Run it in a terminal."""
        return Terminal([self.program, *arguments], env=self._stack.environment(), rows=rows, columns=columns)


class Stack:
    """Socket, dockerd, containerd and netd under `orlop daemon`, and what a test asks about them."""

    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="orlop-e2e-"))
        self.run_dir, self.data_root = self.base / "run", self.base / "data"
        self.host = f"unix://{self.run_dir}/docker.sock"
        self._network = contextlib.ExitStack()
        self.docker = Cli(shutil.which("docker") or "docker", self)
        self.orlop = Cli(str(BIN / "orlop"), self)
        self._ports = iter(range(20000, 60000))

    def __enter__(self) -> Stack:
        self._network.enter_context(fresh_netns())
        try:
            self.daemon("start")
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            for path in sorted((self.run_dir / "log").glob("*.log")):
                sys.stderr.write(f"--- {path.name}\n{path.read_text()[-4000:]}\n")
        self.remove()

    def environment(self) -> dict[str, str]:
        """Variables by which clients find the stack."""
        return {
            **os.environ,
            "DOCKER_HOST": self.host,
            "DOCKER_CONFIG": str(self.base / "client"),
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }

    # -- the daemons

    def daemon(self, verb: str, *arguments: str) -> str:
        """`orlop daemon VERB …` on this stack; its output."""
        return _command(
            str(BIN / "orlop"), "daemon", verb, *arguments,
            "--run-dir", str(self.run_dir), "--data-root", str(self.data_root), env=self.environment(),
        )  # fmt: skip

    def status(self) -> dict[str, str]:
        """State by component, as `orlop daemon status` prints it."""
        return {row[0]: row[1] for row in self._status_rows()}

    def pid(self, component: str) -> int:
        """Process id of a component, as soon as it runs."""
        deadline = time.monotonic() + 20 * PACE
        while True:
            row = next(row for row in self._status_rows() if row[0] == component)
            if row[1] in ("running", "listening"):
                return int(row[2])
            assert time.monotonic() < deadline, row
            time.sleep(0.05)

    def _status_rows(self) -> list[list[str]]:
        # Its exit status tells whether everything runs, which is not the question here.
        command = [str(BIN / "orlop"), "daemon", "status", "--run-dir", str(self.run_dir)]
        result = subprocess.run(command, capture_output=True, text=True, env=self.environment(), check=False)
        return [re.split(r"\s{2,}", line) for line in result.stdout.splitlines()[1:]]

    def kill(self, *components: str) -> None:
        """SIGKILL; the supervisor starts them again."""
        pids = [self.pid(component) for component in components]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def remove(self) -> None:
        """Remove containers, stop everything, and see that nothing is left."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if ids := self.docker("ps", "-aq").stdout.split():
                self.docker("rm", "-f", "-v", *ids)
        self.daemon("stop")
        left = self.leftovers()
        for path in sorted(self.mounts(), reverse=True):
            subprocess.run(["umount", "-l", path], check=False)
        self._network.close()
        if not os.path.ismount(self.data_root):
            shutil.rmtree(self.base)
        assert not left, f"left behind: {left}"

    def leftovers(self) -> list[str]:
        """Processes and mounts of this stack."""
        return [f"process {pid}: {line}" for pid, line in self.processes()] + [f"mount {p}" for p in self.mounts()]

    def processes(self) -> list[tuple[int, str]]:
        """(pid, command line) of processes whose command line or working directory names this stack."""
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                line = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                cwd = os.readlink(f"/proc/{name}/cwd")
            except OSError:
                continue
            if str(self.base) in line or cwd.startswith(str(self.base)):
                found.append((int(name), line))
        return found

    def mounts(self) -> list[str]:
        """Mount points below this stack's directories."""
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        points = (line.split()[4] for line in lines)
        # A test may have mounted the data root itself.
        return [path for path in points if path.startswith(f"{self.base}/") and path != str(self.data_root)]

    # -- what containers are seen as from outside

    def free_port(self) -> int:
        """A port that no test of this stack has used."""
        return next(self._ports)

    def http_get(self, url: str) -> str | None:
        """The body at `url`; None if nobody listens.

        A server in a container may need a moment: refused connections are tried again for a while.
        """
        command = ["curl", "-s", "-m", "3", url]
        for _ in range(30):
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode == 0 and result.stdout:
                return result.stdout
            time.sleep(0.1)
        return None

    @contextlib.contextmanager
    def outside_server(self, text: str) -> Iterator[str]:
        """An HTTP server on a machine beyond the stack's, which knows no way back to container addresses."""
        outside = Neighbour()
        served = self.base / "outside"
        served.mkdir(exist_ok=True)
        (served / "index.html").write_text(text)
        command = ["nsenter", f"--net={outside.netns}", "busybox", "httpd", "-f", "-h", str(served)]
        try:
            run(outside.netns, "ip", "route", "del", "default")
            server = subprocess.Popen(command)
            try:
                url = f"http://{NEIGHBOUR_ADDRESS}/"
                assert self.http_get(url) == text
                yield url
            finally:
                server.kill()
                server.wait()
        finally:
            outside.close()


def eventually(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Daemons come back behind a supervisor, and only asking tells when: ask until `condition` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def _command(*argv: str, env: dict[str, str] | None = None) -> str:
    result = subprocess.run(argv, capture_output=True, text=True, check=False, env=env, timeout=60 * PACE)
    assert result.returncode == 0, f"{' '.join(argv)}: {result.stderr or result.stdout}"
    return result.stdout
