# SPDX-License-Identifier: Apache-2.0
"""`network_churn.py DIRECTORY [roam]`: a network service that works until it is killed.

It connects and releases containers, or (roam) makes and removes networks and leads containers through them.
"""

import asyncio
import itertools
import sys
from pathlib import Path

from support.networks import Host

from orlop.dockerd.network import SandboxRequest
from orlop.engine.types import EndpointSettings, NetworkCreateRequest, PortBinding


async def churn(directory: Path) -> None:
    """Keep two containers, replace the older one each time; say when the first is there."""
    host = Host(directory)
    await host.service.start()
    for number in itertools.count():
        port = PortBinding(host_port=str(9000 + number % 50))
        await host.connect(f"c{number}", port_bindings={"80/tcp": [port]})
        if number == 0:
            print("going", flush=True)
        if number >= 2:
            await host.service.release(f"c{number - 2}")


async def roam(directory: Path) -> None:
    """Two networks that stay and one that comes and goes; a container with a port goes from one to the other."""
    host = Host(directory)
    service = host.service
    await service.start()
    for name in ("zone", "alpha"):
        await service.create_network(NetworkCreateRequest(name=name))
    for number in itertools.count():
        name = f"c{number}"
        port = PortBinding(host_port=str(9000 + number % 50))
        await host.connect(name, mode="zone", port_bindings={"80/tcp": [port]})
        if number == 0:
            print("going", flush=True)
        await service.create_network(NetworkCreateRequest(name="brief"))
        request = SandboxRequest(container_id=name, name=name, hostname=name)
        for there in ("brief", "alpha"):
            await service.attach(request, there, EndpointSettings())
        await service.detach(name, "brief")
        await service.remove_network("brief")
        await service.detach(name, "zone")
        if number >= 2:
            await service.release(f"c{number - 2}")


if __name__ == "__main__":
    asyncio.run((roam if sys.argv[2:] else churn)(Path(sys.argv[1])))
