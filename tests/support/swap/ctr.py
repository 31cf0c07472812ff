# SPDX-License-Identifier: Apache-2.0
"""Cells with ctr: Debian's or ours, over containerd, Debian's or ours, over a shim and its runtime."""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence

from support import images
from support.containerd import CTR, Daemon, Result, run, wait_until
from support.swap.engine import MEMORY_LIMIT, PAUSED, RUNNING, STOPPED, Engine
from support.terminal import Terminal

IMAGE = "docker.io/library/busybox:latest"
BIN = os.path.dirname(sys.executable)
ORLOP_CTR = [sys.executable, "-P", "-m", "orlop.ctr.main"]
_STATUS = {"RUNNING": RUNNING, "PAUSED": PAUSED, "STOPPED": STOPPED}


class Ctr(Engine):
    """`client` and `containerd` are `orlop` or `original`; `flags` of `ctr run` choose shim and runtime."""

    def __init__(
        self, client: str, containerd: str, flags: Sequence[str], environment: dict[str, str] | None = None
    ) -> None:
        # Both look for shims in PATH.
        self._environment = {"PATH": f"{BIN}:{os.environ['PATH']}", **(environment or {})}
        self.daemon = Daemon(containerd).start(environment=self._environment)
        program = ORLOP_CTR if client == "orlop" else [CTR]
        self.base = [*program, "-a", self.daemon.address, "-n", self.daemon.namespace]
        self._flags = list(flags)
        # Debian's ctr may close the input before Debian's shim has opened it: then it stays open.
        self.ends_input = client == "orlop" or "io.containerd.runc.v2" not in flags
        self._execs = 0
        try:
            self("images", "import", images.archive("busybox")).ok()
        except BaseException:
            self.daemon.remove()
            raise

    def __call__(self, *arguments: str, **options: object) -> Result:
        return run([*self.base, *arguments], **options)

    def close(self) -> None:
        self("images", "rm", "--sync", IMAGE)
        self.daemon.remove()

    def run(self, script: str, text: str | None = None) -> Result:
        streams = {"stdin": subprocess.DEVNULL} if text is None else {"input": text}
        return self("run", "--rm", *self._flags, IMAGE, "r", "sh", "-c", script, **streams)

    def run_program(self, program: str) -> Result:
        return self("run", "--rm", *self._flags, IMAGE, "r", program, stdin=subprocess.DEVNULL)

    def start(self, name: str, script: str, log: str = "") -> None:
        self._start(name, script, log=log)

    def _start(self, name: str, script: str, *flags: str, log: str = "") -> None:
        log = log or f"file://{self.daemon.base}/{name}.log"
        self("run", "-d", "--log-uri", log, *flags, *self._flags, IMAGE, name, "sh", "-c", script).ok()

    def run_out_of_memory(self, name: str, script: str) -> tuple[int, bool]:
        with self._events() as seen:
            self._start(name, script, "--memory-limit", MEMORY_LIMIT)
            status = self.end(name)
            return status, seen(f"{self.daemon.namespace} /tasks/oom")

    @contextlib.contextmanager
    def _events(self) -> Iterator[object]:
        """Watch events; what is given tells whether one with these words comes before the container is removed."""
        with subprocess.Popen([*self.base, "events"], stdout=subprocess.PIPE, text=True) as watching:
            assert watching.stdout is not None
            try:
                # Neither program says when it has subscribed: make events until one is seen.
                for number in range(100):
                    self("namespaces", "create", f"seen{number}").ok()
                    self("namespaces", "rm", f"seen{number}").ok()
                    if select.select([watching.stdout], [], [], 0.05)[0]:
                        break

                def seen(words: str) -> bool:
                    for line in watching.stdout:  # type: ignore[union-attr]
                        if words in line:
                            return True
                        if "/containers/delete" in line:
                            break
                    return False

                yield seen
            finally:
                watching.kill()

    def exec(self, name: str, script: str) -> Result:
        return self(*self._exec(name), "sh", "-c", script, stdin=subprocess.DEVNULL)

    def exec_at_terminal(self, name: str) -> Terminal:
        return Terminal([*self.base, *self._exec(name, "-t"), "sh"])

    def _exec(self, name: str, *flags: str) -> list[str]:
        self._execs += 1
        return ["tasks", "exec", *flags, "--exec-id", f"e{self._execs}", name]

    def logs(self, name: str) -> str:
        with open(f"{self.daemon.base}/{name}.log", encoding="utf-8") as file:
            return file.read()

    def kill(self, name: str, signal: str) -> None:
        self("tasks", "kill", "-s", signal, name).ok()

    def pause(self, name: str) -> None:
        self("tasks", "pause", name).ok()

    def resume(self, name: str) -> None:
        self("tasks", "resume", name).ok()

    def status(self, name: str) -> str:
        task = self._task(name)
        return _STATUS.get(task[2], "") if task else STOPPED

    def pid(self, name: str) -> int:
        return int(self._task(name)[1])

    def _task(self, name: str) -> list[str]:
        rows = [line.split() for line in self("tasks", "ls").ok().splitlines()[1:]]
        return next((row for row in rows if row[0] == name), [])

    def pids(self, name: str) -> list[int]:
        return [int(line.split()[0]) for line in self("tasks", "ps", name).ok().splitlines()[1:]]

    def end(self, name: str) -> int:
        wait_until(lambda: self.status(name) == STOPPED)
        removed = self("tasks", "rm", name)
        self("containers", "rm", name).ok()
        # The status is zero when nothing is said of it.
        found = re.search(r"exit code (\d+)", removed.err)
        return int(found[1]) if found else 0

    @contextlib.contextmanager
    def nobody_above(self) -> Iterator[None]:
        self.daemon.kill()
        yield
        self.daemon.start(environment=self._environment)
