# SPDX-License-Identifier: Apache-2.0
"""Contract of the runtime: tasks, and the shims that hold them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from google.protobuf.any_pb2 import Any as AnyMessage
    from google.protobuf.timestamp_pb2 import Timestamp

    from orlop.api.types_pb2 import Mount

TASK_EXIT = "/tasks/exit"
TASK_DELETE = "/tasks/delete"


class CreateOptions(NamedTuple):
    """What a task is made from."""

    runtime: str  # a name such as io.containerd.runc.v2, or an absolute path of a shim
    spec: bytes  # config.json, byte for byte
    rootfs: Sequence[Mount] = ()
    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False
    checkpoint: str = ""  # a directory to restore from
    restore: Callable[[str], Awaitable[None]] | None = None  # makes a directory of the bundle to restore from
    options: AnyMessage | None = None  # of the runtime
    sandbox: str = ""  # the sandbox in whose shim it is to be
    address: tuple[str, int] = ("", 0)  # where that shim serves which version of the Task API


class Exit(NamedTuple):
    """How a process ended."""

    pid: int
    status: int
    exited_at: Timestamp


class Task(Protocol):
    """A task: a container's processes, held by a shim, which is a process of its own and outlives the daemon.

    A task is made (`TaskManager.create`), started, ends, and is deleted (`TaskManager.delete`). Its shim publishes
    the events of that life; when the shim dies, the daemon does it in its place.
    """

    @property
    def namespace(self) -> str: ...

    @property
    def id(self) -> str: ...

    @property
    def endpoint(self) -> tuple[str, int]:
        """Where the task's shim serves, and which version of the Task API."""
        ...

    async def call(self, method: str, *, timeout: float | None = None, **fields: Any) -> Any:
        """Make a call of the shim's Task API, whichever version it speaks; the request is built from `fields`.

        Raises what the shim answers, and UnavailableError when the shim is gone.
        """
        ...

    async def wait(self, exec_id: str) -> tuple[int, Timestamp]:
        """The exit status and time of a process, once it has ended, even if by the death of its shim."""
        ...


class TaskManager(Protocol):
    """The tasks of all namespaces."""

    async def create(self, namespace: str, id: str, options: CreateOptions) -> int:
        """Make a bundle, start a shim, and have it make the container: the pid of its waiting process.

        On failure nothing is left behind. Raises AlreadyExistsError, InvalidArgumentError, and the shim's error.
        """
        ...

    def get(self, namespace: str, id: str) -> Task:
        """Raises NotFoundError."""
        ...

    def list(self, namespace: str) -> Sequence[Task]:
        """The tasks of a namespace."""
        ...

    async def delete(self, namespace: str, id: str) -> Exit:
        """Remove a task that has ended, with its shim and its bundle.

        Raises NotFoundError, and FailedPreconditionError while it runs.
        """
        ...
