# SPDX-License-Identifier: Apache-2.0
"""The DNS server inside a container's network namespace: answers names, asks upstream servers for the rest."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any

from orlop.netd import dns
from orlop.netd.dns import MalformedError, Question
from orlop.netd.names import Names, Upstream, View
from orlop.netd.poller import IN, Poller
from orlop.unix.process import CLONE_NEWNET, setns

ADDRESS = "127.0.0.11"
UPSTREAM_SECONDS = 4.0
TCP_IDLE_SECONDS = 10.0
_MAX_UPSTREAMS = 3
_IP_RECVERR = 11
_MAX_TASKS = 1024
_BATCH = 32
_BACKLOG = 100
_MAX_ANSWERED = 256


class Resolver:
    """One container's server: construct, `await start()`, `close()`. Its sockets keep the namespace alive."""

    def __init__(
        self, poller: Poller, names: Names, netns: str, port: int, view: View, fds: Sequence[int] = ()
    ) -> None:
        """Listen on `ADDRESS` at `port`, UDP and TCP, in the namespace at `netns`. Raises OSError.

        `fds` are those of an earlier server, which is gone, of the same namespace.
        """
        self._poller = poller
        self.view = view
        self.netns, self.port = netns, port
        self._names = names
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._batch = 1
        """How many queries are looked for in one go: to find that there is none costs as much as to find one."""
        self._answered: dict[bytes, bytes] = {}
        self._answered_for, self._answered_at = view, names.changes
        if fds:
            self._udp, self._tcp = (socket.socket(fileno=fd) for fd in fds[:2])
            self._namespace = fds[2]
        else:
            self._bind()

    def _bind(self) -> None:
        self._namespace = os.open(self.netns, os.O_RDONLY | os.O_CLOEXEC)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, self._namespace)
            with _inside(self._namespace):
                self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                undo.callback(self._udp.close)
                self._tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                undo.callback(self._tcp.close)
            self._tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for each in (self._udp, self._tcp):
                each.setblocking(False)
                each.bind((ADDRESS, self.port))
            self._tcp.listen(_BACKLOG)
            undo.pop_all()

    @property
    def fds(self) -> tuple[int, int, int]:
        """What a later server of the same namespace needs."""
        return self._udp.fileno(), self._tcp.fileno(), self._namespace

    async def start(self) -> None:
        """Answer from now on."""
        self._server = await asyncio.start_server(self._connected, sock=self._tcp)
        self._poller.add(self._udp.fileno(), self._readable, IN)

    def close(self) -> None:
        """Stop, and let the namespace go."""
        if self._server is not None:
            self._poller.remove(self._udp.fileno())
            self._server.close()
        for task in self._tasks:
            task.cancel()
        self._tcp.close()
        self._udp.close()
        os.close(self._namespace)

    # -- the two transports

    def _readable(self, _: int) -> None:
        for number in range(self._batch):  # then others get their turn
            try:
                query, asker = self._udp.recvfrom(dns.MAX_SIZE)
            except OSError:  # nothing more; or an ICMP error about an earlier answer
                self._batch = max(number, 1)
                return
            known = self._known(query)
            if known:
                self._send(query[:2] + known, asker)
                self._poller.expecting = True  # most who ask wait for one answer before they ask again
            else:
                self._serve_datagram(query, asker)
        self._batch = min(2 * self._batch, _BATCH)

    def _known(self, query: bytes) -> bytes:
        """The same query's answer, but for its id, if it was given before and nothing has changed since."""
        if self._answered_for is not self.view or self._answered_at != self._names.changes:
            self._answered.clear()
            self._answered_for, self._answered_at = self.view, self._names.changes
        return self._answered.get(query[2:], b"")

    def _remember(self, query: bytes, reply: bytes) -> None:
        if dns.answer_count(reply) < 2:  # several addresses come in another order each time
            if len(self._answered) >= _MAX_ANSWERED:
                self._answered.clear()
            self._answered[query[2:]] = reply[2:]

    def _serve_datagram(self, query: bytes, asker: Any) -> None:
        try:
            question = dns.parse(query)
        except MalformedError as error:
            if error.rcode is not None:
                self._send(dns.refusal(query, error.rcode), asker)
            return
        reply = self._answer(question, question.udp_size)
        if reply is not None:
            self._remember(query, reply)
        elif len(self._tasks) >= _MAX_TASKS:
            reply = dns.failure(question, dns.REFUSED)
        if reply is not None:
            self._send(reply, asker)
        else:
            self._spawn(self._forward_datagram(question, query, asker))

    def _send(self, reply: bytes, asker: Any) -> None:
        with contextlib.suppress(OSError):  # the asker is gone, or the buffer full: UDP loses it
            self._udp.sendto(reply, asker)

    async def _forward_datagram(self, question: Question, query: bytes, asker: Any) -> None:
        self._send(await self._forward(question, query, self._exchange_udp), asker)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._tasks) >= _MAX_TASKS:  # a container shall not use up the descriptors of all
            writer.close()
            return
        self._tasks.add(task)
        try:
            while True:
                async with asyncio.timeout(TCP_IDLE_SECONDS):
                    query = await _read_message(reader)
                reply = await self._serve_message(query)
                if reply is None:
                    return
                writer.write(len(reply).to_bytes(2, "big") + reply)
                await writer.drain()
        except (OSError, EOFError, asyncio.CancelledError):
            return  # the asker went away or is silent (TimeoutError is an OSError), or the container ends
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve_message(self, query: bytes) -> bytes | None:
        try:
            question = dns.parse(query)
        except MalformedError as error:
            return None if error.rcode is None else dns.refusal(query, error.rcode)
        reply = self._answer(question, dns.MAX_SIZE)
        return reply if reply is not None else await self._forward(question, query, self._exchange_tcp)

    # -- answers

    def _answer(self, question: Question, limit: int) -> bytes | None:
        """What the tables say; None: ask others."""
        if question.class_ != dns.INTERNET:
            return None
        networks = self.view.networks
        if question.type in (dns.A, dns.AAAA):
            found = self._names.find(networks, question.name, 4 if question.type == dns.A else 16)
            if found is not None:
                return dns.answer(question, found, limit=limit)
            if self.view.qualified and "." not in question.name:
                return dns.answer(question)
        elif question.type == dns.PTR:
            address = dns.reversed_address(question.name)
            name = self._names.name_of(networks, address) if address is not None else ""
            if name:
                with contextlib.suppress(ValueError):  # a network may have a name that DNS cannot express
                    return dns.answer(question, [dns.name_data(name)], limit=limit)
        elif question.type == dns.MX and self._names.find(networks, question.name, 4) is not None:
            return dns.answer(question)  # no mail server: mail goes to the name itself (RFC 5321, 5.1)
        return None

    # -- upstream

    async def _forward(self, question: Question, query: bytes, exchange: Any) -> bytes:
        """Ask the upstream servers in turn; a failure if none has an answer."""
        for upstream in self.view.upstreams[:_MAX_UPSTREAMS]:
            if upstream.from_host and not self.view.forward:
                continue
            try:
                async with asyncio.timeout(UPSTREAM_SECONDS):
                    reply: bytes = await exchange(upstream, question, query)
            except (OSError, EOFError):
                continue  # unreachable, silent (TimeoutError is an OSError), or broken off
            if dns.rcode(reply) not in (dns.SERVER_FAILURE, dns.REFUSED):
                return reply
        return dns.failure(question, dns.SERVER_FAILURE)

    async def _exchange_udp(self, upstream: Upstream, question: Question, query: bytes) -> bytes:
        # A socket for each query: its random port is what makes forged answers hard.
        with self._socket(upstream, socket.SOCK_DGRAM) as connection:
            await self._loop.sock_connect(connection, (upstream.address, 53))
            await self._loop.sock_sendall(connection, query)
            while True:
                reply = await self._loop.sock_recv(connection, dns.MAX_SIZE)
                if dns.answers(reply, question):
                    return reply

    async def _exchange_tcp(self, upstream: Upstream, question: Question, query: bytes) -> bytes:
        connection = self._socket(upstream, socket.SOCK_STREAM)
        try:
            await self._loop.sock_connect(connection, (upstream.address, 53))
            reader, writer = await asyncio.open_connection(sock=connection)
        except BaseException:
            connection.close()
            raise
        try:
            writer.write(len(query).to_bytes(2, "big") + query)
            reply = await _read_message(reader)
        finally:
            writer.close()
        if not dns.answers(reply, question):
            raise EOFError
        return reply

    def _socket(self, upstream: Upstream, kind: socket.SocketKind) -> socket.socket:
        family = socket.AF_INET6 if ":" in upstream.address else socket.AF_INET
        with contextlib.nullcontext() if upstream.from_host else _inside(self._namespace):
            made = socket.socket(family, kind)
        made.setblocking(False)
        if kind == socket.SOCK_DGRAM and family == socket.AF_INET:
            made.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)  # a router's "unreachable" ends the waiting
        return made

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


@contextlib.contextmanager
def _inside(namespace: int) -> Iterator[None]:
    """In another network namespace for a moment: sockets belong for ever to the one in which they are made."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(namespace, CLONE_NEWNET)
        try:
            yield
        finally:
            setns(home, CLONE_NEWNET)
    finally:
        os.close(home)


async def _read_message(reader: asyncio.StreamReader) -> bytes:
    length = int.from_bytes(await reader.readexactly(2), "big")
    return await reader.readexactly(length)
