# SPDX-License-Identifier: Apache-2.0
"""A running shim: the connection to it, its log, and the calls of its Task API."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from orlop.api import shim_v2_pb2, shim_v3_pb2
from orlop.containerd.core.runtime import Exit
from orlop.errdefs import UnavailableError
from orlop.rpc.ttrpc import methods
from orlop.rpc.ttrpc.aio import Client

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.descriptor import ServiceDescriptor
    from google.protobuf.timestamp_pb2 import Timestamp

    from orlop.containerd.plugins.runtime.bundle import Bootstrap, Bundle

_SERVICES: dict[int, ServiceDescriptor] = {
    2: shim_v2_pb2.DESCRIPTOR.services_by_name["Task"],
    3: shim_v3_pb2.DESCRIPTOR.services_by_name["Task"],
}
_STDERR = 2


class ShimLog:
    """Copies what a shim writes into the log fifo of its bundle to the daemon's standard error."""

    def __init__(self, fd: int) -> None:
        """Takes the descriptor over. Create it in the thread of the running event loop."""
        self.fd = fd
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self._copy)

    def _copy(self) -> bool:
        try:
            data = os.read(self.fd, 65536)
        except BlockingIOError:
            return False
        if data:
            os.write(_STDERR, data)
        return bool(data)

    def close(self) -> None:
        """Copy what is left and stop."""
        if self.fd < 0:
            return
        self._loop.remove_reader(self.fd)
        while self._copy():
            pass
        os.close(self.fd)
        self.fd = -1


class Shim:
    """The task of one bundle. Made by `connect`; `close` lets the connection go, not the shim."""

    def __init__(self, bundle: Bundle, program: str, version: int, log: ShimLog) -> None:
        self.bundle = bundle
        self.program = program
        self.log = log
        self.lock = asyncio.Lock()  # of what ends the task: deletion
        self.released = False  # nobody is to be told when the connection closes
        self.buried: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._joined = bool(bundle.read_sandbox())  # the shim is a sandbox's, and ends with that
        self._service = _SERVICES[version]
        self._metadata = {methods.NAMESPACE_KEY: bundle.namespace}
        self._client: Client | None = None

    @property
    def namespace(self) -> str:
        """The namespace of the task."""
        return self.bundle.namespace

    @property
    def id(self) -> str:
        """The id of the task and of its container."""
        return self.bundle.id

    @property
    def endpoint(self) -> tuple[str, int]:
        """Where the shim serves, and which version of the Task API."""
        bootstrap = self.bundle.read_bootstrap()
        return (bootstrap.address, bootstrap.version) if bootstrap is not None else ("", 0)

    @property
    def connected(self) -> bool:
        """Whether the connection stands."""
        return self._client is not None and not self._client.closed

    @classmethod
    async def connect(
        cls, bundle: Bundle, program: str, bootstrap: Bootstrap, log: ShimLog, on_close: Callable[[Shim], None]
    ) -> Shim:
        """Connect to a shim; `on_close` is called when it goes away, unless it was released.

        Raises UnavailableError.
        """
        shim = cls(bundle, program, bootstrap.version, log)

        def closed() -> None:
            shim.log.close()
            if not shim.released:
                on_close(shim)

        shim._client = await Client.connect(bootstrap.address, on_close=closed)
        return shim

    async def call(self, method: str, *, timeout: float | None = None, **fields: Any) -> Any:
        """Call `method` of the Task API with a request made of the task's id and `fields`.

        Raises what the shim answers, UnavailableError when it is gone, DeadlineExceededError (`timeout`, seconds).
        """
        return await self.request(self._service, method, timeout=timeout, id=self.id, **fields)

    async def request(
        self, service: ServiceDescriptor, method: str, *, timeout: float | None = None, **fields: Any
    ) -> Any:
        """Call `method` of any service of the shim. Raises as `call`."""
        if self._client is None:
            raise UnavailableError(f"the shim of {self.id} is gone")
        message = methods.method_of(service, method).request(**fields)
        return await self._client.call(service, method, message, timeout=timeout, metadata=self._metadata)

    async def wait(self, exec_id: str) -> tuple[int, Timestamp]:
        """Wait for the end of a process: its exit status and time. A shim that dies takes its processes along."""
        try:
            answer = await self.call("Wait", exec_id=exec_id)
        except UnavailableError:
            if self.connected or self.released:
                raise
            exit = await asyncio.shield(self.buried)
            return exit.status, exit.exited_at
        return answer.exit_status, answer.exited_at

    async def shutdown(self, timeout: float) -> None:
        """Ask the shim to end, unless it is a sandbox's, wait until it has, and close the connection.

        It takes its socket along, by name: until then no other may have that name. One that still has other
        tasks stays; it is waited for in vain. `timeout` is in seconds, for each of the two steps.
        """
        self.released = True
        if self._joined:
            await self.close()
            return
        try:
            await self.call("Shutdown", timeout=timeout)
            if self._client is not None:
                await asyncio.wait_for(self._client.wait_closed(), timeout)
        except (UnavailableError, TimeoutError):
            pass  # it ended before its answer was sent, or stays for its other tasks
        finally:
            await self.close()

    async def close(self) -> None:
        """Let the connection go."""
        self.released = True
        if self._client is not None:
            await self._client.close()
        self.log.close()
