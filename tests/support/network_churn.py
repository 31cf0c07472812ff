# SPDX-License-Identifier: Apache-2.0
"""`network_churn.py DIRECTORY`: a network service that connects and releases containers until it is killed."""

import asyncio
import itertools
import sys
from pathlib import Path

from support.networks import Host

from orlop.engine.types import PortBinding


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


if __name__ == "__main__":
    asyncio.run(churn(Path(sys.argv[1])))
