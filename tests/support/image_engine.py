# SPDX-License-Identifier: Apache-2.0
"""The image part of a daemon on a socket of its own, over a containerd of either kind.

from support.image_daemons import client, containerd_daemon
from support.image_engine import Engine, engine
"""

import asyncio
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from orlop.containerd.client import Client
from orlop.dockerd.access.gate import Gate
from orlop.dockerd.api.grpc import GrpcFront
from orlop.dockerd.api.request import ApiRequest
from orlop.dockerd.api.router import Route
from orlop.dockerd.api.routes.images import image_routes
from orlop.dockerd.api.server import ApiServer
from orlop.dockerd.images.ports import ContainerUse
from orlop.dockerd.images.service import ImageService
from orlop.dockerd.metrics import Metrics
from orlop.dockerd.plugins.authorization import Authorization
from orlop.registry import RegistryConfig

DOCKER = shutil.which("docker") or "/usr/bin/docker"
ORLOP = f"{os.path.dirname(sys.executable)}/orlop"

_NOTHING: Any = None


class Engine:
    """The image part of a daemon on a socket; `uses` is who uses an image, `events` what it published."""

    def __init__(self, containerd: Client, socket_path: str) -> None:
        self.socket_path = socket_path
        self.program = DOCKER
        self.uses: dict[str, list[ContainerUse]] = {}
        self.events: list[tuple[str, str, str]] = []
        self.service = ImageService(
            containerd,
            uses=lambda image_id: self.uses.get(image_id, []),
            publish=lambda action, actor, attributes: self.events.append((action, actor, attributes["name"])),
            registries=RegistryConfig(backoff=0.001, attempts=3),
        )

    async def docker(self, *arguments: str, stdin: bytes | None = None, fails: bool = False) -> str:
        """Run the docker command (or `program`): what it printed."""
        process = await asyncio.create_subprocess_exec(
            self.program,
            "-H",
            f"unix://{self.socket_path}",
            *arguments,
            stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], "HOME": os.path.dirname(self.socket_path)},
        )
        out, _ = await process.communicate(stdin)
        assert bool(process.returncode) == fails, out.decode()
        return out.decode()

    async def request(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Ask by hand: status and parsed body (lists of objects where several follow one another)."""
        status, raw = await self.bytes(method, path, **options)
        text = raw.decode()
        if "\r\n" in text:
            return status, [json.loads(line) for line in text.split("\r\n") if line]
        return status, json.loads(text) if text.strip() else None

    async def bytes(self, method: str, path: str, **options: Any) -> tuple[int, bytes]:
        """Ask by hand: status and body as it is."""
        connector = aiohttp.UnixConnector(self.socket_path)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, f"http://d{path}", **options) as response,
        ):
            return response.status, await response.read()


@pytest.fixture
async def engine(client: Client) -> AsyncIterator[Engine]:
    """An engine over the client's namespace."""
    with tempfile.TemporaryDirectory(prefix="oi-") as directory:
        path = f"{directory}/docker.sock"
        running = Engine(client, path)

        async def ping(request: ApiRequest) -> web.StreamResponse:
            return web.Response(text="OK")

        server = ApiServer(
            [Route("GET", "/_ping", ping), Route("HEAD", "/_ping", ping), *image_routes(running.service)],
            server_version="test",
            min_version=(1, 24),
            experimental=False,
            grpc=GrpcFront(f"{path}.grpc"),
            gate=Gate(list, _NOTHING, _NOTHING, _NOTHING),  # no policy: nothing is asked whose it is
            authorization=Authorization(_NOTHING, ()),
            metrics=Metrics(),
        )
        watching = asyncio.create_task(running.service.store.watch())
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
            listening.listen()
            await server.serve([(listening, None)])
            yield running
            await server.close(1)
        watching.cancel()
        await asyncio.wait([watching])
