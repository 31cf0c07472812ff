# SPDX-License-Identifier: Apache-2.0
"""A large body that one thread reads off the client's socket, past the event loop and the HTTP parser.

What goes through the loop is copied four times and changes threads with each piece: `docker cp` of a tree spent
more time on that than on making the files.
"""

import os
import re
import select
import socket
import time
from collections.abc import Iterator
from typing import NamedTuple

from orlop.errdefs import CanceledError, InvalidArgumentError

_REQUEST = re.compile(rb"PUT /(?:v[0-9.]+/)?containers/[^/ ]+/archive\?[^ ]* HTTP/1\.1\r\n")
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*(?=\r\n)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*(?=\r\n)", re.IGNORECASE)
_OTHERWISE = re.compile(rb"\r\n(?:expect|content-type:[^\r]*json)", re.IGNORECASE)
"""What the usual way has an answer to: clients that wait to be asked, bodies that others want to see."""
_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\r\n]*)?")
_PIECE = 1 << 20  # bytes read at a time
_LONGEST_LINE = 8192
_USUAL_LINE = 32
_DRAIN_SECONDS = 10.0

END = b"0\r\n\r\n"
"""What ends a chunked body (RFC 9112, section 7.1)."""


class Framing(NamedTuple):
    """`headers` announce a chunked body, whose end can be told without the body; `length` None: it is chunked."""

    headers: bytes
    length: int | None


def framing(headers: bytes, following: int) -> Framing | None:
    """How the body of a request is to be read by a thread, if it may be; `following` bytes of it are here."""
    if not _REQUEST.match(headers) or _OTHERWISE.search(headers):
        return None
    lengths = _CONTENT_LENGTH.findall(headers)
    chunked = len(_CHUNKED.findall(headers))
    if chunked == 1 and not lengths:
        return Framing(headers, None)
    if len(lengths) == 1 and not chunked and int(lengths[0]) > following:
        return Framing(_CONTENT_LENGTH.sub(b"\r\nTransfer-Encoding: chunked", headers), int(lengths[0]))
    return None


class Upload:
    """The body: `ahead` of it has been read, `length` None means that it is chunked. One thread iterates it, once.

    The pieces are valid until the next one is asked for.
    """

    def __init__(self, sock: socket.socket, ahead: bytes, length: int | None) -> None:
        # A descriptor of its own: whatever closes the connection, the thread's does not become somebody else's.
        self._socket = socket.socket(fileno=os.dup(sock.fileno()))
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._deadline: float | None = None
        self._buffer = bytearray()
        self._ahead = memoryview(ahead)
        self._pieces = self._chunks() if length is None else self._exactly(length)
        self.ended = False
        """Whether all was read; what follows the body is in `rest`."""

    @property
    def rest(self) -> bytes:
        """What the client has sent behind the body."""
        return bytes(self._ahead)

    def __iter__(self) -> Iterator[memoryview]:
        """The body. Raises CanceledError when the client goes away, InvalidArgumentError for broken chunks."""
        yield from self._pieces
        self.ended = True

    def stop(self) -> None:
        """Have the thread find that nothing more comes, from another thread; the connection is of no more use."""
        self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Let the socket go; the thread must have ended."""
        self._socket.close()

    def drain(self) -> None:
        """Read what nobody wanted, so that the client, who may send all before it reads, gets to its answer.

        Raises as the iterator does, CanceledError also for a client that takes long.
        """
        self._deadline = time.monotonic() + _DRAIN_SECONDS
        for _ in self:
            pass

    def _exactly(self, size: int) -> Iterator[memoryview]:
        while size:
            piece = self._some(size)
            size -= len(piece)
            yield piece

    def _chunks(self) -> Iterator[memoryview]:
        while size := self._chunk_size():
            yield from self._exactly(size)
            if self._line():
                raise InvalidArgumentError("malformed chunked body: a chunk is longer than it says")
        while self._line():
            pass  # trailers say nothing here

    def _chunk_size(self) -> int:
        line = self._line()
        size = _SIZE.fullmatch(line)
        if size is None:
            raise InvalidArgumentError(f"malformed chunked body: {line[:40]!r} is not a size")
        return int(size[1], 16)

    def _line(self) -> bytes:
        near = bytes(self._ahead[:_USUAL_LINE])
        if (end := near.find(b"\r\n")) >= 0:
            self._ahead = self._ahead[end + 2 :]
            return near[:end]
        line = b""
        while not line.endswith(b"\r\n"):
            if len(line) > _LONGEST_LINE:
                raise InvalidArgumentError("malformed chunked body: a line is too long")
            line += self._some(1)
        return line[:-2]

    def _some(self, limit: int) -> memoryview:
        """Between 1 and `limit` bytes."""
        if not self._ahead:
            self._receive()
        piece, self._ahead = self._ahead[:limit], self._ahead[limit:]
        return piece

    def _receive(self) -> None:
        if not self._buffer:
            self._buffer = bytearray(_PIECE)
        count = None
        while count is None:
            left = None if self._deadline is None else 1000 * max(0.0, self._deadline - time.monotonic())
            if not self._poll.poll(left):
                raise CanceledError("the client takes long to send what nobody wants")
            try:
                count = self._socket.recv_into(self._buffer)
            except BlockingIOError:
                continue
            except OSError as error:
                raise CanceledError(f"the client went away: {error.strerror}") from None
        if not count:
            raise CanceledError("the client went away")
        self._ahead = memoryview(self._buffer)[:count]
