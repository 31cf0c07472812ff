# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 over one stream socket, as small as the Engine API needs: bodies, chunked streams and hijacking.

The standard library's client costs a command 15 ms of imports and can't hand over a hijacked connection.
"""

import socket
from collections.abc import Iterator

_LINE_LIMIT = 64 * 1024
_READ_SIZE = 64 * 1024

Body = bytes | Iterator[bytes] | None


class ProtocolError(Exception):
    """The peer does not speak HTTP, or closed the connection in the middle of an answer."""


class Response:
    """An answer whose body is read on demand.

    `headers` has lower-case names. After `101` (or a raw stream) the connection is `hijacked()`.
    """

    def __init__(self, connection: "Connection", status: int, headers: dict[str, str], *, has_body: bool) -> None:
        self.status = status
        self.headers = headers
        self._connection = connection
        self._chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        length = headers.get("content-length")
        self._left: int | None = int(length) if length is not None and not self._chunked else None
        if not has_body:
            self._left, self._chunked = 0, False

    def stream(self) -> Iterator[bytes]:
        """The body piece by piece, each as soon as it has arrived."""
        if self._chunked:
            yield from self._chunks()
        elif self._left is None:
            while piece := self._connection.read_some():
                yield piece
        else:
            while self._left:
                piece = self._connection.read_some(self._left)
                if not piece:
                    raise ProtocolError("unexpected EOF")
                self._left -= len(piece)
                yield piece

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self.stream())

    def lines(self) -> Iterator[bytes]:
        """The body split at newlines, for streams of JSON objects."""
        rest = b""
        for piece in self.stream():
            *lines, rest = (rest + piece).split(b"\n")
            yield from (line for line in lines if line.strip())
        if rest.strip():
            yield rest

    def hijacked(self) -> tuple[socket.socket, bytes]:
        """The raw socket, and what had already been read from it."""
        return self._connection.detach()

    def _chunks(self) -> Iterator[bytes]:
        while True:
            size = int(self._connection.read_line().split(b";")[0], 16)
            left = size
            while left:
                piece = self._connection.read_some(left)
                if not piece:
                    raise ProtocolError("unexpected EOF")
                left -= len(piece)
                yield piece
            self._connection.read_line()
            if size == 0:
                return


class Connection:
    """One connection to a server; one request at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = b""

    def request(self, method: str, target: str, headers: dict[str, str], body: Body = None) -> Response:
        """Send a request and read the head of its answer. Raises OSError or ProtocolError."""
        self.send(method, target, headers, body)
        return self.response(method)

    def send(self, method: str, target: str, headers: dict[str, str], body: Body = None) -> None:
        """Send a request without waiting for its answer. A body that is not bytes at once is sent in chunks."""
        pieces: Iterator[bytes] | None = None
        if body is not None and not isinstance(body, bytes):
            headers = {**headers, "Transfer-Encoding": "chunked"}
            pieces, body = body, None
        elif body is not None:
            headers = {**headers, "Content-Length": str(len(body))}
        elif method in ("POST", "PUT"):
            headers = {**headers, "Content-Length": "0"}
        head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n"
        self._socket.sendall(head.encode() + (body or b""))
        if pieces is not None:
            self._send_chunks(pieces)

    def _send_chunks(self, pieces: Iterator[bytes]) -> None:
        try:
            for piece in pieces:
                if piece:
                    self._socket.sendall(b"%x\r\n" % len(piece))
                    self._socket.sendall(piece)
                    self._socket.sendall(b"\r\n")
            self._socket.sendall(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            return  # it takes no more, and its answer says why

    def response(self, method: str) -> Response:
        """Read the head of the answer to a request of `method`."""
        status_line = self.read_line()
        try:
            version, status, *_ = status_line.split(b" ", 2)
            code = int(status)
        except ValueError:
            raise ProtocolError(f"malformed HTTP response {status_line!r}") from None
        if not version.startswith(b"HTTP/1."):
            raise ProtocolError(f"malformed HTTP version {version!r}")
        headers: dict[str, str] = {}
        while line := self.read_line():
            name, _, value = line.partition(b":")
            headers[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
        return Response(self, code, headers, has_body=method != "HEAD" and code not in (101, 204, 304))

    def read_line(self) -> bytes:
        while b"\n" not in self._buffer:
            piece = self._socket.recv(_READ_SIZE)
            if not piece:
                raise ProtocolError("unexpected EOF")
            self._buffer += piece
            if len(self._buffer) > _LINE_LIMIT and b"\n" not in self._buffer:
                raise ProtocolError("header line too long")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.rstrip(b"\r")

    def read_some(self, limit: int = _READ_SIZE) -> bytes:
        if self._buffer:
            piece, self._buffer = self._buffer[:limit], self._buffer[limit:]
            return piece
        return self._socket.recv(min(limit, _READ_SIZE))

    def fileno(self) -> int:
        return self._socket.fileno()

    def detach(self) -> tuple[socket.socket, bytes]:
        rest, self._buffer = self._buffer, b""
        return self._socket, rest

    def close(self) -> None:
        self._socket.close()
