# SPDX-License-Identifier: Apache-2.0
"""Cells with docker's command line: dockerd and containerd, each Debian's or ours."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from typing import Protocol

from support import images
from support.containerd import Result, run
from support.swap.engine import MEMORY_LIMIT, PAUSED, RUNNING, STOPPED, Engine
from support.terminal import Terminal

_STATUS = {"running": RUNNING, "paused": PAUSED, "exited": STOPPED}


class Service(Protocol):
    """The daemons that a client of Docker needs: how to find them, and how to let them die."""

    def environment(self) -> dict[str, str]:
        """Variables by which a client finds it."""

    def kill_all(self) -> None:
        """Let every daemon above the shim die."""

    def start_all(self) -> None:
        """Start them again."""

    def restart_containerd(self) -> None:
        """Let the daemon in the middle die, and start it again."""

    def remove(self) -> None:
        """Stop everything and remove all files; asserts that nothing is left."""


class DockerLike(Engine):
    """`client` is a command line like docker's; `flags` go to each `run`."""

    top = ("-o", "pid,comm")
    """What makes `top` show host pids first."""

    def __init__(self, client: Sequence[str], service: Service, flags: Sequence[str] = ()) -> None:
        self.service = service
        self._client = list(client)
        self._flags = ["--network", "none", *flags]
        try:
            self("load", "-i", images.archive("busybox")).ok()
        except BaseException:
            service.remove()
            raise

    def __call__(self, *arguments: str, **options: object) -> Result:
        streams = {} if "input" in options else {"stdin": subprocess.DEVNULL}
        return run([*self._client, *arguments], env=self.service.environment(), timeout=60, **streams, **options)

    def close(self) -> None:
        ids = self("ps", "-aq").out.split()
        if ids:  # of a failed test
            self("rm", "-f", *ids)
        self("rmi", "-f", "busybox")
        self.service.remove()
        assert not ids, f"containers left: {ids}"

    def run(self, script: str, text: str | None = None) -> Result:
        flags = [] if text is None else ["-i"]
        options = {} if text is None else {"input": text}
        return self("run", "--rm", *flags, *self._flags, "busybox", "sh", "-c", script, **options)

    def run_program(self, program: str) -> Result:
        return self("run", "--rm", *self._flags, "busybox", program)

    def start(self, name: str, script: str) -> None:
        self._start(name, script)

    def _start(self, name: str, script: str, *flags: str) -> None:
        self("run", "-d", "--name", name, *self._flags, *flags, "busybox", "sh", "-c", script).ok()

    def run_out_of_memory(self, name: str, script: str) -> tuple[int, bool]:
        self._start(name, script, "--memory", MEMORY_LIMIT)
        self("wait", name).ok()
        told = self("inspect", "-f", "{{.State.OOMKilled}}", name).ok().strip() == "true"
        return self.end(name), told

    def exec(self, name: str, script: str) -> Result:
        return self("exec", name, "sh", "-c", script)

    def exec_at_terminal(self, name: str) -> Terminal:
        return Terminal([*self._client, "exec", "-it", name, "sh"], env=self.service.environment())

    def logs(self, name: str) -> str:
        return self("logs", name).ok()

    def kill(self, name: str, signal: str) -> None:
        self("kill", "-s", signal, name).ok()

    def pause(self, name: str) -> None:
        self("pause", name).ok()

    def resume(self, name: str) -> None:
        self("unpause", name).ok()

    def status(self, name: str) -> str:
        return _STATUS[self("inspect", "-f", "{{.State.Status}}", name).ok().strip()]

    def pid(self, name: str) -> int:
        return int(self("inspect", "-f", "{{.State.Pid}}", name).ok())

    def pids(self, name: str) -> list[int]:
        return [int(line.split()[0]) for line in self("top", name, *self.top).ok().splitlines()[1:]]

    def end(self, name: str) -> int:
        status = int(self("wait", name).ok())
        self("rm", name).ok()
        return status

    @contextlib.contextmanager
    def nobody_above(self) -> Iterator[None]:
        self.service.kill_all()
        yield
        self.service.start_all()
