# SPDX-License-Identifier: Apache-2.0
"""Answers: plain JSON, nothing, and streams whose headers leave before their first byte."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

from aiohttp import web

from orlop import codec
from orlop.dockerd.api.request import ApiRequest
from orlop.errdefs import CanceledError

T = TypeVar("T")

RAW_STREAM = "application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM = "application/vnd.docker.multiplexed-stream"
JSON_LINES = "application/jsonl"
NDJSON = "application/x-ndjson"
_JSON_SEQUENCE = "application/json-seq"


def accepted_json_stream(request: ApiRequest) -> str:
    """The first content type for a stream of JSON objects that the client names, not by a wildcard; or empty."""
    accepted = (part.partition(";")[0].strip() for part in request.header("Accept").split(","))
    return next((kind for kind in accepted if kind in (JSON_LINES, NDJSON, _JSON_SEQUENCE)), "")


def framed(value: Any, content_type: str) -> bytes:
    """An object of such a stream (a sequence of RFC 7464 has a record separator before each)."""
    return (b"\x1e" if content_type == _JSON_SEQUENCE else b"") + codec.encode(value) + b"\n"


def json_response(value: Any, status: int = 200) -> web.Response:
    """A value as JSON with a newline, as Go's encoder ends it."""
    return web.Response(status=status, body=codec.encode(value) + b"\n", content_type="application/json")


def empty_response(status: int = 204) -> web.Response:
    """No body."""
    return web.Response(status=status)


async def start_stream(
    request: ApiRequest, content_type: str, headers: dict[str, str] | None = None
) -> web.StreamResponse:
    """Send 200 and the headers now; the body follows with `write` in chunks."""
    response = web.StreamResponse(headers={"Content-Type": content_type, **(headers or {})})
    response.headers.update(request.common_headers)
    if request.http.version >= (1, 1):
        response.enable_chunked_encoding()
    await response.prepare(request.http)
    return response


async def or_gone(request: ApiRequest, awaitable: Awaitable[T]) -> T:
    """Await something unless the client goes away first: then cancel it and raise CanceledError."""
    task: asyncio.Future[T] = asyncio.ensure_future(awaitable)
    either: set[asyncio.Future[Any]] = {task, request.gone}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if task.done():
        return task.result()
    task.cancel()
    await asyncio.wait({task})
    raise CanceledError("client went away")


async def pump(request: ApiRequest, response: web.StreamResponse, chunks: AsyncIterator[bytes]) -> None:
    """Write every chunk of an iterator; when the client goes away, stop and close the iterator.

    Raises what the iterator raises, after having cut the connection: a client that misses the end of the body
    knows that it has not got everything.
    """

    async def copy() -> None:
        async for chunk in chunks:
            await response.write(chunk)

    try:
        await or_gone(request, copy())
        await response.write_eof()
    except (ConnectionError, CanceledError):
        response.force_close()
    except Exception:
        if request.http.transport is not None:
            request.http.transport.abort()
        raise
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()


class JsonStream:
    """A stream of JSON objects, each ended by CR LF: progress of pull, push, load, build."""

    def __init__(self, response: web.StreamResponse) -> None:
        self._response = response

    @classmethod
    async def open(cls, request: ApiRequest, content_type: str = "application/json") -> "JsonStream":
        """Send the headers and begin."""
        return cls(await start_stream(request, content_type))

    async def send(self, value: Any) -> None:
        """Write one object. Raises ConnectionError when the client is gone."""
        await self._response.write(codec.encode(value) + b"\r\n")

    async def error(self, message: str, code: int | None = None) -> None:
        """Write a failure in-band: `errorDetail` and the older `error`."""
        detail: dict[str, Any] = {"message": message}
        if code is not None:
            detail = {"code": code, "message": message}
        await self.send({"errorDetail": detail, "error": message})

    async def close(self) -> web.StreamResponse:
        """End the stream; give the result to aiohttp."""
        await self._response.write_eof()
        return self._response
