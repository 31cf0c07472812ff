# SPDX-License-Identifier: Apache-2.0
"""The socket of orlop-netd: requests in, held ports as its only state."""

import asyncio
import os
import socket
import struct
from typing import Any

from orlop import __version__
from orlop.errdefs import InvalidArgumentError
from orlop.netd.protocol import MAX_LINE, HeldPort, decode, encode, owner_of, ports_of
from orlop.netd.proxy import Holder

_UCRED = struct.Struct("=iII")


class Server:
    """Holds ports for owners and answers requests about them."""

    def __init__(self) -> None:
        self._held: dict[str, dict[HeldPort, Holder]] = {}
        self._connections: set[asyncio.Task[None]] = set()

    async def serve(self, listener: socket.socket) -> asyncio.Server:
        """Accept requests on a bound unix socket."""
        return await asyncio.start_unix_server(self._connected, sock=listener, limit=MAX_LINE)

    async def close(self) -> None:
        """End the connections and free every port."""
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        for owner in list(self._held):
            self.release(owner)

    async def hold(self, owner: str, ports: list[HeldPort]) -> None:
        """Hold all of `ports` for `owner`, or none. Raises PortError."""
        mine = self._held.get(owner, {})
        added: dict[HeldPort, Holder] = {}
        try:
            for index, port in enumerate(ports):
                if port in mine or port in added:
                    continue
                try:
                    added[port] = Holder(port)
                except OSError as error:
                    raise PortError(index, error) from None
            for holder in added.values():
                await holder.start()
        except BaseException:
            for holder in added.values():
                holder.close()
            raise
        self._held.setdefault(owner, {}).update(added)

    def release(self, owner: str) -> None:
        """Free what `owner` holds."""
        for holder in self._held.pop(owner, {}).values():
            holder.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if _allowed(writer.get_extra_info("socket")):
                while line := await reader.readline():
                    writer.write(encode(await self._answer(line)))
                    await writer.drain()
        except (ConnectionError, ValueError, asyncio.CancelledError):
            return  # the client went away, sent an endless line, or the daemon ends
        finally:
            self._connections.discard(task)
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            return {"ok": True} | await self._perform(decode(line))
        except PortError as error:
            return {"error": str(error), "errno": error.errno, "index": error.index}
        except (InvalidArgumentError, OSError) as error:
            return {"error": str(error)}

    async def _perform(self, message: dict[str, Any]) -> dict[str, Any]:
        match message.get("op"):
            case "hold":
                await self.hold(owner_of(message), ports_of(message))
            case "release":
                self.release(owner_of(message))
            case "list":
                return {"owners": {owner: [port._asdict() for port in held] for owner, held in self._held.items()}}
            case "ping":
                return {"pid": os.getpid(), "version": __version__}
            case other:
                raise InvalidArgumentError(f"invalid op: {other!r} is not one of hold, release, list, ping")
        return {}


class PortError(Exception):
    """A port cannot be had: its place in the request and the reason."""

    def __init__(self, index: int, cause: OSError) -> None:
        super().__init__(f"{cause.filename}: {(cause.strerror or 'unknown error').lower()}")
        self.index = index
        self.errno = cause.errno


def _allowed(connection: socket.socket) -> bool:
    """Only the superuser and the daemon's own user may ask."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, uid, _ = _UCRED.unpack(raw)
    return uid in (0, os.geteuid())
