# SPDX-License-Identifier: Apache-2.0
"""What a cell of the swap matrix can be asked, whatever its client's command line looks like."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator

from support.containerd import Result
from support.terminal import Terminal

MEMORY_LIMIT = "16777216"
RUNNING, PAUSED, STOPPED = "running", "paused", "stopped"


class Engine(ABC):
    """A stack of layers with a client on top; containers are busybox's, without a network."""

    ends_input = True
    """Whether the end of a client's input always reaches the container."""
    missing_program: tuple[int, ...] = (1, 127)
    """Exit statuses of a run of a program that is not there."""
    tells_oom = True
    """Whether an out-of-memory kill can be told from any other here."""
    keeps_output = True
    """Whether what a container writes at its end, when nobody is above its shim, can be read later."""
    on_containerd = True
    """Whether there is a containerd in it, which has its words for a shim's errors."""
    watches_shim = True
    """Whether the end of the shim is noticed, and ends the container."""

    @abstractmethod
    def close(self) -> None:
        """Remove everything, and assert that nothing is left."""

    @abstractmethod
    def run(self, script: str, text: str | None = None) -> Result:
        """Run a shell script in a container of its own to its end, with `text` as its input."""

    @abstractmethod
    def run_program(self, program: str) -> Result:
        """As `run`, without a shell."""

    @abstractmethod
    def start(self, name: str, script: str) -> None:
        """Run a shell script in a container in the background."""

    @abstractmethod
    def run_out_of_memory(self, name: str, script: str) -> tuple[int, bool]:
        """Run a script under MEMORY_LIMIT: its exit status, and whether an out-of-memory kill is told of it."""

    @abstractmethod
    def exec(self, name: str, script: str) -> Result:
        """Run a script in a container that is there."""

    @abstractmethod
    def exec_at_terminal(self, name: str) -> Terminal:
        """A shell at a terminal in a container that is there."""

    @abstractmethod
    def logs(self, name: str) -> str:
        """The container's output so far."""

    @abstractmethod
    def kill(self, name: str, signal: str) -> None:
        """Send a signal by name to a container's init."""

    @abstractmethod
    def pause(self, name: str) -> None:
        """Freeze a container."""

    @abstractmethod
    def resume(self, name: str) -> None:
        """Thaw a container."""

    @abstractmethod
    def status(self, name: str) -> str:
        """RUNNING, PAUSED or STOPPED (also when nothing is known of its processes any more)."""

    @abstractmethod
    def pid(self, name: str) -> int:
        """The container's init in the machine's pid namespace."""

    @abstractmethod
    def pids(self, name: str) -> list[int]:
        """Every process in a container."""

    @abstractmethod
    def end(self, name: str) -> int:
        """Wait until a container has exited, and remove it: the exit status."""

    @contextlib.contextmanager
    @abstractmethod
    def nobody_above(self) -> Iterator[None]:
        """Every daemon above the container's shim is killed; at the end of the block they are back."""
        yield
