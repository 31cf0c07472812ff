# SPDX-License-Identifier: Apache-2.0
"""The Runtime driver for any program with the OCI runtime command line: runc, crun, orlop-runc."""

import json
import os
import socket
from typing import TYPE_CHECKING

from orlop.errdefs import (
    FailedPreconditionError,
    InternalError,
    NotFoundError,
    OrlopError,
)
from orlop.shim.loop import Loop
from orlop.shim.reaper import Reaper
from orlop.shim.runtime import Options, Started
from orlop.shim.spawn import spawn

if TYPE_CHECKING:
    from orlop.api.runc_options_pb2 import CheckpointOptions

_CONSOLE_TIMEOUT = 10.0


class BinaryRuntime:
    """Runs `command` for one container, with its log and pid files in the bundle."""

    def __init__(
        self, command: str, container_id: str, bundle: str, options: Options, loop: Loop, reaper: Reaper
    ) -> None:
        self._command = command
        self._id = container_id
        self._bundle = bundle
        self._options = options
        self._loop = loop
        self._reaper = reaper
        self._count = 0

    async def create(self, stdio: tuple[int, int, int], terminal: bool) -> Started:
        """`create --bundle … --pid-file …`, with a console socket for a terminal."""
        flags = ["--bundle", self._bundle]
        if self._options.no_pivot_root:
            flags.append("--no-pivot")
        if self._options.no_new_keyring:
            flags.append("--no-new-keyring")
        pid_file = f"{self._bundle}/init.pid"
        return await self._process("create", flags, [], pid_file, stdio, terminal)

    async def start(self) -> None:
        """`start`."""
        await self._run("start")

    async def exec(self, process: bytes, stdio: tuple[int, int, int], terminal: bool) -> Started:
        """`exec --process FILE --detach --pid-file …`."""
        self._count += 1
        base = f"{self._bundle}/exec-{self._count}"
        with open(f"{base}.json", "wb") as file:
            file.write(process)
        try:
            flags = ["--process", f"{base}.json", "--detach"]
            return await self._process("exec", flags, [], f"{base}.pid", stdio, terminal)
        finally:
            _unlink(f"{base}.json")
            _unlink(f"{base}.pid")

    async def kill(self, signal: int, all_processes: bool) -> None:
        """`kill ID SIGNAL`."""
        await self._run("kill", *(["--all"] if all_processes else []), tail=[str(signal)])

    async def pause(self) -> None:
        """`pause`."""
        await self._run("pause")

    async def resume(self) -> None:
        """`resume`."""
        await self._run("resume")

    async def update(self, resources: bytes) -> None:
        """`update --resources FILE`."""
        self._count += 1
        path = f"{self._bundle}/resources-{self._count}.json"
        with open(path, "wb") as file:
            file.write(resources)
        try:
            await self._run("update", "--resources", path)
        finally:
            _unlink(path)

    async def pids(self) -> list[int]:
        """`ps --format json`."""
        text = await self._run("ps", "--format", "json")
        return [int(pid) for pid in json.loads(text or b"[]") or []]

    async def delete(self, force: bool) -> None:
        """`delete`; a container that the runtime does not know is gone already."""
        try:
            await self._run("delete", *(["--force"] if force else []))
        except NotFoundError:
            return

    async def restore(self, path: str, work_path: str, stdio: tuple[int, int, int], terminal: bool) -> Started:
        """`restore --image-path … --detach`."""
        flags = ["--image-path", path, "--work-path", work_path, "--bundle", self._bundle, "--detach"]
        if self._options.no_pivot_root:
            flags.append("--no-pivot")
        return await self._process("restore", flags, [], f"{self._bundle}/init.pid", stdio, terminal)

    async def checkpoint(self, path: str, options: "CheckpointOptions") -> None:
        """`checkpoint --image-path …`."""
        flags = ["--image-path", path, "--work-path", options.work_path or f"{self._bundle}/criu-work"]
        for name, wanted in (
            ("--leave-running", not options.exit),
            ("--tcp-established", options.open_tcp),
            ("--ext-unix-sk", options.external_unix_sockets),
            ("--shell-job", options.terminal),
            ("--file-locks", options.file_locks),
        ):
            if wanted:
                flags.append(name)
        for namespace in options.empty_namespaces:
            flags += ["--empty-ns", namespace]
        if options.cgroups_mode:
            flags += ["--manage-cgroups-mode", options.cgroups_mode]
        if options.parent_path:
            flags += ["--parent-path", options.parent_path]
        await self._run("checkpoint", *flags)

    async def _process(
        self,
        verb: str,
        flags: list[str],
        tail: list[str],
        pid_file: str,
        stdio: tuple[int, int, int],
        terminal: bool,
    ) -> Started:
        flags += ["--pid-file", pid_file]
        console = _ConsoleSocket(self._loop) if terminal else None
        self._reaper.starting()
        try:
            if console is not None:
                flags += ["--console-socket", console.path]
            await self._run(verb, *flags, tail=tail, stdio=None if terminal else stdio)
            with open(pid_file, encoding="ascii") as file:
                pid = int(file.read())
            return Started(pid, await console.receive() if console is not None else None)
        finally:
            # The caller watches the pid before the loop turns again.
            self._loop.call_soon(self._reaper.started)
            if console is not None:
                console.close()

    async def _run(
        self, verb: str, *flags: str, tail: list[str] | None = None, stdio: tuple[int, int, int] | None = None
    ) -> bytes:
        """Run one command to its end and return its output. Raises OrlopError with the runtime's own words."""
        self._count += 1
        log_path = f"{self._bundle}/log-{self._count}.json"
        argv = [self._command, "--root", self._options.root, "--log", log_path, "--log-format", "json"]
        if self._options.systemd_cgroup:
            argv.append("--systemd-cgroup")
        argv += [verb, *flags, self._id, *(tail or [])]
        output = -1
        fds: dict[int, int] = {}
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            if stdio is None:
                output = os.memfd_create("output")
                fds = {0: null, 1: output, 2: output}
            else:
                fds = dict(enumerate(stdio))
            try:
                pid = spawn(argv, _environment(), fds)
            except OSError as error:
                raise NotFoundError(f"runtime {self._command}: {(error.strerror or '').lower()}") from None
            ended = await self._reaper.wait(pid)
            text = b"" if output < 0 else os.pread(output, 1 << 20, 0)
            if ended.status != 0:
                raise _failure(f"OCI runtime {verb} failed", log_path, text, ended.status)
            return text
        finally:
            os.close(null)
            if output >= 0:
                os.close(output)
            _unlink(log_path)


def _environment() -> dict[str, str]:
    """Ours, without the socket of our own service manager: a runtime would let the container speak to that."""
    return {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}


def _failure(context: str, log_path: str, output: bytes, status: int) -> OrlopError:
    message = ""
    try:
        with open(log_path, encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue  # a runtime that died while it wrote
                if entry.get("level") == "error":
                    message = str(entry.get("msg", ""))
    except FileNotFoundError:
        pass  # it failed before it opened its log
    message = message or output.decode(errors="replace").strip() or f"runtime exit status {status}"
    lowered = message.lower()
    if "does not exist" in lowered and "container" in lowered:
        return NotFoundError(f"{context}: {message}")
    if "process already finished" in lowered or "no such process" in lowered or "process not running" in lowered:
        return NotFoundError("process already finished")
    if "not running" in lowered or "not paused" in lowered:
        return FailedPreconditionError(f"{context}: {message}")
    return InternalError(f"{context}: {message}")


class _ConsoleSocket:
    """Where the runtime sends the master of a terminal."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._directory = f"/tmp/orlop-pty-{os.urandom(8).hex()}"
        os.mkdir(self._directory, 0o700)
        self.path = f"{self._directory}/pty.sock"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen(1)
        self._listener.setblocking(False)

    async def receive(self) -> int:
        """The descriptor that has been sent. Raises InternalError when there is none."""
        try:  # the runtime has ended: what it sent is here already
            connection, _ = self._listener.accept()
        except BlockingIOError:
            raise InternalError("the runtime did not send the terminal") from None
        with connection:
            connection.settimeout(_CONSOLE_TIMEOUT)
            _, fds, _, _ = socket.recv_fds(connection, 4096, 1, socket.MSG_CMSG_CLOEXEC)
        if not fds:
            raise InternalError("the runtime did not send the terminal")
        return fds[0]

    def close(self) -> None:
        """Remove it."""
        self._listener.close()
        _unlink(self.path)
        os.rmdir(self._directory)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return  # the command failed before it made it
