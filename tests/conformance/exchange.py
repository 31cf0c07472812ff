# SPDX-License-Identifier: Apache-2.0
"""One HTTP request to a daemon's Unix socket, and all of the answer, hijacked streams too."""

from __future__ import annotations

import http.client
import socket
from typing import NamedTuple

TIMEOUT = 20.0  # seconds without a byte
ENDLESS = 3.0  # the same where an answer has begun that is not to end
NO_END = b"<no end>"
"""Stands at the end of a body that did not end."""


class Answer(NamedTuple):
    """Status, headers as they were written, and the body without its transfer coding."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        """A header's value whatever its letters' case; empty if there is none."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = connect(self._path)


def connect(path: str) -> socket.socket:
    """A connection to a Unix socket."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(TIMEOUT)
    connection.connect(path)
    return connection


def ask(path: str, method: str, target: str, body: bytes | None, headers: dict[str, str]) -> Answer:
    """Send one request on a connection of its own and read the answer to its end."""
    connection = _Connection(path)
    try:
        connection.request(method, target, body, headers)
        response = connection.getresponse()
        return Answer(response.status, response.reason, response.getheaders(), _read(response))
    except TimeoutError:
        return Answer(0, "no answer", [], b"")
    finally:
        connection.close()


def _read(response: http.client.HTTPResponse) -> bytes:
    data = b""
    try:
        while part := response.read1(65536):
            data += part
    except TimeoutError:
        data += NO_END
    return data


def hijack(
    path: str, target: str, body: bytes, headers: dict[str, str], stdin: bytes, *, endless: bool = False
) -> Answer:
    """POST something that turns into a raw stream, send standard input, and read until the daemon closes.

    Of a stream that is `endless` no end is awaited for long.
    """
    lines = [f"POST {target} HTTP/1.1", "Host: docker", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    with connect(path) as connection:
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body + stdin)
        connection.shutdown(socket.SHUT_WR)
        data = b""
        try:
            while part := connection.recv(65536):
                data += part
                if endless and b"\r\n\r\n" in data:
                    connection.settimeout(ENDLESS)
        except TimeoutError:
            data += NO_END
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    _, status, reason = first.split(" ", 2)
    pairs = [(name, value.strip()) for name, _, value in (field.partition(":") for field in fields)]
    return Answer(int(status), reason, pairs, rest)
