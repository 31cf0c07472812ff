# SPDX-License-Identifier: Apache-2.0
"""ctr events."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.json_format import MessageToDict

# Loaded so that their messages can be decoded.
from orlop.api import events_pb2 as _events
from orlop.api import image_events_pb2 as _image_events
from orlop.containerd.client import Client, typeurl
from orlop.ctr import table
from orlop.ctr.flags import Values
from orlop.ctr.main import Command
from orlop.errdefs import InvalidArgumentError

_LOADED = (_events, _image_events)


async def _events_command(client: Client, values: Values) -> None:
    async with client.events.subscribe(*values.arguments) as events:
        async for envelope in events:
            when = table.go_time(envelope.timestamp)
            print(when, envelope.namespace, envelope.topic, _text(envelope.event), flush=True)


def _text(packed: Any) -> str:
    try:
        message = typeurl.decode(packed)
    except InvalidArgumentError:
        return json.dumps({"type_url": packed.type_url})
    return json.dumps(
        MessageToDict(message, preserving_proto_field_name=True), separators=(",", ":"), ensure_ascii=False
    )


COMMANDS = {"": Command(_events_command, "display containerd events", "[<filter>, ...]")}
