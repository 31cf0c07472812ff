# SPDX-License-Identifier: Apache-2.0
"""The debug socket of a shim started with -debug: what it is doing just now, where Go's shims serve pprof.

Imported by such a shim alone. HTTP as far as `ctr shim pprof` and curl speak it: one GET to a connection.
"""

import gc
import os
import select
import socket
import sys
import traceback
from collections import Counter
from collections.abc import Callable

from orlop.errdefs import OrlopError
from orlop.shim import bootstrap, log
from orlop.shim.bootstrap import Start
from orlop.shim.loop import Loop

_REQUEST_MAX = 8192
_PATIENCE = 10.0
"""Seconds that a client gets for its request, and for taking the answer."""
_OF_GO = ("profile", "trace", "block", "mutex", "allocs", "threadcreate")
_INDEX = "goroutine: the stack\nheap: objects by type\ncmdline: the command line\n"


def listen(loop: Loop, start: Start) -> Callable[[], None]:
    """Serve where ctr looks for it, unless a flag has said where; what is returned ends that.

    Trouble is logged, and nothing served.
    """
    try:
        path = start.debug_socket or bootstrap.debug_address(start, bootstrap.group_of(".", start.id))
        bound = bootstrap.bind(path)
    except OrlopError as error:
        log.warning(f"no debug socket: {error}")
        return lambda: None
    if bound is None:
        log.warning(f"no debug socket: {path} is served already")
        return lambda: None
    listener = socket.socket(fileno=bound)
    listener.setblocking(False)
    loop.add(listener.fileno(), select.EPOLLIN, lambda _events: _accept(loop, listener))

    def close() -> None:
        loop.remove(listener.fileno())
        listener.close()
        try:
            os.unlink(path)
        except FileNotFoundError:
            log.debug(f"{path} is gone already")

    return close


def _accept(loop: Loop, listener: socket.socket) -> None:
    try:
        connection, _ = listener.accept()
    except BlockingIOError:
        return  # it is gone again
    _Client(loop, connection)


class _Client:
    """One connection: read a request, write the answer, close."""

    def __init__(self, loop: Loop, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._loop = loop
        self._connection = connection
        self._fd = connection.fileno()
        self._received = b""
        self._left = b""
        self._timer = loop.call_later(_PATIENCE, self._close)
        loop.add(self._fd, select.EPOLLIN, self._readable)

    def _readable(self, _events: int) -> None:
        try:
            data = self._connection.recv(_REQUEST_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._received += data
        if not data or len(self._received) > _REQUEST_MAX:
            self._close()
        elif b"\r\n\r\n" in self._received:
            self._left = answer(self._received)
            self._loop.remove(self._fd)
            self._loop.add(self._fd, select.EPOLLOUT, self._writable)

    def _writable(self, _events: int) -> None:
        try:
            self._left = self._left[self._connection.send(self._left) :]
        except BlockingIOError:
            return
        except OSError:
            self._left = b""
        if not self._left:
            self._close()

    def _close(self) -> None:
        self._timer.cancel()
        if self._connection.fileno() >= 0:
            self._loop.remove(self._fd)
            self._connection.close()


def answer(request: bytes) -> bytes:
    """The answer to a request, as bytes of HTTP."""
    words = request.split(b"\r\n", 1)[0].split()
    status, body = "405 Method Not Allowed", "GET was expected\n"
    if len(words) == 3 and words[0] == b"GET":
        status, body = _page(words[1].decode("ascii", "replace").partition("?")[0])
    raw = body.encode("utf-8", "backslashreplace")
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(raw)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + raw


def _page(path: str) -> tuple[str, str]:
    name = path.removeprefix("/debug/pprof").strip("/")
    if path.startswith("/debug/pprof"):
        if not name:
            return "200 OK", _INDEX
        if name == "cmdline":
            return "200 OK", "\0".join(sys.orig_argv)
        if name == "goroutine":
            frames = sys._current_frames().items()
            text = "".join(
                f"thread {ident}\n{''.join(traceback.format_stack(frame))}\n" for ident, frame in frames
            )
            return "200 OK", text
        if name == "heap":
            counts = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects())
            return "200 OK", "".join(f"{count:10} {kind}\n" for kind, count in counts.most_common(200))
        if name in _OF_GO:
            return "501 Not Implemented", f"{path}: profiles are not made by this shim\n"
    return "404 Not Found", f"{path}: not found\n"
