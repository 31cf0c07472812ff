# SPDX-License-Identifier: Apache-2.0
"""The Runtime seam: what the shim needs of an OCI runtime, whether it is a library or a program.

Life of a container: `create` makes it with its init blocked; `start` lets init run the user's program; `exec` adds
processes; `delete` removes what is left once init has exited. Every process becomes a child of the shim, which
collects its exit itself: a runtime never waits for one.
"""

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from orlop.api.runc_options_pb2 import CheckpointOptions


class Options(NamedTuple):
    """What `containerd.runc.v1.Options` says to a runtime."""

    root: str
    no_pivot_root: bool = False
    no_new_keyring: bool = False
    systemd_cgroup: bool = False


class Started(NamedTuple):
    """A process that exists now; `console` is the master of its terminal, which the caller owns."""

    pid: int
    console: int | None


class Runtime(Protocol):
    """One container's runtime. Methods raise OrlopError whose text is the runtime's own.

    `stdio` are the process's descriptors 0, 1 and 2, which stay the caller's; with `terminal` they are not used.
    """

    async def create(self, stdio: tuple[int, int, int], terminal: bool) -> Started:
        """Make the container of the bundle, with its init blocked before the user's program."""

    async def start(self) -> None:
        """Let init execute the user's program."""

    async def exec(self, process: bytes, stdio: tuple[int, int, int], terminal: bool) -> Started:
        """Start another process in the container; `process` is the JSON of an OCI Process."""

    async def kill(self, signal: int, all_processes: bool) -> None:
        """Send a signal to init, or to every process."""

    async def pause(self) -> None:
        """Freeze every process."""

    async def resume(self) -> None:
        """Thaw every process."""

    async def update(self, resources: bytes) -> None:
        """Change resource limits; `resources` is the JSON of OCI LinuxResources."""

    async def pids(self) -> list[int]:
        """Every process in the container, in the shim's pid namespace."""

    async def delete(self, force: bool) -> None:
        """Remove the container's state and cgroups; with `force` kill it first. Fine when it is gone already."""

    async def restore(self, path: str, work_path: str, stdio: tuple[int, int, int], terminal: bool) -> Started:
        """Make the container of the bundle from a checkpoint in `path`, running; CRIU logs to `work_path`."""

    async def checkpoint(self, path: str, options: "CheckpointOptions") -> None:
        """Write the container's state to the directory `path` with CRIU; it goes on unless `options` say exit."""
