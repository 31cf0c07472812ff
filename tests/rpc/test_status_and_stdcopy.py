# SPDX-License-Identifier: Apache-2.0
"""Errors to codes and back, through a real gRPC server too; the stdcopy framing."""

import inspect
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from orlop import errdefs
from orlop.api import version_pb2, version_pb2_grpc
from orlop.rpc import grpc as rpc_grpc
from orlop.rpc import status, stdcopy

KINDS = [
    kind
    for _, kind in inspect.getmembers(errdefs, inspect.isclass)
    if issubclass(kind, errdefs.OrlopError) and kind not in (errdefs.OrlopError, errdefs.NotModifiedError)
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_survives_the_wire(kind: type[errdefs.OrlopError]) -> None:
    back = status.error_for(status.code_of(kind("x")), "x")
    assert type(back) is kind
    assert str(back) == "x"


def test_foreign_errors_and_codes() -> None:
    class Special(errdefs.NotFoundError):
        pass

    assert status.code_of(Special("x")) == 5
    assert status.code_of(ValueError("x")) == 2
    assert status.message_of(ValueError()) == "ValueError"
    assert type(status.error_for(13, "x")) is errdefs.InternalError
    assert type(status.error_for(99, "x")) is errdefs.InternalError


async def test_interceptor_and_client_helpers(tmp_path: Path) -> None:
    unexpected: list[str] = []
    failures: list[Exception] = [errdefs.ConflictError("busy"), ValueError("bug")]

    class Version(version_pb2_grpc.VersionServicer):
        async def Version(self, request: Any, context: Any) -> version_pb2.VersionResponse:  # type: ignore[override]
            if failures:
                raise failures.pop(0)
            return version_pb2.VersionResponse(version="1")

    async def count(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"1"
        raise errdefs.OutOfRangeError("end")

    server = grpc.aio.server(
        interceptors=[rpc_grpc.ErrorInterceptor(lambda method, error: unexpected.append(method))]
    )
    version_pb2_grpc.add_VersionServicer_to_server(Version(), server)  # type: ignore[no-untyped-call]
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("t.T", {"Count": grpc.unary_stream_rpc_method_handler(count)})]
    )
    server.add_insecure_port(f"unix:{tmp_path}/s")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
        stub: Any = version_pb2_grpc.VersionStub(channel)  # type: ignore[no-untyped-call]
        with pytest.raises(errdefs.ConflictError, match=r"^busy$"):
            await rpc_grpc.call(stub.Version(version_pb2.google_dot_protobuf_dot_empty__pb2.Empty()))
        with pytest.raises(errdefs.InternalError, match=r"^bug$"):
            await rpc_grpc.call(stub.Version(version_pb2.google_dot_protobuf_dot_empty__pb2.Empty()))
        answer = await rpc_grpc.call(stub.Version(version_pb2.google_dot_protobuf_dot_empty__pb2.Empty()))
        assert answer.version == "1"
        got = []
        with pytest.raises(errdefs.OutOfRangeError, match=r"^end$"):
            async for item in rpc_grpc.stream(channel.unary_stream("/t.T/Count")(b"")):
                got.append(item)
        assert got == [b"1"]
    await server.stop(None)
    assert unexpected == ["/containerd.services.version.v1.Version/Version"]


def test_stdcopy_frames_survive_any_cut() -> None:
    frames = [(1, b"out"), (2, b""), (2, b"err" * 1000), (0, b"x"), (3, b"boom")]
    stream = b"".join(stdcopy.encode(kind, data) for kind, data in frames)
    assert stream[:8] == b"\x01\0\0\0\0\0\0\x03"
    for size in (1, 7, 8, 9, 4096):
        decoder = stdcopy.Decoder()
        assert [f for at in range(0, len(stream), size) for f in decoder.feed(stream[at : at + size])] == frames
        assert decoder.pending == 0


def test_stdcopy_refuses_an_unknown_stream() -> None:
    with pytest.raises(errdefs.DataLossError, match="unrecognized stream 71"):
        stdcopy.Decoder().feed(b"GET / HTTP/1.1\r\n")
