# SPDX-License-Identifier: Apache-2.0
"""gRPC on the API's socket, for BuildKit's clients: by HTTP/2 from the first byte, or by `POST /grpc`.

There is no BuildKit here: every method answers UNIMPLEMENTED in words that say so. grpcio's own server does the
talking, behind a private socket that exists from the first such client on.
"""

import asyncio
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orlop.dockerd.api.connection import Hijacked

if TYPE_CHECKING:
    import grpc.aio

NOT_SERVED = (
    "building images is not supported by this daemon; build with a BuildKit of its own "
    "(docker buildx create --driver docker-container, or --driver remote)"
)
_CHUNK = 64 * 1024


class GrpcFront:
    """Joins raw HTTP/2 streams to the gRPC server; `path` is where that one's socket may be."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._server: grpc.aio.Server | None = None
        self._lock = asyncio.Lock()

    async def serve(self, stream: Hijacked) -> None:
        """Copy in both directions until either side is done."""
        await self._start()
        reader, writer = await asyncio.open_unix_connection(self._path, limit=_CHUNK)
        incoming = asyncio.ensure_future(_copy_in(stream, writer))
        outgoing = asyncio.ensure_future(_copy_out(reader, stream))
        try:
            await asyncio.wait({outgoing, stream.gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (incoming, outgoing):
                task.cancel()
            await asyncio.gather(incoming, outgoing, return_exceptions=True)
            writer.close()
            stream.close()

    async def close(self) -> None:
        """Stop the server, if there is one."""
        if self._server is not None:
            await self._server.stop(None)
            Path(self._path).unlink(missing_ok=True)

    async def _start(self) -> None:
        async with self._lock:
            if self._server is not None:
                return
            import grpc.aio

            server = grpc.aio.server(handlers=[_nothing()])
            Path(self._path).unlink(missing_ok=True)
            mask = os.umask(0o177)
            try:
                server.add_insecure_port(f"unix:{self._path}")
            finally:
                os.umask(mask)
            await server.start()
            self._server = server


def _nothing() -> "grpc.GenericRpcHandler":
    import grpc

    class Nothing(grpc.GenericRpcHandler):
        """Refuses every method."""

        def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any]":
            async def refuse(requests: Any, context: Any) -> None:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, NOT_SERVED)

            return grpc.stream_stream_rpc_method_handler(refuse)

    return Nothing()


async def _copy_in(stream: Hijacked, writer: asyncio.StreamWriter) -> None:
    while data := await stream.read():
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def _copy_out(reader: asyncio.StreamReader, stream: Hijacked) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(_CHUNK):
            stream.write(data)
            await stream.drain()
