# SPDX-License-Identifier: Apache-2.0
"""How shims come and how one gets hold of them: forked by the zygote, started as programs, found again."""

from __future__ import annotations

import hashlib
import logging
import os
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from orlop.containerd.core.runtime import Exit
from orlop.containerd.failpoints import failpoint
from orlop.containerd.plugins.runtime.binary import ShimBinary, is_orlop, program_of
from orlop.containerd.plugins.runtime.bundle import Bootstrap
from orlop.containerd.plugins.runtime.shim import Shim, ShimLog
from orlop.containerd.sockets import remove_stale
from orlop.errdefs import InvalidArgumentError, OrlopError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.containerd.core.runtime import CreateOptions
    from orlop.containerd.plugins.runtime.binary import Environment
    from orlop.containerd.plugins.runtime.bundle import Bundle
    from orlop.containerd.plugins.runtime.zygote import Zygote

log = logging.getLogger("containerd.tasks")

LOST = 255  # the exit status of a process that nobody can tell of


class ShimStarter:
    """Starts shims, connects to those that run, and runs the program that cleans up after one that died."""

    def __init__(self, environment: Environment, zygote: Zygote | None, cleanup_timeout: float) -> None:
        """`cleanup_timeout`: the seconds that a shim's `delete` is given."""
        self._environment = environment
        self._zygote = zygote
        self._cleanup_timeout = cleanup_timeout
        self._programs: dict[str, str] = {}

    def program(self, runtime: str) -> str:
        """The shim's program for a runtime, as `program_of`, remembered while it is there."""
        program = self._programs.get(runtime)
        if program is None or not os.path.exists(program):
            program = self._programs[runtime] = program_of(runtime)
        return program

    async def start(
        self, bundle: Bundle, program: str, options: CreateOptions, on_close: Callable[[Shim], None]
    ) -> Shim:
        """Start a shim in a bundle, or join a sandbox's, and connect to it; `on_close` is called when it dies.

        Raises UnavailableError, InternalError, and what `parse_bootstrap` raises.
        """
        shim_log = ShimLog(bundle.open_log())
        try:
            if options.sandbox:
                bundle.write_sandbox(options.sandbox)
                bootstrap = _joined(options)
            else:
                bootstrap = await self._bootstrap(bundle, program, options, shim_log.fd)
            failpoint("task.create.after_shim")
            bundle.write_bootstrap(bootstrap)
            failpoint("task.create.after_bootstrap")
            return await Shim.connect(bundle, program, bootstrap, shim_log, on_close)
        except BaseException:
            shim_log.close()
            raise

    async def _bootstrap(self, bundle: Bundle, program: str, options: CreateOptions, log_fd: int) -> Bootstrap:
        environment = self._environment
        if self._zygote is not None and is_orlop(program) and not os.path.isabs(options.runtime):
            request = {
                "id": bundle.id,
                "namespace": bundle.namespace,
                "bundle": bundle.path,
                "address": environment.address,
                "ttrpc_address": environment.ttrpc_address,
                "socket_dir": environment.socket_dir,
                "debug": environment.debug,
            }
            try:
                address, _ = await self._zygote.start_shim(request, log_fd)
                return Bootstrap(3, address)
            except UnavailableError as error:
                log.warning("start the shim of %s by its binary: %s", bundle.id, error)
        return await ShimBinary(program, bundle, environment).start(options.options)

    async def reconnect(self, bundle: Bundle, program: str, on_close: Callable[[Shim], None]) -> Shim | None:
        """Connect to the shim that a former daemon started; None when it is gone."""
        bootstrap = self._address(bundle, program)
        if bootstrap is None:
            return None
        shim_log = ShimLog(bundle.open_log())
        try:
            return await Shim.connect(bundle, program, bootstrap, shim_log, on_close)
        except UnavailableError:
            shim_log.close()
            return None

    def _address(self, bundle: Bundle, program: str) -> Bootstrap | None:
        """How to reach the shim of a bundle; None when nobody has noted it."""
        try:
            bootstrap = bundle.read_bootstrap()
        except OrlopError as error:
            log.error("the bundle of %s/%s: %s", bundle.namespace, bundle.id, error)
            bootstrap = None
        if bootstrap is None and is_orlop(program):
            # The former daemon died between the start of the shim and noting its address.
            bootstrap = Bootstrap(3, self._orlop_address(bundle))
        return bootstrap

    def _orlop_address(self, bundle: Bundle) -> str:
        return f"unix://{self._environment.socket_dir}/{self._hashed(bundle)}"

    def _hashed(self, bundle: Bundle, *more: str) -> str:
        name = "/".join((self._environment.address, bundle.namespace, bundle.id, *more))
        return hashlib.sha256(name.encode()).hexdigest()

    async def clean_up(self, bundle: Bundle, program: str) -> Exit:
        """Have the shim's program kill and remove what a dead shim left: what it says of the process."""
        try:
            answer = await ShimBinary(program, bundle, self._environment).delete(self._cleanup_timeout)
        except OrlopError as error:
            log.error("clean up after the shim of %s: %s", bundle.id, error)
            now = Timestamp()
            now.GetCurrentTime()
            return Exit(0, LOST, now)
        finally:
            self._remove_socket(bundle, program)
        return Exit(answer.pid, answer.exit_status, answer.exited_at)

    def _remove_socket(self, bundle: Bundle, program: str) -> None:
        """A shim that was killed has left its socket, which no `delete` removes, and that for debugging."""
        bootstrap = self._address(bundle, program)
        path = bootstrap.address.removeprefix("unix://") if bootstrap is not None else ""
        if not os.path.isabs(path):
            return
        for each in (path, os.path.join(os.path.dirname(path), self._hashed(bundle, "debug"))):
            try:
                remove_stale(each)
            except OrlopError as error:
                log.error("the socket of the shim of %s/%s is left: %s", bundle.namespace, bundle.id, error)


def _joined(options: CreateOptions) -> Bootstrap:
    """The shim of the sandbox that a task is to be in. Raises InvalidArgumentError for one of another kind."""
    address, version = options.address
    if version not in (2, 3) or not address.startswith("unix://"):
        raise InvalidArgumentError(
            f"sandbox {options.sandbox}: expected a unix:// address and version 2 or 3 of the Task API,"
            f" got {address!r} and {version}"
        )
    return Bootstrap(version, address)
