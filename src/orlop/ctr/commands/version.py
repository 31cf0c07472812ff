# SPDX-License-Identifier: Apache-2.0
"""ctr version."""

from __future__ import annotations

import platform

from orlop import __version__
from orlop.containerd.client import Client
from orlop.ctr.flags import Values
from orlop.ctr.main import Command


async def _version(client: Client, _values: Values) -> None:
    print(
        f"Client:\n  Version:  {__version__}\n  Revision: orlop\n  Python version: {platform.python_version()}\n"
    )
    server = await client.system.version()
    identity = await client.system.server()
    print(f"Server:\n  Version:  {server.version}\n  Revision: {server.revision}\n  UUID: {identity.uuid}")


COMMANDS = {"": Command(_version, "print the client and server versions")}
