# SPDX-License-Identifier: Apache-2.0
"""The socket of orlop-netd: requests in; held ports, names, resolvers and FIFOs are its only state."""

import asyncio
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

from orlop import __version__
from orlop.errdefs import InvalidArgumentError
from orlop.netd.fifos import Fifos
from orlop.netd.keeper import Kept
from orlop.netd.kept import Store
from orlop.netd.names import Names, View
from orlop.netd.poller import Poller
from orlop.netd.protocol import (
    MAX_LINE,
    HeldPort,
    decode,
    encode,
    entry_of,
    owner_of,
    paths_of,
    ports_of,
    resolver_of,
    resolver_row,
    text_of,
)
from orlop.netd.proxy import Holder
from orlop.netd.resolver import Resolver

_UCRED = struct.Struct("=iII")
_OPERATIONS = ("hold", "release", "name", "forget", "resolve", "unresolve", "keep", "drop", "list", "ping")


class Server:
    """Holds ports for owners, serves DNS in their network namespaces, and answers requests about both."""

    def __init__(self, store: Store, poller: Poller) -> None:
        """What is held and known is kept in `store` as well; `poller` is the event loop's selector."""
        self._store = store
        self._held: dict[str, dict[HeldPort, Holder]] = {}
        self._names = Names()
        self._resolvers: dict[str, Resolver] = {}
        self._fifos = Fifos()
        self._connections: set[asyncio.Task[None]] = set()
        self._poller = poller

    async def serve(self, listener: socket.socket) -> asyncio.Server:
        """Accept requests on a bound unix socket."""
        # not start_unix_server, which from Python 3.13 on removes the socket's file when it closes
        return await asyncio.start_server(self._connected, sock=listener, limit=MAX_LINE)

    async def close(self) -> None:
        """End the connections and free every port."""
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        for held in self._held.values():
            for holder in held.values():
                holder.close()
        for resolver in self._resolvers.values():
            resolver.close()
        self._fifos.close()

    async def restore(self, kept: Sequence[Kept]) -> None:
        """Take up what an earlier worker had."""
        for message, fds in kept:
            match message["op"]:
                case "hold":
                    (port,) = ports_of(message)
                    holder = Holder(port, socket.socket(fileno=fds[0]))
                    holder.start(self._poller)
                    self._held.setdefault(owner_of(message), {})[port] = holder
                case "name":
                    self._names.put(text_of(message, "endpoint"), entry_of(message))
                case "resolve":
                    resolver = Resolver(self._poller, self._names, *resolver_of(message), fds)
                    await resolver.start()
                    self._resolvers[owner_of(message)] = resolver
                case "keep":
                    self._fifos.take(owner_of(message), fds)

    def hold(self, owner: str, ports: list[HeldPort]) -> None:
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
                holder.start(self._poller)
        except BaseException:
            for holder in added.values():
                holder.close()
            raise
        self._held.setdefault(owner, {}).update(added)
        for port, holder in added.items():
            row = {"op": "hold", "owner": owner, "ports": [port._asdict()]}
            self._store.keep(_port_key(owner, port), row, [holder.fileno()])

    async def release(self, owner: str, ports: list[HeldPort] | None = None) -> None:
        """Free some of what `owner` holds, or (None) all."""
        mine = self._held.pop(owner, {})
        going = {port: holder for port, holder in mine.items() if ports is None or port in ports}
        if staying := {port: holder for port, holder in mine.items() if port not in going}:
            self._held[owner] = staying
        for holder in going.values():
            holder.close()
        await self._store.drop(_port_key(owner, port) for port in going)

    def name(self, endpoint: str, message: dict[str, Any]) -> None:
        """Enter an endpoint's names."""
        self._names.put(endpoint, entry_of(message))
        self._store.keep(f"name {endpoint}", message)

    async def forget(self, endpoint: str) -> None:
        """Strike an endpoint's names out."""
        if endpoint in self._names:
            self._names.remove(endpoint)
            await self._store.drop([f"name {endpoint}"])

    async def resolve(self, owner: str, netns: str, port: int, view: View) -> None:
        """Serve DNS in `owner`'s namespace; a server that is there learns what it knows now. Raises OSError."""
        resolver = self._resolvers.get(owner)
        if resolver is not None and (resolver.netns, resolver.port) == (netns, port):
            resolver.view = view
        else:
            await self.unresolve(owner)
            resolver = Resolver(self._poller, self._names, netns, port, view)
            try:
                await resolver.start()
            except BaseException:
                resolver.close()
                raise
            self._resolvers[owner] = resolver
        row = {"op": "resolve", "owner": owner, "resolver": resolver_row(netns, port, view)}
        self._store.keep(f"resolver {owner}", row, resolver.fds)

    async def unresolve(self, owner: str) -> None:
        """End `owner`'s DNS server."""
        resolver = self._resolvers.pop(owner, None)
        if resolver is not None:
            resolver.close()
            await self._store.drop([f"resolver {owner}"])

    async def keep(self, owner: str, paths: list[str]) -> None:
        """Keep FIFOs open for `owner`. Raises OSError, InvalidArgumentError."""
        await self._store.drop(_fifos_key(other) for other in self._fifos.forget_removed())
        self._store.keep(_fifos_key(owner), {"op": "keep", "owner": owner}, self._fifos.keep(owner, paths))

    async def drop(self, owner: str) -> None:
        """Close the FIFOs of `owner`."""
        if owner in self._fifos.owners():
            self._fifos.drop(owner)
            await self._store.drop([_fifos_key(owner)])

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
                self.hold(owner_of(message), ports_of(message))
            case "release":
                await self.release(owner_of(message), ports_of(message) if "ports" in message else None)
            case "name":
                self.name(text_of(message, "endpoint"), message)
            case "forget":
                await self.forget(text_of(message, "endpoint"))
            case "resolve":
                await self.resolve(owner_of(message), *resolver_of(message))
            case "unresolve":
                await self.unresolve(owner_of(message))
            case "keep":
                await self.keep(owner_of(message), paths_of(message))
            case "drop":
                await self.drop(owner_of(message))
            case "list":
                return self._list()
            case "ping":
                return {"pid": self._store.pid, "version": __version__}
            case other:
                raise InvalidArgumentError(f"invalid op: {other!r} is not one of {', '.join(_OPERATIONS)}")
        return {}

    def _list(self) -> dict[str, Any]:
        return {
            "owners": {owner: [port._asdict() for port in held] for owner, held in self._held.items()},
            "resolvers": list(self._resolvers),
            "endpoints": self._names.endpoints(),
            "kept": self._fifos.owners(),
        }


def _fifos_key(owner: str) -> str:
    return f"fifos {owner}"


def _port_key(owner: str, port: HeldPort) -> str:
    return f"port {owner} {port.host} {port.address} {port.port}"


class PortError(Exception):
    """A port cannot be had: its place in the request and the reason."""

    def __init__(self, index: int, cause: OSError) -> None:
        super().__init__(f"{cause.filename}: {_lower_first(cause.strerror or 'unknown error')}")
        self.index = index
        self.errno = cause.errno


def _allowed(connection: socket.socket) -> bool:
    """Only the superuser and the daemon's own user may ask."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, uid, _ = _UCRED.unpack(raw)
    return uid in (0, os.geteuid())


def _lower_first(text: str) -> str:
    """A sentence as part of another one."""
    return text[:1].lower() + text[1:]
