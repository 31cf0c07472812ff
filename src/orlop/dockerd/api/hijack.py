# SPDX-License-Identifier: Apache-2.0
"""The answer that turns an HTTP connection into a raw two-way stream."""

from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from orlop.dockerd.api.connection import Hijacked
from orlop.dockerd.api.errors import status_of
from orlop.dockerd.api.request import ApiRequest
from orlop.dockerd.api.streams import MULTIPLEXED_STREAM, RAW_STREAM
from orlop.errdefs import OrlopError


class HijackedResponse(web.StreamResponse):
    """What a handler returns after it has hijacked: nothing is left to send, and the connection ends."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Nothing: the handler wrote the head itself."""
        self.force_close()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing."""


def content_type(request: ApiRequest, *, tty: bool) -> str:
    """Type of a hijacked stream: multiplexed without TTY for clients that upgrade and know it (API 1.42)."""
    if request.wants_upgrade and not tty and request.version >= (1, 42):
        return MULTIPLEXED_STREAM
    return RAW_STREAM


def hijack(request: ApiRequest, media_type: str, *, with_headers: bool) -> Hijacked:
    """Send `101 UPGRADED` (or 200, to a client that did not ask for an upgrade) and take the connection over.

    `with_headers`: also send the headers common to all answers (exec start does, attach does not).
    """
    lines = (
        ["HTTP/1.1 101 UPGRADED", f"Content-Type: {media_type}", "Connection: Upgrade", "Upgrade: tcp"]
        if request.wants_upgrade
        else ["HTTP/1.1 200 OK", f"Content-Type: {RAW_STREAM}"]
    )
    if with_headers:
        lines += [f"{name}: {value}" for name, value in request.common_headers.items()]
    stream = request.connection.hijack()
    stream.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    return stream


def refuse(request: ApiRequest, error: OrlopError) -> HijackedResponse:
    """Answer an attach that cannot be, as Docker does: the status, and the error as the text of a raw stream."""
    status = status_of(error)
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {RAW_STREAM}\r\n\r\n"
    request.connection.hijack().write(f"{head}{error}\r\n".encode())
    return HijackedResponse()
