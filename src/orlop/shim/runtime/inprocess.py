# SPDX-License-Identifier: Apache-2.0
"""The Runtime driver on libcontainer, without any program being executed.

Most operations run in a forked helper that ends with it. The init that a helper has made falls to the shim, which
is a subreaper, a moment after the helper has answered. So the shim's loop goes on serving while hooks run or a
control group takes its time to go, and the memory that an operation touches is the helper's: a shim stays small. A
plain start and an exec need no helper, since all that they wait for is what a process of the container says.

What keeps a container or process from starting is an InternalError here, whatever its kind below: clients know the
runtime's failures by their text, and a NOT_FOUND would speak of the task.
"""

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from orlop.errdefs import InternalError, NotFoundError, OrlopError
from orlop.libcontainer import starting
from orlop.libcontainer.journal import set_warning_sink
from orlop.libcontainer.removal import remove_ended
from orlop.shim import log
from orlop.shim.loop import Loop
from orlop.shim.reaper import Reaper
from orlop.shim.runtime import Options, Started
from orlop.shim.runtime.helper import Answer, Creation, EarlyHelper, Facts, create, fork_helper, hear

if TYPE_CHECKING:
    import _socket

    from orlop.api.runc_options_pb2 import CheckpointOptions
    from orlop.libcontainer import Container

T = TypeVar("T")

_PAUSES = (0.001, 0.001, 0.002, 0.004)
"""Seconds between attempts to remove control groups, until a helper takes it over."""


class InProcessRuntime:
    """One container of libcontainer's; its state is that of `orlop-runc --root <options.root>`."""

    def __init__(
        self,
        container_id: str,
        bundle: str,
        options: Options,
        loop: Loop,
        reaper: Reaper,
        early: EarlyHelper | None = None,
    ) -> None:
        self._id = container_id
        self._bundle = bundle
        self._options = options
        self._loop = loop
        self._reaper = reaper
        self._early = early
        self._facts: Facts | None = None
        self._container: Container | None = None  # as the last exec has read it
        set_warning_sink(log.warning)

    async def create(self, stdio: tuple[int, int, int], terminal: bool) -> Started:
        """Container.create."""
        creation = self._creation(terminal)

        def work() -> Answer:
            return create(creation, stdio)

        early = self._early.hand_over(creation, () if terminal else stdio) if self._early is not None else None
        running = self._run(work, stdio) if early is None else hear(self._loop, early)
        answer, console = await self._start(running, "OCI runtime create failed: runc create failed")
        self._facts = Facts(**answer)
        return Started(self._facts.pid, console)

    def _creation(self, terminal: bool) -> Creation:
        options = self._options
        return Creation(
            root=options.root,
            id=self._id,
            bundle=self._bundle,
            terminal=terminal,
            no_pivot=options.no_pivot_root,
            no_new_keyring=options.no_new_keyring,
            systemd_cgroup=options.systemd_cgroup,
        )

    async def restore(self, path: str, work_path: str, stdio: tuple[int, int, int], terminal: bool) -> Started:
        """Container.restore."""
        if self._early is not None:
            self._early.close()
        creation = self._creation(terminal)

        def work() -> Answer:
            return create(creation, stdio, images=(path, work_path))

        running = self._run(work, stdio)
        answer, console = await self._start(running, "OCI runtime restore failed: runc did not restore")
        self._facts = Facts(**answer)
        return Started(self._facts.pid, console)

    async def start(self) -> None:
        """Container.start; without a helper unless there are hooks to run, since all it takes is to ask init."""

        def work() -> Answer:
            self._load().start()
            return {}, None

        try:
            facts = self._facts
            sock = None if facts is None or facts.poststart else self._ask()
            if facts is None or sock is None:
                await self._run(work)
            else:
                await self._loop.readable(sock.fileno())
                starting.answer(sock, facts.executable)
        except OrlopError as error:
            raise InternalError(f"OCI runtime start failed: {error}") from None

    def _ask(self) -> "_socket.socket | None":
        """The socket that init will answer on; None for a container that cannot be started, whatever is wrong."""
        try:
            return starting.ask(f"{self._options.root}/{self._id}")
        except OrlopError:
            return None

    async def exec(self, process: bytes, stdio: tuple[int, int, int], terminal: bool) -> Started:
        """Container.exec, without a helper."""
        return await self._start(self._exec(process, stdio, terminal), "OCI runtime exec failed: exec failed")

    async def _exec(self, process: bytes, stdio: tuple[int, int, int], terminal: bool) -> Started:
        from orlop.codec import decode
        from orlop.libcontainer import ExecOptions, Stdio
        from orlop.oci.runtime import Process

        spec = decode(process, Process)
        spec.terminal = terminal
        if self._container is None:
            self._container = self._load()
        steps = self._container.exec_in_steps(spec, ExecOptions(stdio=None if terminal else Stdio(*stdio)))
        while True:
            try:
                waits_for = next(steps)
            except StopIteration as end:
                return Started(end.value.pid, end.value.console)
            await self._loop.readable(waits_for)

    async def kill(self, signal: int, all_processes: bool) -> None:
        """Container.signal."""

        def work() -> Answer:
            self._load().signal(signal, all=all_processes)
            return {}, None

        await self._run(work)

    async def pause(self) -> None:
        """Container.pause."""

        def work() -> Answer:
            self._load().pause()
            return {}, None

        await self._run(work)

    async def resume(self) -> None:
        """Container.resume."""

        def work() -> Answer:
            self._load().resume()
            return {}, None

        await self._run(work)

    async def update(self, resources: bytes) -> None:
        """Container.update."""

        def work() -> Answer:
            from orlop.codec import decode
            from orlop.oci.runtime import Resources

            self._load().update(decode(resources, Resources))
            return {}, None

        self._forget()
        await self._run(work)

    async def pids(self) -> list[int]:
        """Container.pids."""

        def work() -> Answer:
            return {"pids": self._load().pids()}, None

        answer, _ = await self._run(work)
        return list(answer["pids"])

    async def delete(self, force: bool) -> None:
        """Container.delete; fine when libcontainer does not know the container.

        Without a helper where there are only directories to remove, as of nearly every container.
        """
        self._forget()

        def work() -> Answer:
            self._load().delete(force)
            return {}, None

        if not force and self._facts is not None and self._facts.plain_end and await self._remove(self._facts):
            return
        try:
            await self._run(work)
        except NotFoundError:
            return

    async def _remove(self, facts: Facts) -> bool:
        """Remove the directories of a container that has ended; False when they are still in use."""
        directory = f"{self._options.root}/{self._id}"
        try:
            for pause in _PAUSES:
                if remove_ended(directory, facts.cgroup_paths):
                    return True
                # Version 1 refuses until the kernel has done with the process that we have collected, and has no
                # event for that (see cgroups.Manager.destroy).
                await self._loop.sleep(pause)
        except OSError as error:
            log.debug(f"{directory} is not removed the short way: {error}")
        return False

    async def checkpoint(self, path: str, options: "CheckpointOptions") -> None:
        """Container.checkpoint."""

        def work() -> Answer:
            from orlop.libcontainer import CheckpointOptions

            wanted = CheckpointOptions(
                image_path=path,
                work_path=options.work_path or f"{self._bundle}/criu-work",
                parent_path=options.parent_path,
                leave_running=not options.exit,
                tcp_established=options.open_tcp,
                ext_unix_sk=options.external_unix_sockets,
                shell_job=options.terminal,
                file_locks=options.file_locks,
                empty_ns=list(options.empty_namespaces),
                manage_cgroups_mode=options.cgroups_mode,
            )
            self._load().checkpoint(wanted)
            return {}, None

        await self._run(work)

    def _load(self) -> "Container":
        from orlop.libcontainer import Container

        return Container.load(self._options.root, self._id)

    def _forget(self) -> None:
        """Let go of what execs have read."""
        if self._container is not None:
            self._container.close()
            self._container = None

    async def _start(self, running: "Coroutine[Any, None, T]", context: str) -> T:
        self._reaper.starting()
        try:
            return await running
        except OrlopError as error:
            raise InternalError(f"{context}: {error}") from None
        finally:
            # The caller watches the pid before the loop turns again.
            self._loop.call_soon(self._reaper.started)

    async def _run(self, work: Callable[[], Answer], keep: tuple[int, ...] = ()) -> Answer:
        """Run `work` in a helper, which has the descriptors `keep`. Raises the OrlopError that it raises."""
        _, channel = fork_helper(lambda _channel: work(), keep)
        return await hear(self._loop, channel)
