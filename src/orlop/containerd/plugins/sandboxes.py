# SPDX-License-Identifier: Apache-2.0
"""The controller `shim`: each sandbox is held by a shim that serves the Sandbox API, in a bundle of its own."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING, Any

from orlop.api import runtime_sandbox_pb2
from orlop.containerd.core.runtime import CreateOptions
from orlop.containerd.failpoints import failpoint
from orlop.containerd.plugins.runtime.bundle import SANDBOX_DIRECTORY, bundle_at, remove_hidden
from orlop.errdefs import AlreadyExistsError, NotFoundError, OrlopError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.api.types_pb2 import Sandbox
    from orlop.containerd.core.sandboxes import SandboxOptions
    from orlop.containerd.plugins.runtime.bundle import Bundle
    from orlop.containerd.plugins.runtime.shim import Shim
    from orlop.containerd.plugins.runtime.starter import ShimStarter

log = logging.getLogger("containerd.sandboxes")

_SERVICE = runtime_sandbox_pb2.DESCRIPTOR.services_by_name["Sandbox"]
_PATIENCE = 5.0  # seconds that a shim is given to end


class SandboxInstance:
    """A sandbox and its shim."""

    def __init__(self, shim: Shim) -> None:
        self.shim = shim

    @property
    def endpoint(self) -> tuple[str, int]:
        """As the contract says."""
        return self.shim.endpoint

    async def sandbox(self, method: str, *, timeout: float | None = None, **fields: Any) -> Any:
        """As the contract says."""
        return await self.shim.request(_SERVICE, method, timeout=timeout, sandbox_id=self.shim.id, **fields)


class ShimSandboxes:
    """Implements `core.sandboxes.SandboxController`. All calls are made in the thread of the event loop."""

    def __init__(self, root: str, state: str, starter: ShimStarter) -> None:
        self._root = root
        self._state = state
        self._starter = starter
        self._instances: dict[tuple[str, str], SandboxInstance] = {}
        self._creating: set[tuple[str, str]] = set()

    def get(self, namespace: str, id: str) -> SandboxInstance:
        """As the contract says."""
        instance = self._instances.get((namespace, id))
        if instance is None:
            raise NotFoundError(f"sandbox {id}: not found")
        return instance

    async def create(self, namespace: str, sandbox: Sandbox, options: SandboxOptions) -> None:
        """As the contract says."""
        id = sandbox.sandbox_id
        key = namespace, id
        if key in self._instances or key in self._creating:
            raise AlreadyExistsError(f"sandbox {id} already running")
        bundle = bundle_at(self._state, self._root, namespace, id, SANDBOX_DIRECTORY)
        program = self._starter.program(sandbox.runtime.name)
        self._creating.add(key)
        try:
            self._instances[key] = await self._start(bundle, program, sandbox, options)
        finally:
            self._creating.discard(key)

    async def _start(
        self, bundle: Bundle, program: str, sandbox: Sandbox, options: SandboxOptions
    ) -> SandboxInstance:
        bundle.create(sandbox.spec.value)
        runtime = sandbox.runtime
        wanted = CreateOptions(
            runtime.name, sandbox.spec.value, options=runtime.options if runtime.HasField("options") else None
        )
        try:
            bundle.write_shim(program)
            shim = await self._starter.start(bundle, program, wanted, self._on_close)
        except BaseException:
            bundle.remove()
            raise
        failpoint("sandbox.create.after_shim")
        instance = SandboxInstance(shim)
        try:
            await instance.sandbox(
                "CreateSandbox",
                bundle_path=bundle.path,
                rootfs=options.rootfs,
                options=options.options,
                netns_path=options.netns_path,
                annotations=dict(options.annotations),
            )
        except BaseException:
            await self._discard(instance)
            raise
        return instance

    async def shutdown(self, namespace: str, id: str) -> None:
        """As the contract says."""
        instance = self.get(namespace, id)
        shim = instance.shim
        try:
            await instance.sandbox("ShutdownSandbox")
        except UnavailableError:
            if shim.connected:
                raise
        failpoint("sandbox.shutdown.after_call")
        self._instances.pop((namespace, id), None)
        if shim.connected:
            await shim.shutdown(_PATIENCE)
        else:  # it died, now or long ago
            await self._starter.clean_up(shim.bundle, shim.program)
        _remove(shim.bundle)

    async def _discard(self, instance: SandboxInstance) -> None:
        """Undo a creation that failed: end the shim whatever it says."""
        shim = instance.shim
        shim.released = True
        with contextlib.suppress(OrlopError):  # it may not know the call, or be gone
            await instance.sandbox("ShutdownSandbox", timeout=_PATIENCE)
        try:
            await shim.shutdown(_PATIENCE)
        except OrlopError as error:
            log.error("shut down the shim of sandbox %s, which may be left: %s", shim.id, error)
        await self._starter.clean_up(shim.bundle, shim.program)
        _remove(shim.bundle)

    def _on_close(self, shim: Shim) -> None:
        """The shim died: the sandbox is gone. What it left is removed at its shutdown, or the next start."""
        log.warning("the shim of sandbox %s/%s died", shim.namespace, shim.id)

    async def load(self) -> None:
        """Find the shims that a former daemon left, and clean up after those that died in between."""
        for bundle in self._existing():
            program = bundle.read_shim()
            shim = await self._starter.reconnect(bundle, program, self._on_close) if program else None
            if shim is not None and await _answers(shim):
                self._instances[bundle.namespace, bundle.id] = SandboxInstance(shim)
                continue
            log.warning("the shim of sandbox %s/%s is dead: cleaning up", bundle.namespace, bundle.id)
            if shim is not None:
                await self._discard(SandboxInstance(shim))
                continue
            if program:
                await self._starter.clean_up(bundle, program)
            _remove(bundle)

    def _existing(self) -> Iterator[Bundle]:
        base = os.path.join(self._state, SANDBOX_DIRECTORY)
        for namespace in sorted(os.listdir(base)) if os.path.isdir(base) else ():
            directory = os.path.join(base, namespace)
            remove_hidden(directory)
            for id in sorted(os.listdir(directory)):
                yield bundle_at(self._state, self._root, namespace, id, SANDBOX_DIRECTORY)

    async def close(self) -> None:
        """Let the connections go; shims go on."""
        for instance in list(self._instances.values()):
            await instance.shim.close()


async def _answers(shim: Shim) -> bool:
    """Whether the shim still has the sandbox."""
    try:
        await SandboxInstance(shim).sandbox("PingSandbox", timeout=_PATIENCE)
    except (NotFoundError, UnavailableError):
        return False
    except OrlopError as error:
        log.error("the shim of sandbox %s/%s: %s", shim.namespace, shim.id, error)
    return True


def _remove(bundle: Bundle) -> None:
    try:
        bundle.remove()
    except (OrlopError, OSError) as error:
        log.error("remove the bundle of sandbox %s: %s", bundle.id, error)
