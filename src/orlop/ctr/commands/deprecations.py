# SPDX-License-Identifier: Apache-2.0
"""ctr deprecations."""

from __future__ import annotations

import json

from orlop.containerd.client import Client
from orlop.ctr import table
from orlop.ctr.flags import Flag, Values
from orlop.ctr.main import Command
from orlop.errdefs import InvalidArgumentError


async def _list(client: Client, values: Values) -> None:
    warnings = (await client.system.server()).deprecations
    if values["format"] not in ("", "json"):
        raise InvalidArgumentError(f"format: expected json, got {values['format']!r}")
    if values["format"] == "json":
        rows = [
            {"id": each.id, "message": each.message, "lastOccurrence": each.last_occurrence.ToJsonString()}
            for each in warnings
        ]
        print(json.dumps(rows, indent=4))
    elif warnings:
        lines = [("ID", "LAST OCCURRENCE", "MESSAGE")]
        lines += [(each.id, each.last_occurrence.ToJsonString(), each.message) for each in warnings]
        print(table.lines(lines, padding=1, minimum=1), end="")


COMMANDS = {
    "list": Command(
        _list, "print warnings for deprecations", "[flags]", (Flag("format", help='output format ("json")'),)
    )
}
