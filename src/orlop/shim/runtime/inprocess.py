# SPDX-License-Identifier: Apache-2.0
"""The Runtime driver on libcontainer: the shim forks the container's processes itself.

What keeps a container or process from starting is an InternalError here, whatever its kind below: clients know the
runtime's failures by their text, and a NOT_FOUND would speak of the task.
"""

from typing import TYPE_CHECKING

from orlop.errdefs import (
    FailedPreconditionError,
    InternalError,
    NotFoundError,
    NotImplementedByUsError,
    OrlopError,
)
from orlop.libcontainer import Container, CreateOptions, ExecOptions, Stdio
from orlop.libcontainer.journal import set_warning_sink
from orlop.shim import log
from orlop.shim.runtime import Options, Started

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from orlop.oci.runtime import Process, Resources, Spec

set_warning_sink(log.warning)


class InProcessRuntime:
    """One container of libcontainer's; its state is that of `orlop-runc --root <options.root>`."""

    def __init__(self, container_id: str, bundle: str, options: Options, spec: "Spec | None") -> None:
        self._id = container_id
        self._bundle = bundle
        self._options = options
        self._spec = spec
        self._container: Container | None = None

    async def create(self, stdio: tuple[int, int, int], terminal: bool) -> Started:
        """Container.create."""
        assert self._spec is not None and self._spec.process is not None
        if terminal != self._spec.process.terminal:
            raise FailedPreconditionError("terminal: the task and the process in config.json differ")
        options = CreateOptions(
            stdio=None if terminal else Stdio(*stdio),
            pid_file=f"{self._bundle}/init.pid",
            no_pivot=self._options.no_pivot_root,
            no_new_keyring=self._options.no_new_keyring,
            systemd_cgroup=self._options.systemd_cgroup,
        )
        try:
            container = Container.create(self._options.root, self._id, self._bundle, self._spec, options)
        except OrlopError as error:
            raise InternalError(f"OCI runtime create failed: runc create failed: {error}") from error
        self._container = container
        self._spec = None
        console, container.console = container.console, None
        return Started(container.init_pid, console)

    async def start(self) -> None:
        """Container.start."""
        try:
            self._known().start()
        except OrlopError as error:
            raise InternalError(f"OCI runtime start failed: {error}") from error

    async def exec(self, exec_id: str, process: "Process", raw: bytes, stdio: tuple[int, int, int]) -> Started:
        """Container.exec."""
        options = ExecOptions(stdio=None if process.terminal else Stdio(*stdio))
        try:
            result = self._known().exec(process, options)
        except OrlopError as error:
            raise InternalError(f"OCI runtime exec failed: exec failed: {error}") from error
        return Started(result.pid, result.console)

    async def kill(self, signal: int, all_processes: bool) -> None:
        """Container.signal."""
        self._known().signal(signal, all=all_processes)

    async def pause(self) -> None:
        """Container.pause."""
        self._known().pause()

    async def resume(self) -> None:
        """Container.resume."""
        self._known().resume()

    async def update(self, resources: "Resources", raw: bytes) -> None:
        """Container.update."""
        self._known().update(resources)

    async def pids(self) -> list[int]:
        """Container.pids."""
        return self._known().pids()

    async def delete(self, force: bool) -> None:
        """Container.delete; fine when libcontainer does not know the container."""
        try:
            self._known().delete(force)
        except NotFoundError:
            return

    async def checkpoint(self, path: str, options: "Message | None") -> None:
        """Not offered: CRIU is out of scope."""
        raise NotImplementedByUsError("checkpoint is not supported")

    def _known(self) -> Container:
        if self._container is None:
            self._container = Container.load(self._options.root, self._id)
        return self._container
