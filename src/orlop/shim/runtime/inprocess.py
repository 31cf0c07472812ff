# SPDX-License-Identifier: Apache-2.0
"""The Runtime driver on libcontainer, without any program being executed.

Each operation but a plain start runs in a forked helper that ends with it. What it makes (init, or an exec) falls
to the shim, which is a subreaper, a moment after the helper has answered. So the shim's loop goes on serving while
hooks run or a control group takes its time to go, and the memory that an operation touches is the helper's: a shim
stays small.

What keeps a container or process from starting is an InternalError here, whatever its kind below: clients know the
runtime's failures by their text, and a NOT_FOUND would speak of the task.
"""

import gc
import json
import os
import signal as signals
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from orlop import errdefs
from orlop.errdefs import InternalError, NotFoundError, NotImplementedByUsError, OrlopError
from orlop.libcontainer import starting
from orlop.shim import log
from orlop.shim.loop import Loop
from orlop.shim.reaper import Reaper
from orlop.shim.runtime import Options, Started
from orlop.unix.process import close_range

if TYPE_CHECKING:
    import _socket

    from google.protobuf.message import Message

    from orlop.libcontainer import Container

_ANSWER = 1 << 17

Answer = tuple[dict[str, Any], int | None]
"""What a helper sends back: JSON, and perhaps a descriptor."""


class InProcessRuntime:
    """One container of libcontainer's; its state is that of `orlop-runc --root <options.root>`."""

    def __init__(self, container_id: str, bundle: str, options: Options, loop: Loop, reaper: Reaper) -> None:
        self._id = container_id
        self._bundle = bundle
        self._options = options
        self._loop = loop
        self._reaper = reaper
        self._executable = ""
        self._start_in_helper = True

    async def create(self, stdio: tuple[int, int, int], terminal: bool) -> Started:
        """Container.create."""

        def work() -> Answer:
            from orlop.libcontainer import Container, CreateOptions, Stdio
            from orlop.oci.runtime import decode_spec

            with open(f"{self._bundle}/config.json", "rb", buffering=0) as file:
                spec = decode_spec(file.read())
            if spec.process is not None and spec.process.terminal != terminal:
                raise InternalError("terminal: the task and the process in config.json differ")
            options = CreateOptions(
                stdio=None if terminal else Stdio(*stdio),
                pid_file=f"{self._bundle}/init.pid",
                no_pivot=self._options.no_pivot_root,
                no_new_keyring=self._options.no_new_keyring,
                systemd_cgroup=self._options.systemd_cgroup,
            )
            container = Container.create(self._options.root, self._id, self._bundle, spec, options)
            answer = {
                "pid": container.init_pid,
                "executable": spec.process.args[0] if spec.process is not None else "",
                "poststart": spec.hooks is not None and bool(spec.hooks.poststart),
            }
            return answer, container.console

        answer, console = await self._start(work, stdio, "OCI runtime create failed: runc create failed")
        self._executable, self._start_in_helper = answer["executable"], answer["poststart"]
        return Started(answer["pid"], console)

    async def start(self) -> None:
        """Container.start; without a helper unless there are hooks to run, since all it takes is to ask init."""

        def work() -> Answer:
            self._load().start()
            return {}, None

        try:
            sock = None if self._start_in_helper else self._ask()
            if sock is None:
                await self._run(work)
            else:
                await self._loop.readable(sock.fileno())
                starting.answer(sock, self._executable)
        except OrlopError as error:
            raise InternalError(f"OCI runtime start failed: {error}") from None

    def _ask(self) -> "_socket.socket | None":
        """The socket that init will answer on; None for a container that cannot be started, whatever is wrong."""
        try:
            return starting.ask(f"{self._options.root}/{self._id}")
        except OrlopError:
            return None

    async def exec(self, process: bytes, stdio: tuple[int, int, int], terminal: bool) -> Started:
        """Container.exec."""

        def work() -> Answer:
            from orlop.codec import decode
            from orlop.libcontainer import ExecOptions, Stdio
            from orlop.oci.runtime import Process

            spec = decode(process, Process)
            spec.terminal = terminal
            options = ExecOptions(stdio=None if terminal else Stdio(*stdio))
            result = self._load().exec(spec, options)
            return {"pid": result.pid}, result.console

        answer, console = await self._start(work, stdio, "OCI runtime exec failed: exec failed")
        return Started(answer["pid"], console)

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

        await self._run(work)

    async def pids(self) -> list[int]:
        """Container.pids."""

        def work() -> Answer:
            return {"pids": self._load().pids()}, None

        answer, _ = await self._run(work)
        return list(answer["pids"])

    async def delete(self, force: bool) -> None:
        """Container.delete; fine when libcontainer does not know the container."""

        def work() -> Answer:
            self._load().delete(force)
            return {}, None

        try:
            await self._run(work)
        except NotFoundError:
            return

    async def checkpoint(self, path: str, options: "Message | None") -> None:
        """Not offered: CRIU is out of scope."""
        raise NotImplementedByUsError("checkpoint is not supported")

    def _load(self) -> "Container":
        from orlop.libcontainer import Container

        return Container.load(self._options.root, self._id)

    async def _start(self, work: Callable[[], Answer], stdio: tuple[int, int, int], context: str) -> Answer:
        self._reaper.starting()
        try:
            return await self._run(work, stdio)
        except OrlopError as error:
            raise InternalError(f"{context}: {error}") from None
        finally:
            # The caller watches the pid before the loop turns again.
            self._loop.call_soon(self._reaper.started)

    async def _run(self, work: Callable[[], Answer], keep: tuple[int, ...] = ()) -> Answer:
        """Run `work` in a helper, which has the descriptors `keep`. Raises the OrlopError that it raises."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            pid = os.fork()
            if pid == 0:
                _help(theirs, work, keep)
            theirs.close()
            # Not for its exit, which takes as long again: it has nothing more to do, and the reaper collects it.
            await self._loop.readable(ours.fileno())
            packet, fds, _, _ = socket.recv_fds(ours, _ANSWER, 1, socket.MSG_CMSG_CLOEXEC)
        if not packet:
            raise InternalError("the runtime's helper died")
        answer = json.loads(packet)
        if "error" in answer:
            raise getattr(errdefs, answer["kind"], InternalError)(answer["error"])
        return answer, fds[0] if fds else None


def _help(channel: socket.socket, work: Callable[[], Answer], keep: tuple[int, ...]) -> NoReturn:
    """Be the helper: never returns into the shim's code."""
    status = 1
    gc.disable()  # it ends too soon for that to matter
    try:
        # A helper that hangs must not keep the shim's connections open when the shim is gone.
        first = 3
        for kept in sorted({kept for kept in (*keep, channel.fileno()) if kept >= first}):
            if kept > first:
                close_range(first, kept - 1)
            first = kept + 1
        close_range(first)
        from orlop.libcontainer.journal import set_warning_sink

        set_warning_sink(log.warning)
        # A helper that outlives a killed shim finishes what it has begun; signals are for the shim.
        signals.pthread_sigmask(signals.SIG_BLOCK, (signals.SIGTERM, signals.SIGINT))
        try:
            answer, fd = work()
        except OrlopError as error:
            answer, fd = {"error": str(error), "kind": type(error).__name__}, None
        except Exception as error:  # noqa: BLE001 - the edge of the process
            log.exception("runtime", error)
            answer, fd = {"error": f"{type(error).__name__}: {error}", "kind": "InternalError"}, None
        packet = json.dumps(answer).encode()
        if fd is None:
            channel.send(packet)
        else:
            socket.send_fds(channel, [packet], [fd])
        status = 0
    finally:
        os._exit(status)
