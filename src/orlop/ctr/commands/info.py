# SPDX-License-Identifier: Apache-2.0
"""ctr info."""

from __future__ import annotations

import json

from google.protobuf.json_format import MessageToDict

from orlop.containerd.client import Client
from orlop.ctr.flags import Values
from orlop.ctr.main import Command


async def _info(client: Client, _values: Values) -> None:
    server = await client.system.server()
    document = MessageToDict(server, preserving_proto_field_name=True)
    print(json.dumps(document | {"pid": server.pid, "pidns": server.pidns}, indent=4))


COMMANDS = {"": Command(_info, "print the server info")}
