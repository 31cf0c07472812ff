# SPDX-License-Identifier: Apache-2.0
"""Attaching by websocket to the whole stack, with a client that is not ours."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
from support.e2e import Stack

pytestmark = pytest.mark.root


@contextlib.asynccontextmanager
async def attached(stack: Stack, container: str, query: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    connector = aiohttp.UnixConnector(str(stack.run_dir / "docker.sock"))
    async with aiohttp.ClientSession(connector=connector) as session:
        url = f"http://docker/v1.47/containers/{container}/attach/ws?{query}"
        async with session.ws_connect(url) as socket:
            yield socket


async def until(socket: aiohttp.ClientWebSocketResponse, wanted: bytes) -> bytes:
    """What comes until `wanted` is in it."""
    got = b""
    while wanted not in got:
        message = await asyncio.wait_for(socket.receive(), 20)
        assert message.type is aiohttp.WSMsgType.BINARY, (message, got)
        got += message.data
    return got


@pytest.fixture
def cat(stack: Stack) -> Iterator[str]:
    """A container that echoes its input, with a prefix on standard error."""
    script = "while read -r line; do echo out-$line; echo err-$line >&2; done; echo end"
    id_ = stack.docker("run", "-di", "busybox", "sh", "-c", script).stdout.strip()
    yield id_
    stack.docker("rm", "-f", id_)


async def test_both_directions(stack: Stack, cat: str) -> None:
    async with attached(stack, cat, "stream=1&stdin=1&stdout=1&stderr=1") as socket:
        await socket.send_bytes(b"one\n")
        await until(socket, b"err-one\n")
        await socket.send_str("two\n")
        got = await until(socket, b"err-two\n")
        assert b"out-two\n" in got and b"\0" not in got  # not multiplexed
    # The client has left; the process has not, and has its input still.
    async with attached(stack, cat, "stream=1&stdin=1&stdout=1&logs=1") as socket:
        await until(socket, b"out-two\n")
        await socket.send_bytes(b"three\n")
        assert b"err-" not in await until(socket, b"out-three\n")


async def test_the_end_of_the_process_ends_the_connection(stack: Stack, cat: str) -> None:
    async with attached(stack, cat, "stream=1&stdout=1") as socket:
        stack.docker("kill", cat)
        message = await asyncio.wait_for(socket.receive(), 20)
        assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)


async def test_a_terminal(stack: Stack) -> None:
    id_ = stack.docker("run", "-dit", "busybox", "sh").stdout.strip()
    try:
        async with attached(stack, id_, "stream=1&stdin=1&stdout=1&detachKeys=ctrl-x") as socket:
            await socket.send_bytes(b"echo $((6*7))\n")
            await until(socket, b"42\r\n")
            await socket.send_bytes(b"\x18")
            while (message := await asyncio.wait_for(socket.receive(), 20)).type is aiohttp.WSMsgType.BINARY:
                pass
            assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
        assert stack.docker("inspect", "-f", "{{.State.Running}}", id_).stdout == "true\n"
    finally:
        stack.docker("rm", "-f", id_)


async def test_errors_come_before_the_upgrade(stack: Stack, cat: str) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        async with attached(stack, "nosuch", "stream=1"):
            pass
    assert caught.value.status == 404
    plain = f"http://docker/containers/{cat}/attach/ws"
    connector = aiohttp.UnixConnector(str(stack.run_dir / "docker.sock"))
    async with aiohttp.ClientSession(connector=connector) as session, session.get(plain) as response:
        assert response.status == 400
