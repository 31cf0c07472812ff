# SPDX-License-Identifier: Apache-2.0
"""A shim that holds a sandbox and no container: the Sandbox API over ttrpc, as its own program.

`start` prints where it listens, `delete` has nothing to clean up. `install` makes the program that a test names as
the runtime.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import sys
import time
from typing import Any

from google.protobuf.empty_pb2 import Empty

from orlop.api import runtime_sandbox_pb2 as pb
from orlop.api import shim_v3_pb2
from orlop.api.shim_v2_pb2 import DeleteResponse
from orlop.api.types_pb2 import Metric, Platform
from orlop.errdefs import NotFoundError
from orlop.rpc.ttrpc.aio import Server


def install(directory: str) -> str:
    """The program, in a directory: its path."""
    path = f"{directory}/containerd-shim-sandbox-v1"
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\nexec {sys.executable} {os.path.abspath(__file__)} "$@"\n')
    os.chmod(path, 0o755)
    return path


class Shim:
    """One sandbox."""

    def __init__(self) -> None:
        self.request: pb.CreateSandboxRequest | None = None
        self.state = "created"
        self.stopped = asyncio.Event()
        self.ending = asyncio.Event()

    def handlers(self) -> dict[str, Any]:
        return {
            "CreateSandbox": self.create,
            "StartSandbox": self.start,
            "Platform": self.platform,
            "StopSandbox": self.stop,
            "WaitSandbox": self.wait,
            "SandboxStatus": self.status,
            "PingSandbox": self.ping,
            "ShutdownSandbox": self.shutdown,
            "SandboxMetrics": self.metrics,
        }

    async def create(self, request: Any, _: Any) -> Any:
        if request.annotations.get("fail"):
            raise NotFoundError("told to fail")
        self.request = request
        return pb.CreateSandboxResponse()

    async def start(self, request: Any, _: Any) -> Any:
        self.state = "running"
        answer = pb.StartSandboxResponse(pid=os.getpid())
        answer.created_at.FromNanoseconds(time.time_ns())
        return answer

    async def platform(self, request: Any, _: Any) -> Any:
        return pb.PlatformResponse(platform=Platform(os="linux", architecture="amd64"))

    async def stop(self, request: Any, _: Any) -> Any:
        self.state = f"stopped within {request.timeout_secs}"
        self.stopped.set()
        return pb.StopSandboxResponse()

    async def wait(self, request: Any, _: Any) -> Any:
        await self.stopped.wait()
        answer = pb.WaitSandboxResponse(exit_status=7)
        answer.exited_at.FromNanoseconds(time.time_ns())
        return answer

    async def status(self, request: Any, _: Any) -> Any:
        assert self.request is not None
        info = {"netns": self.request.netns_path, "bundle": self.request.bundle_path} if request.verbose else {}
        return pb.SandboxStatusResponse(
            sandbox_id=request.sandbox_id, pid=os.getpid(), state=self.state, info=info
        )

    async def ping(self, request: Any, _: Any) -> Any:
        if self.request is None:
            raise NotFoundError("there is no sandbox yet")
        return pb.PingResponse()

    async def metrics(self, request: Any, _: Any) -> Any:
        return pb.SandboxMetricsResponse(metrics=Metric(id=request.sandbox_id))

    async def shutdown(self, request: Any, _: Any) -> Any:
        self.stopped.set()
        return pb.ShutdownSandboxResponse()

    async def shutdown_task(self, request: Any, _: Any) -> Any:
        self.ending.set()
        return Empty()


async def serve(sock: socket.socket, path: str) -> None:
    shim = Shim()
    server = Server()
    server.add_service(pb.DESCRIPTOR.services_by_name["Sandbox"], shim.handlers())
    server.add_service(shim_v3_pb2.DESCRIPTOR.services_by_name["Task"], {"Shutdown": shim.shutdown_task})
    sock.setblocking(False)
    await server.listen(sock)
    await shim.ending.wait()
    os.unlink(path)
    await asyncio.sleep(0.05)  # the answer leaves
    await server.close()


def main() -> None:
    action = sys.argv[-1]
    arguments = dict(zip(sys.argv[1:-1:2], sys.argv[2:-1:2], strict=False))
    if action == "delete":
        sys.stdout.buffer.write(DeleteResponse(exit_status=137).SerializeToString())
        return
    if action != "start":
        print("sandbox shim, version 0.0")
        return
    name = hashlib.sha256(os.getcwd().encode()).hexdigest()[:20]
    path = f"/tmp/ocs-{name}"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(path)
    sock.listen()
    if os.fork():
        print(json.dumps({"version": 3, "address": f"unix://{path}", "protocol": "ttrpc"}))
        return
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    assert arguments["-id"]
    asyncio.run(serve(sock, path))


if __name__ == "__main__":
    main()
