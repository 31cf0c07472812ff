# SPDX-License-Identifier: Apache-2.0
"""Another machine: a network service of its own, in a process and a network namespace of its own.

The process reads one JSON object a line, with a method of the Host and its arguments, and answers each by one.
"""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.networks import Host, ip, run

from orlop.codec import decode
from orlop.dockerd.network import SandboxRequest
from orlop.engine.types import EndpointSettings, NetworkCreateRequest
from orlop.errdefs import OrlopError


class Machine:
    """A machine on the wire of the test's own namespace, with a network service."""

    def __init__(self, directory: Path, address: str) -> None:
        """`address` is on the wire to the test's namespace, with its prefix length."""
        directory.mkdir()
        path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
        self._process = subprocess.Popen(
            ["unshare", "-n", sys.executable, "-m", "support.machine", str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            text=True,
        )
        self.netns = f"/proc/{self._process.pid}/ns/net"
        self._answer()
        name = f"m{self._process.pid}"
        ip(f"link add {name} type veth peer name wire netns {self._process.pid}")
        ip(f"link set {name} up")
        self.wire = name
        for words in (
            ("addr", "add", address, "dev", "wire"),
            ("link", "set", "wire", "up"),
            ("link", "set", "lo", "up"),
        ):
            run(self.netns, "ip", *words)
        self.call("start")

    def call(self, method: str, **arguments: Any) -> Any:
        """Call a method in the machine's process. Raises OrlopError as a RuntimeError with its text."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"method": method, **arguments}) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]

    def close(self) -> None:
        """End everything of the machine."""
        self.call("close")
        self._process.communicate(timeout=20)
        assert self._process.returncode == 0

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


class _Served:
    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)
        self._containers: list[str] = []
        self._host: Host | None = None

    async def start(self) -> None:
        self._host = Host(self._directory)
        await self._host.service.start()

    async def create(self, **request: Any) -> Any:
        assert self._host is not None
        return await self._host.service.create_network(decode(json.dumps(request), NetworkCreateRequest))

    async def remove(self, name: str) -> None:
        assert self._host is not None
        await self._host.service.remove_network(name)
        await self._host.service._networks.close()

    async def connect(self, name: str, network: str, address: str = "") -> Any:
        assert self._host is not None
        settings = {"IPAMConfig": {"IPv4Address": address}} if address else {}
        endpoints = {network: decode(json.dumps(settings), EndpointSettings)}
        request = SandboxRequest(container_id=name, name=name, hostname=name, mode=network, endpoints=endpoints)
        sandbox = await self._host.service.connect(request)
        self._containers.append(name)
        return {"netns": sandbox.netns_path, "address": sandbox.endpoints[network].ip_address}

    async def restart(self) -> None:
        assert self._host is not None
        await self._host.restart()

    async def close(self) -> None:
        assert self._host is not None
        await self._host.close(self._containers)


async def _serve(directory: str) -> None:
    served = _Served(directory)
    print(json.dumps("ready"), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        message = json.loads(line)
        try:
            answer = {"result": await getattr(served, message.pop("method"))(**message)}
        except OrlopError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
