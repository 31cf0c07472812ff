# SPDX-License-Identifier: Apache-2.0
"""The attach socket: clients come and go, and see what the process writes while they are there.

The protocol is seam 1 of docs/architecture.md: a JSON line from the client, a JSON line back, then raw input one
way and stdcopy frames the other, until the process has exited and its output is drained.
"""

import json
import os
import select
import socket
from collections import deque
from collections.abc import Callable

from orlop.errdefs import InvalidArgumentError
from orlop.rpc import stdcopy
from orlop.shim.io.stdin import Stdin
from orlop.shim.loop import Loop

HIGH_WATER = 1 << 20
"""Bytes waiting for one client from which on the process has to wait too."""
_HELLO_LIMIT = 4096
_READ = 65536
_SO_SNDBUFFORCE = 32


class AttachServer:
    """Listens on one path; a sink for output, and a feeder of `stdin` when there is one."""

    def __init__(self, loop: Loop, path: str, on_drain: Callable[[], None]) -> None:
        self.loop = loop
        self.path = path
        self.on_drain = on_drain
        self.stdin: Stdin | None = None
        self.stdin_once = False
        self.over = False
        self._clients: list[_Client] = []
        self._viewers: list[_Client] = []
        self._full = 0
        self._open = {stdcopy.STDOUT, stdcopy.STDERR}
        self._listener: socket.socket | None = _bind(path)
        loop.add(self._listener.fileno(), select.EPOLLIN, self._accept)

    def feed(self, stdin: Stdin, once: bool) -> None:
        """Clients' input goes to `stdin`; with `once` the end of the first client's input closes it."""
        self.stdin = stdin
        self.stdin_once = once

    @property
    def full(self) -> bool:
        """Whether a client is 1 MiB behind."""
        return self._full > 0

    def write(self, stream: int, data: bytes) -> None:
        """Send to every client that asked for this stream."""
        if self._viewers:
            chunk = stdcopy.encode(stream, data)
            for client in tuple(self._viewers):
                if client.wants(stream):
                    client.send(chunk)

    def end(self, stream: int) -> None:
        """When both streams are over, the clients get end of file after what they have not read yet."""
        self._open.discard(stream)
        if not self._open:
            self.over = True
            for client in tuple(self._clients):
                client.finish()

    def close(self) -> None:
        """Remove the socket and leave the clients; what waits for them goes into their socket buffers."""
        if self._listener is not None:
            self.loop.remove(self._listener.fileno())
            self._listener.close()
            self._listener = None
            _unlink(self.path)
        for client in tuple(self._clients):
            client.push()
            client.close()

    def _accept(self, _events: int) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # the client went away between connect and accept
        self._clients.append(_Client(self, sock))

    def joined(self, client: "_Client") -> None:
        """Called by a client whose hello has been accepted."""
        self._viewers.append(client)

    def behind(self, change: int) -> None:
        """Called by a client that has become full (1) or has caught up (-1)."""
        self._full += change
        if change < 0 and not self._full:
            self.on_drain()

    def left(self, client: "_Client") -> None:
        """Called by a client that is gone."""
        self._clients.remove(client)
        if client in self._viewers:
            self._viewers.remove(client)

    def input_ended(self) -> None:
        """Called by a client whose input is over."""
        if self.stdin_once and self.stdin is not None:
            self.stdin.close()


class _Client:
    def __init__(self, server: AttachServer, sock: socket.socket) -> None:
        self._server = server
        self._sock: socket.socket | None = sock
        sock.setblocking(False)
        self._hello: bytes | None = b""
        self._streams: frozenset[int] = frozenset()
        self._feeds = False
        self._input_over = False
        self._out: deque[bytes] = deque()
        self._waiting = 0
        self._behind = False
        self._finishing = False
        self._events = select.EPOLLIN
        server.loop.add(sock.fileno(), self._events, self._ready)

    def wants(self, stream: int) -> bool:
        return stream in self._streams

    def send(self, data: bytes) -> None:
        if self._sock is None:
            return
        if not self._out:
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.close()
                return
            if sent == len(data):
                return
            data = data[sent:]
        self._out.append(data)
        self._waiting += len(data)
        self._watch()
        if self._waiting >= HIGH_WATER and not self._behind:
            self._behind = True
            self._server.behind(1)

    def finish(self) -> None:
        """End of file after everything that waits."""
        if self._hello is not None:
            return  # it has not said hello: it is answered and ended when it does
        self._finishing = True
        if not self._out:
            self.close()

    def push(self) -> None:
        """Put all that waits into the kernel's buffer, which outlives this end of the connection."""
        if self._sock is None or not self._out:
            return
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 4 * self._waiting + (1 << 20))
        except PermissionError:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * self._waiting)
        self._flush()

    def _ready(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._flush()
        if events & ~select.EPOLLOUT and self._sock is not None:
            self._read(events)

    def _flush(self) -> None:
        while self._out and self._sock is not None:
            try:
                sent = self._sock.send(self._out[0])
            except BlockingIOError:
                break
            except OSError:
                self.close()
                return
            self._waiting -= sent
            if sent < len(self._out[0]):
                self._out[0] = self._out[0][sent:]
            else:
                self._out.popleft()
        if self._behind and self._waiting < HIGH_WATER // 2:
            self._behind = False
            self._server.behind(-1)
        if self._finishing and not self._out:
            self.close()
        else:
            self._watch()

    def _read(self, events: int) -> None:
        if self._input_over:
            if events & (select.EPOLLERR | select.EPOLLHUP):
                self.close()  # both directions are closed: the client is gone
            return
        assert self._sock is not None
        try:
            data = self._sock.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if self._hello is not None:
            self._greet(data)
            return
        if not data:
            self._end_input()
            if events & select.EPOLLHUP:
                self.close()
            return
        self._input(data)

    def _greet(self, data: bytes) -> None:
        assert self._hello is not None
        self._hello += data
        line, newline, rest = self._hello.partition(b"\n")
        if not newline and data and len(line) < _HELLO_LIMIT:
            return
        if not newline and not data:
            self.close()
            return
        try:
            self._streams, self._feeds = _parse_hello(line)
        except InvalidArgumentError as error:
            self.send(json.dumps({"error": str(error)}).encode() + b"\n")
            self.close()
            return
        self._hello = None
        self._server.joined(self)
        self.send(b'{"attached":true}\n')
        if rest:
            self._input(rest)
        if self._server.over:
            self.finish()

    def _input(self, data: bytes) -> None:
        stdin = self._server.stdin
        if not self._feeds or stdin is None or stdin.closed:
            return  # as for Docker, input that nobody reads is dropped
        stdin.write(data)
        if stdin.full:
            self._pause()
            stdin.on_drain(self._watch)

    def _pause(self) -> None:
        self._set_events(self._events & ~select.EPOLLIN)

    def _watch(self) -> None:
        """Wait for what is useful now."""
        stdin = self._server.stdin
        paused = self._input_over or (self._feeds and stdin is not None and stdin.full)
        self._set_events((0 if paused else select.EPOLLIN) | (select.EPOLLOUT if self._out else 0))

    def _set_events(self, events: int) -> None:
        if events != self._events and self._sock is not None:
            self._events = events
            self._server.loop.modify(self._sock.fileno(), events)

    def _end_input(self) -> None:
        if not self._input_over:
            self._input_over = True
            if self._feeds:
                self._server.input_ended()
            self._watch()

    def close(self) -> None:
        if self._sock is None:
            return
        self._server.loop.remove(self._sock.fileno())
        self._sock.close()
        self._sock = None
        self._out.clear()
        self._waiting = 0
        if self._behind:
            self._behind = False
            self._server.behind(-1)
        self._server.left(self)
        if self._feeds and not self._input_over:
            self._input_over = True
            self._server.input_ended()


def _parse_hello(line: bytes) -> tuple[frozenset[int], bool]:
    try:
        wanted = json.loads(line)
    except ValueError:
        raise InvalidArgumentError("attach: the first line must be JSON") from None
    if not isinstance(wanted, dict):
        raise InvalidArgumentError("attach: the first line must be a JSON object")
    for name, value in wanted.items():
        if name not in ("stdin", "stdout", "stderr"):
            raise InvalidArgumentError(f"attach: unknown field {name!r}")
        if not isinstance(value, bool):
            raise InvalidArgumentError(f"attach: {name} must be true or false")
    streams = [(stdcopy.STDOUT, "stdout"), (stdcopy.STDERR, "stderr")]
    return frozenset(number for number, name in streams if wanted.get(name)), bool(wanted.get("stdin"))


def _bind(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory = -1
    try:
        sock.setblocking(False)
        _unlink(path)
        old = os.umask(0o177)
        try:
            if len(os.fsencode(path)) > 107:  # sun_path is short: go through the directory's descriptor
                directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                sock.bind(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
            else:
                sock.bind(path)
        finally:
            os.umask(old)
        sock.listen(64)
    except BaseException:
        sock.close()
        raise
    finally:
        if directory >= 0:
            os.close(directory)
    return sock


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return  # nothing was left behind
