# SPDX-License-Identifier: Apache-2.0
"""Shims that are programs: where they are, and their `start` and `delete` commands."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from typing import TYPE_CHECKING, NamedTuple

from orlop.api.bootstrap_pb2 import BootstrapParams, Extension, LogLevel
from orlop.api.shim_v2_pb2 import DeleteResponse
from orlop.api.types_pb2 import RuntimeInfo, RuntimeRequest
from orlop.containerd.plugins.runtime.bundle import Bootstrap, parse_bootstrap
from orlop.errdefs import DataLossError, DeadlineExceededError, InternalError, InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.any_pb2 import Any

    from orlop.containerd.plugins.runtime.bundle import Bundle

ORLOP_RUNTIME = "io.containerd.orlop.v2"
_ORLOP_PROGRAM = "containerd-shim-orlop-v2"
_RUNC_PROGRAM = "containerd-shim-runc-v2"
_LEVELS = {
    "trace": LogLevel.LOG_LEVEL_TRACE,
    "debug": LogLevel.LOG_LEVEL_DEBUG,
    "info": LogLevel.LOG_LEVEL_INFO,
    "warn": LogLevel.LOG_LEVEL_WARN,
    "error": LogLevel.LOG_LEVEL_ERROR,
    "fatal": LogLevel.LOG_LEVEL_FATAL,
    "panic": LogLevel.LOG_LEVEL_PANIC,
}


class Environment(NamedTuple):
    """What every shim is told of the daemon."""

    address: str  # gRPC
    ttrpc_address: str
    socket_dir: str
    version: str
    level: str = "info"
    variables: Sequence[str] = ()  # NAME=value

    @property
    def debug(self) -> bool:
        """Whether shims are to say more."""
        return self.level in ("debug", "trace")


def program_of(runtime: str) -> str:
    """The shim's program: an absolute path as it is, a name `a.b.NAME.VERSION` by `containerd-shim-NAME-VERSION`.

    It is looked for in PATH and beside this interpreter. Where Go's runc shim is not installed, orlop's serves
    `io.containerd.runc.v2`, which is what clients ask for by default: it takes the same options.
    Raises InvalidArgumentError, NotFoundError.
    """
    if os.path.isabs(runtime):
        if not os.path.exists(runtime):
            raise NotFoundError(f"invalid custom binary path: {runtime} does not exist")
        return runtime
    parts = runtime.split(".")
    if "/" in runtime or len(parts) < 2 or not all(parts[-2:]) or not parts[0]:
        raise InvalidArgumentError(
            f"invalid runtime name {runtime!r}, correct runtime name should be either format like "
            "io.containerd.runc.v2 or a full path to the binary"
        )
    name = f"containerd-shim-{parts[-2]}-{parts[-1]}"
    beside = os.path.join(os.path.dirname(sys.executable), name)
    found = beside if name == _ORLOP_PROGRAM and os.path.exists(beside) else shutil.which(name)
    if found is None and os.path.exists(beside):
        found = beside
    if found is None and name == _RUNC_PROGRAM:
        return program_of(ORLOP_RUNTIME)
    if found is None:
        raise NotFoundError(f"runtime {runtime!r} binary not installed: {name!r} not found")
    return os.path.abspath(found)


def is_orlop(program: str) -> bool:
    """Whether a program is orlop's own shim, which the zygote can fork."""
    return os.path.basename(program) == _ORLOP_PROGRAM


class ShimBinary:
    """The `start` and `delete` commands of one shim program in one bundle."""

    # What a program reads on the standard input of `start`, by path and time of change.
    _dialects: dict[tuple[str, int], bool] = {}

    def __init__(self, program: str, bundle: Bundle, environment: Environment) -> None:
        self._program = program
        self._bundle = bundle
        self._environment = environment

    async def start(self, options: Any | None) -> Bootstrap:
        """Start a shim. Raises InternalError with what it printed."""
        if await self._takes_bootstrap():
            data = self._params(options).SerializeToString()
        else:
            data = options.SerializeToString() if options is not None else b""
        status, output, _ = await self._run("start", data, merge=True)
        if status:
            raise InternalError(_complaint(f"start {self._program}", status, output))
        return parse_bootstrap(output)

    async def delete(self, timeout: float) -> DeleteResponse:
        """Clean up after a shim that died: its container is killed and removed, the rootfs unmounted.

        Raises InternalError with what the program printed, DeadlineExceededError (`timeout` in seconds).
        """
        try:
            arguments = ("-bundle", self._bundle.path)
            async with asyncio.timeout(timeout):
                status, output, errors = await self._run("delete", b"", merge=False, before=arguments)
        except TimeoutError:
            raise DeadlineExceededError(f"delete of the shim of {self._bundle.id} took over {timeout} s") from None
        if status:
            raise InternalError(_complaint(f"delete {self._program}", status, errors))
        from google.protobuf.message import DecodeError

        try:
            return DeleteResponse.FromString(output)
        except DecodeError as error:
            raise DataLossError(f"the answer of {self._program} delete is malformed: {error}") from None

    def _params(self, options: Any | None) -> BootstrapParams:
        environment = self._environment
        return BootstrapParams(
            instance_id=self._bundle.id,
            namespace=self._bundle.namespace,
            log_level=_LEVELS[environment.level],
            containerd_version=environment.version,
            containerd_ttrpc_address=environment.ttrpc_address,
            containerd_grpc_address=environment.address,
            containerd_binary=publish_binary(),
            extensions=[Extension(value=options)] if options is not None and options.value else [],
            socket_dir=environment.socket_dir,
        )

    async def _takes_bootstrap(self) -> bool:
        """Whether the program reads BootstrapParams: Go shims since 2.3 refuse anything else, and before it take
        the options alone. Only the version that they print tells."""
        if is_orlop(self._program):
            return True
        try:
            key = (self._program, os.stat(self._program).st_mtime_ns)
        except OSError as error:
            raise NotFoundError(f"shim {self._program}: {error.strerror}") from None
        known = self._dialects.get(key)
        if known is None:
            _, output, _ = await _execute([self._program, "-v"], b"", None, None, merge=True)
            found = re.search(rb"[Vv]ersion:?\s+v?(\d+)\.(\d+)", output)
            known = found is not None and (int(found[1]), int(found[2])) >= (2, 3)
            self._dialects[key] = known
        return known

    async def _run(
        self, action: str, data: bytes, *, merge: bool, before: Sequence[str] = ()
    ) -> tuple[int, bytes, bytes]:
        environment = self._environment
        arguments = [
            self._program,
            "-namespace",
            self._bundle.namespace,
            "-address",
            environment.address,
            "-publish-binary",
            publish_binary(),
            "-id",
            self._bundle.id,
            *before,
            *(("-debug",) if environment.debug else ()),
            action,
        ]
        variables = dict(
            os.environ,
            GOMAXPROCS="2",
            MAX_SHIM_VERSION="2",
            TTRPC_ADDRESS=environment.ttrpc_address,
            GRPC_ADDRESS=environment.address,
            NAMESPACE=self._bundle.namespace,
        )
        for variable in environment.variables:
            name, _, value = variable.partition("=")
            variables[name] = value
        return await _execute(arguments, data, self._bundle.path, variables, merge=merge)


async def runtime_info(request: RuntimeRequest) -> RuntimeInfo:
    """What a runtime says of itself (`-info`): its name, its version, its features.

    Raises InvalidArgumentError, NotFoundError, InternalError, DataLossError.
    """
    from google.protobuf.message import DecodeError

    program = program_of(request.runtime_path)
    data = request.options.SerializeToString() if request.HasField("options") else b""
    status, output, errors = await _execute([program, "-info"], data, None, None, merge=False)
    if status:
        raise InternalError(_complaint(f"{program} -info", status, errors))
    try:
        return RuntimeInfo.FromString(output)
    except DecodeError as error:
        raise DataLossError(f"the answer of {program} -info is malformed: {error}") from None


def publish_binary() -> str:
    """The program that shims without ttrpc run to publish an event (`orlop-containerd publish`)."""
    return os.path.join(os.path.dirname(sys.executable), "orlop-containerd")


def _complaint(what: str, status: int, output: bytes) -> str:
    text = output.decode(errors="replace").strip()
    return f"{what}: exit status {status}" + (f": {text}" if text else "")


async def _execute(
    arguments: Sequence[str], data: bytes, directory: str | None, variables: dict[str, str] | None, *, merge: bool
) -> tuple[int, bytes, bytes]:
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=pipe,
            stdout=pipe,
            stderr=asyncio.subprocess.STDOUT if merge else pipe,
            cwd=directory,
            env=variables,
            start_new_session=True,
        )
    except OSError as error:
        raise InternalError(f"run {arguments[0]}: {error.strerror}") from None
    try:
        output, errors = await process.communicate(data)
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    return process.returncode or 0, output, errors or b""
