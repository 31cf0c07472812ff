# SPDX-License-Identifier: Apache-2.0
"""Run an extra process in a container."""

import asyncio
import contextlib
import os
import secrets
from typing import NamedTuple

import msgspec

from orlop import codec
from orlop.containerd.client import Client, typeurl
from orlop.dockerd import rootfs
from orlop.dockerd.containers import attach
from orlop.dockerd.containers.attach_point import Stream, Wanted
from orlop.dockerd.containers.container import Container, Exec
from orlop.dockerd.containers.escape import parse_keys
from orlop.dockerd.containers.exec_process import exec_process
from orlop.dockerd.containers.model import ExecRecord
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.containers.start_errors import EXIT_CANNOT_INVOKE, EXIT_UNKNOWN, classify
from orlop.dockerd.containers.streams import Streams
from orlop.dockerd.spec import Host
from orlop.engine.types import ExecConfig
from orlop.errdefs import ConflictError, InvalidArgumentError, NotFoundError, OrlopError
from orlop.oci.runtime import Process, User

_KEPT = 64
_START_SECONDS = 10
"""How long a resize waits for the start of its exec, as in Docker."""
"""Ended execs of one container that can still be inspected."""


class ExecStart(NamedTuple):
    """The body of POST /exec/{id}/start; `console_size` is rows and columns."""

    detach: bool = False
    tty: bool = False
    console_size: list[int] | None = None


class _SpecProcess(msgspec.Struct):
    process: Process


class Execs:
    """The use cases around execs."""

    def __init__(self, registry: Registry, client: Client, streams: Streams, host: Host) -> None:
        self._registry = registry
        self._client = client
        self._streams = streams
        self._capabilities = host.capabilities

    async def create(self, reference: str, config: ExecConfig) -> str:
        """Note down what to run; the answer is its id.

        Raises NotFoundError, ConflictError when the container does not run, InvalidArgumentError.
        """
        if not config.cmd:
            raise InvalidArgumentError("No exec command specified")
        container = self._active(reference)
        keys = config.detach_keys
        parse_keys(keys)
        if config.user:
            self._user(container, config.user)
        self._forget_old(container)
        record = ExecRecord(
            id=secrets.token_hex(32),
            container_id=container.id,
            args=config.cmd,
            env=config.env,
            user=config.user,
            working_dir=config.working_dir,
            tty=config.tty,
            privileged=config.privileged,
            open_stdin=config.attach_stdin,
            open_stdout=config.attach_stdout,
            open_stderr=config.attach_stderr,
            detach_keys=keys,
            console_size=config.console_size,
        )
        self._registry.add_exec(container, record)
        command = " ".join(config.cmd)
        self._registry.publish(container, f"exec_create: {command}", execID=record.id)
        return record.id

    def check(self, exec_id: str) -> bool:
        """Whether it has a terminal. Raises NotFoundError, ConflictError when it cannot be started (any more)."""
        container, extra = self._registry.exec(exec_id)
        if extra.record.exit_code is not None:
            raise ConflictError(f"exec command {exec_id} has already run")
        if extra.record.started:
            raise ConflictError(f"exec command {exec_id} is already running")
        self._active(container.id)
        return extra.record.tty

    async def start(self, exec_id: str, request: ExecStart, client: attach.Client | None) -> None:
        """Run it; with a client, serve it until the process has ended or the client is gone.

        Raises what `check` raises, and what made the start fail.
        """
        self.check(exec_id)
        container, extra = self._registry.exec(exec_id)
        record = extra.record
        record.started = record.running = True
        extra.begun.set()
        if request.console_size and request.tty:
            record.console_size = request.console_size
        self._registry.publish(container, f"exec_start: {' '.join(record.args)}", execID=exec_id)
        starting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        extra.starting = starting
        try:
            stream = await self._run(container, extra, client is not None)
        except BaseException as error:
            self._failed(extra, error)
            if isinstance(error, OrlopError):
                raise classify(error)[1] from None
            raise
        finally:
            extra.starting = None
            starting.set_result(None)
        if client is None or stream is None:
            return
        keys = parse_keys(record.detach_keys) if record.tty and record.open_stdin else b""
        if await attach.serve(stream, client, tty=record.tty and request.tty, stdin=record.open_stdin, keys=keys):
            self._registry.publish(container, "exec_detach", execID=exec_id)
            return
        if not client.left.done():
            await extra.ended.wait()

    async def resize(self, exec_id: str, height: int, width: int) -> None:
        """Set the size of its terminal; what is not started yet is waited for, as clients ask for both at once.

        Raises NotFoundError, ConflictError when it does not run.
        """
        container, extra = self._registry.exec(exec_id)
        if not extra.record.started:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(extra.begun.wait(), _START_SECONDS)
        if extra.starting is not None:
            await asyncio.wait({extra.starting})
        if not extra.record.running:
            raise ConflictError(f"exec process {exec_id} is not running")
        await self._client.tasks.resize_pty(container.id, width=width, height=height, exec_id=exec_id)

    def get(self, exec_id: str) -> ExecRecord:
        """Raises NotFoundError."""
        return self._registry.exec(exec_id)[1].record

    # -- the steps

    def _active(self, reference: str) -> Container:
        container = self._registry.get(reference)
        container.check_running()
        if container.record.state.paused:
            raise ConflictError(f"Container {reference} is paused, unpause the container before exec")
        return container

    async def _run(self, container: Container, extra: Exec, attached: bool) -> Stream | None:
        record = extra.record
        base = await self._base(container)
        user = self._user(container, record.user) if record.user else base.user
        process = exec_process(base, container.record, record, user, self._capabilities)
        source, stdio = await self._streams.exec(container.record, record)
        await extra.attach.open(source)
        await self._client.tasks.exec(
            container.id,
            record.id,
            typeurl.pack_json(typeurl.PROCESS, process),
            stdin=stdio.stdin,
            stdout=stdio.stdout,
            stderr=stdio.stderr,
            terminal=stdio.terminal,
        )
        stream = None
        try:
            if attached:
                wanted = Wanted(record.open_stdin, record.open_stdout, record.open_stderr)
                stream = await source.connect(wanted)
            record.pid = await self._client.tasks.start(container.id, record.id)
        except BaseException:
            if stream is not None:
                stream.close()
            await asyncio.shield(self._discard(container, extra))
            raise
        self._registry.save_exec(extra)
        return stream

    async def _base(self, container: Container) -> Process:
        if container.process is None:
            spec = (await self._client.containers.get(container.id)).spec
            container.process = codec.decode(spec.value, _SpecProcess).process
        return container.process

    def _user(self, container: Container, user: str) -> User:
        """Looked up in the container as it is now."""
        try:
            root = os.open(f"/proc/{container.record.state.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            raise ConflictError(f"container {container.id} is not running") from None
        try:
            return rootfs.resolve_user(root, user, container.record.host_config.group_add)
        finally:
            os.close(root)

    async def _discard(self, container: Container, extra: Exec) -> None:
        try:
            await self._client.tasks.delete_process(container.id, extra.record.id)
        except NotFoundError:
            pass  # the shim has let it go itself
        await extra.attach.abandon()

    def _failed(self, extra: Exec, error: BaseException) -> None:
        code = classify(error)[0] if isinstance(error, OrlopError) else EXIT_CANNOT_INVOKE
        extra.record.running = False
        extra.record.exit_code = EXIT_CANNOT_INVOKE if code == EXIT_UNKNOWN else code
        extra.ended.set()
        self._registry.save_exec(extra)

    def _forget_old(self, container: Container) -> None:
        ended = [id_ for id_, extra in container.execs.items() if extra.record.exit_code is not None]
        if len(ended) >= _KEPT:
            self._registry.drop_execs(ended[: len(ended) - _KEPT + 1])
