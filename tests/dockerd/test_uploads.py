# SPDX-License-Identifier: Apache-2.0
"""Bodies that a thread reads off the client's socket: framing, ends, clients that go away, the next request."""

from __future__ import annotations

import io
import socket
import tarfile
import threading
from typing import TYPE_CHECKING

import pytest
from support.stack import Stack

from orlop.dockerd.api.upload import Upload, framing
from orlop.errdefs import CanceledError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterator

PUT = b"PUT /v1.41/containers/box/archive?path=/tmp HTTP/1.1\r\nHost: x\r\n"


def read(upload: Upload) -> bytes:
    return b"".join(bytes(piece) for piece in upload)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize(
    "headers",
    [
        b"POST /containers/create HTTP/1.1\r\nContent-Length: 10000\r\n\r\n",
        PUT + b"\r\n",
        PUT + b"Content-Length: 5\r\n\r\n",  # all of it is here
        PUT + b"Content-Length: 10000\r\nTransfer-Encoding: chunked\r\n\r\n",
        PUT + b"Content-Length: 10000\r\nContent-Length: 1\r\n\r\n",
        PUT + b"Content-Length: 10000\r\nExpect: 100-continue\r\n\r\n",
        PUT + b"Content-Length: 10000\r\nContent-Type: application/json\r\n\r\n",
        PUT + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    ],
)
def test_what_goes_the_usual_way(headers: bytes) -> None:
    assert framing(headers, 5) is None


def test_a_length_is_announced_as_chunks() -> None:
    found = framing(PUT + b"Content-Length: 10000\r\nX: y\r\n\r\n", 5)
    assert found == (PUT + b"Transfer-Encoding: chunked\r\nX: y\r\n\r\n", 10000)
    chunked = PUT + b"transfer-encoding: Chunked\r\n\r\n"
    assert framing(chunked, 5) == (chunked, None)


def test_a_body_of_some_length_ends_where_it_says(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    upload = Upload(ours, b"abc", 6)
    theirs.sendall(b"defGET /")
    assert read(upload) == b"abcdef"
    assert upload.ended
    assert upload.rest == b"GET /"
    upload.close()


@pytest.mark.parametrize("cut", range(0, 48, 3))
def test_chunks_are_joined_wherever_they_are_cut(pair: tuple[socket.socket, socket.socket], cut: int) -> None:
    ours, theirs = pair
    body = b"3\r\nabc\r\n00A;name=value\r\n0123456789\r\n0\r\nX: y\r\n\r\nGET"
    upload = Upload(ours, body[:cut], None)
    sending = threading.Thread(target=lambda: [theirs.sendall(body[at : at + 1]) for at in range(cut, len(body))])
    sending.start()
    assert read(upload) == b"abc0123456789"
    sending.join()
    assert upload.ended
    assert b"GET".startswith(upload.rest)
    upload.close()


@pytest.mark.parametrize("body", [b"x\r\n", b"-1\r\nabc\r\n", b"3\r\nabcd\r\n", b"\r\n\r\n", b"1" * 9000])
def test_malformed_chunks_are_refused(pair: tuple[socket.socket, socket.socket], body: bytes) -> None:
    upload = Upload(pair[0], body, None)
    with pytest.raises(InvalidArgumentError, match="malformed chunked body"):
        read(upload)
    upload.close()


@pytest.mark.parametrize("end", ["leaves", "is stopped"])
def test_a_body_that_is_cut_is_an_error(pair: tuple[socket.socket, socket.socket], end: str) -> None:
    ours, theirs = pair
    upload = Upload(ours, b"abc", 6)
    (theirs.close if end == "leaves" else upload.stop)()
    with pytest.raises(CanceledError):
        read(upload)
    assert not upload.ended
    upload.close()


# -- through the daemon


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack() as stack:
        stack.load("busybox")
        stack.docker("create", "--name", "box", "busybox", "true")
        yield stack


def archive(size: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo("file")
        member.size = size
        tar.addfile(member, io.BytesIO(b"x" * size))
    return out.getvalue()


def in_chunks(body: bytes) -> bytes:
    parts = [body[at : at + 32768] for at in range(0, len(body), 32768)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def put(stack: Stack, requests: list[tuple[str, bytes]], *, chunked: bool) -> list[int]:
    """The status of each of some uploads over one connection, all sent before an answer is read."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(stack.socket)
        found = []
        answers = connection.makefile("rb")
        for path, body in requests:
            head = f"PUT /containers/{path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-tar\r\n"
            head += "Transfer-Encoding: chunked\r\n" if chunked else f"Content-Length: {len(body)}\r\n"
            connection.sendall(head.encode() + b"\r\n")
            connection.sendall(in_chunks(body) if chunked else body)
            found.append(int(answers.readline().split()[1]))
            length = 0
            while (line := answers.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            answers.read(length)
        answers.close()
    return found


@pytest.mark.root
@pytest.mark.parametrize("chunked", [False, True])
def test_uploads_over_one_connection(stack: Stack, chunked: bool) -> None:
    good, late = archive(3 << 20), b"\xff" * (3 << 20)
    wanted = [
        ("box/archive?path=/tmp", good, 200),
        ("missing/archive?path=/tmp", good, 404),  # nobody reads the body
        ("box/archive?path=/tmp", late, 400),  # most of it is not read
        ("box/archive?path=/tmp", good, 200),
    ]
    found = put(stack, [(path, body) for path, body, _ in wanted], chunked=chunked)
    assert found == [status for *_, status in wanted]


@pytest.mark.root
def test_a_client_that_leaves_amid_its_upload(stack: Stack) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(stack.socket)
        head = PUT.replace(b"/v1.41", b"") + b"Content-Length: 4000000\r\n\r\n"
        connection.sendall(head + archive(1 << 20))
    assert put(stack, [("box/archive?path=/tmp", archive(3 << 20))], chunked=False) == [200]
