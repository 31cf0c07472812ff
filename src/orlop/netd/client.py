# SPDX-License-Identifier: Apache-2.0
"""The asyncio client of orlop-netd; it starts the daemon where none answers."""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from orlop.errdefs import InternalError, OrlopError, UnavailableError
from orlop.netd.names import Entry, View
from orlop.netd.protocol import MAX_LINE, HeldPort, decode, encode, port_from, resolver_row

_log = logging.getLogger(__name__)
_START_SECONDS = 10.0
_RETRY_SECONDS = 0.02
_REVIVE_SECONDS = 1.0

SUPERVISED = "ORLOP_NETD_SUPERVISED"
"""Environment variable: "1" where somebody else (`orlop daemon`, systemd) starts orlop-netd, again if need be."""


class PortUnavailableError(InternalError):
    """A port cannot be bound: `port` is the one, `errno` the reason (EADDRINUSE: somebody else has it)."""

    def __init__(self, message: str, port: HeldPort, number: int) -> None:
        super().__init__(message)
        self.port = port
        self.errno = number


class _BrokenError(UnavailableError):
    """The connection ended while an answer was due."""


class NetdClient:
    """One connection to orlop-netd, opened at the first request.

    When the connection breaks, the daemon is connected to again or started again at once, and `on_restart` is
    awaited so that the caller can have its ports held again. A supervised daemon (see `SUPERVISED`) is not started
    but waited for. Belongs to one event loop.
    """

    def __init__(
        self, socket_path: str = "/run/orlop/netd.sock", log_path: str = "/var/log/orlop/netd.log"
    ) -> None:
        self.socket_path = socket_path
        self._log_path = log_path
        self.on_restart: Callable[[], Awaitable[None]] | None = None
        self._lock = asyncio.Lock()
        self._writer: asyncio.StreamWriter | None = None
        self._pending: list[asyncio.Future[dict[str, Any]]] = []
        self._reading: asyncio.Task[None] | None = None
        self._closed = False
        self._kept: dict[str, list[str]] = {}
        self._supervised = os.environ.get(SUPERVISED) == "1"

    async def hold(self, owner: str, ports: list[HeldPort]) -> None:
        """Hold all of `ports` for `owner`, or none. Raises PortUnavailableError."""
        answer = await self._request({"op": "hold", "owner": owner, "ports": [port._asdict() for port in ports]})
        if "index" in answer:
            raise PortUnavailableError(answer["error"], ports[answer["index"]], answer["errno"])
        _check(answer)

    async def release(self, owner: str, ports: list[HeldPort] | None = None) -> None:
        """Free some ports of `owner`, or (None) all."""
        some = {} if ports is None else {"ports": [port._asdict() for port in ports]}
        _check(await self._request({"op": "release", "owner": owner, **some}))

    async def held(self) -> dict[str, list[HeldPort]]:
        """Held ports by owner."""
        answer = _check(await self._request({"op": "list"}))
        return {owner: [port_from(row) for row in rows] for owner, rows in answer["owners"].items()}

    async def name(self, endpoint: str, entry: Entry) -> None:
        """Enter an endpoint's names, in place of those that it has."""
        row = {"network": entry.network, "names": entry.names, "addresses": entry.addresses}
        _check(await self._request({"op": "name", "endpoint": endpoint, **row}))

    async def forget(self, endpoint: str) -> None:
        """Strike an endpoint's names out."""
        _check(await self._request({"op": "forget", "endpoint": endpoint}))

    async def resolve(self, owner: str, netns: str, port: int, view: View) -> None:
        """Serve DNS at `port` in the namespace at `netns`; where it is served already, change what is known."""
        _check(await self._request({"op": "resolve", "owner": owner, "resolver": resolver_row(netns, port, view)}))

    async def unresolve(self, owner: str) -> None:
        """End `owner`'s DNS server; only then its namespace can go."""
        _check(await self._request({"op": "unresolve", "owner": owner}))

    async def resolving(self) -> tuple[list[str], list[str]]:
        """The owners that have a DNS server, and the endpoints that have names."""
        answer = _check(await self._request({"op": "list"}))
        return answer["resolvers"], answer["endpoints"]

    async def keep(self, owner: str, paths: list[str]) -> None:
        """Keep FIFOs open for reading, also by the next orlop-netd when this one dies, until `drop`."""
        self._kept[owner] = paths
        _check(await self._request({"op": "keep", "owner": owner, "paths": paths}))

    async def drop(self, owner: str) -> None:
        """Close `owner`'s FIFOs."""
        if self._kept.pop(owner, None) is not None:
            _check(await self._request({"op": "drop", "owner": owner}))

    async def kept(self) -> list[str]:
        """The owners of open FIFOs."""
        owners: list[str] = _check(await self._request({"op": "list"}))["kept"]
        return owners

    async def ping(self) -> int:
        """The daemon's process id."""
        return int(_check(await self._request({"op": "ping"}))["pid"])

    async def close(self) -> None:
        """Close the connection; the daemon and the ports stay."""
        self._closed = True
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _request(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            return await self._try(message)
        except _BrokenError:
            return await self._try(message)  # every request may be repeated

    async def _try(self, message: dict[str, Any]) -> dict[str, Any]:
        async with self._lock:
            writer = self._writer or await self._connect()
            answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
            self._pending.append(answer)
            writer.write(encode(message))
        return await answer

    async def _connect(self) -> asyncio.StreamWriter:
        if self._closed:
            raise UnavailableError("the connection to orlop-netd is closed")
        try:
            reader, writer = await asyncio.open_unix_connection(self.socket_path, limit=MAX_LINE)
        except (FileNotFoundError, ConnectionRefusedError):
            if not self._supervised:
                await self._start_daemon()
            reader, writer = await self._wait_for_daemon()
        self._writer = writer
        self._reading = asyncio.get_running_loop().create_task(self._read(reader, writer))
        return writer

    async def _wait_for_daemon(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to a daemon that is about to serve, which gives no sign when it does."""
        loop = asyncio.get_running_loop()
        end = loop.time() + (_START_SECONDS if self._supervised else 0.0)
        while True:
            try:
                return await asyncio.open_unix_connection(self.socket_path, limit=MAX_LINE)
            except OSError as error:
                if loop.time() >= end:
                    raise UnavailableError(
                        f"cannot reach orlop-netd at {self.socket_path}: {error.strerror}"
                    ) from None
            await asyncio.sleep(_RETRY_SECONDS)

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError):
                while line := await reader.readline():
                    answer = self._pending.pop(0)
                    if not answer.cancelled():
                        answer.set_result(decode(line))
        finally:
            self._writer = None
            writer.close()
            pending, self._pending = self._pending, []
            for answer in pending:
                if not answer.done():
                    answer.set_exception(_BrokenError("the connection to orlop-netd broke"))
        await self._revive()

    async def _revive(self) -> None:
        while True:
            try:
                async with self._lock:
                    if self._writer is None:
                        await self._connect()
                for owner, paths in list(self._kept.items()):
                    await self.keep(owner, paths)
                if self.on_restart is not None:
                    await self.on_restart()
            except OrlopError as error:
                _log.error("published ports are not held, names not served: %s", error)
                if not self._supervised:
                    return  # the next request tries again
                await asyncio.sleep(_REVIVE_SECONDS)
            else:
                return

    async def _start_daemon(self) -> None:
        os.makedirs(os.path.dirname(self._log_path), mode=0o755, exist_ok=True)
        arguments = ("--detach", "--socket", self.socket_path, "--log", self._log_path)
        starter = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "orlop.netd.main",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_START_SECONDS):
                _, errors = await starter.communicate()
        except TimeoutError:
            starter.kill()
            await starter.wait()
            raise UnavailableError(f"orlop-netd was not ready after {_START_SECONDS:.0f} s") from None
        if starter.returncode != 0:
            raise UnavailableError(f"cannot start orlop-netd: {errors.decode(errors='replace').strip()}")


def _check(answer: dict[str, Any]) -> dict[str, Any]:
    if "error" in answer:
        raise InternalError(f"orlop-netd: {answer['error']}")
    return answer
