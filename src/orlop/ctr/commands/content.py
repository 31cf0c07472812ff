# SPDX-License-Identifier: Apache-2.0
"""ctr content."""

from __future__ import annotations

import sys

from orlop.api.content_pb2 import Info
from orlop.containerd.client import Client
from orlop.ctr import table
from orlop.ctr.flags import Flag, Values
from orlop.ctr.labels import label_arguments
from orlop.ctr.main import Command


async def _list(client: Client, values: Values) -> None:
    found = [info async for info in client.content.list(*values.arguments)]
    if values["quiet"]:
        print("".join(f"{info.digest}\n" for info in found), end="")
        return
    rows = [("DIGEST", "SIZE", "AGE", "LABELS")]
    rows += [
        (info.digest, table.size_text(info.size), table.age_text(info.created_at), table.label_text(info.labels))
        for info in found
    ]
    print(table.lines(rows, padding=1, minimum=1, trail=False), end="")


async def _delete(client: Client, values: Values) -> None:
    values.need("digest")
    for digest in values.arguments:
        await client.content.delete(digest)
        print(digest)


async def _get(client: Client, values: Values) -> None:
    (digest,) = values.need("digest")
    async for data in client.content.read(digest):
        sys.stdout.buffer.write(data)
    sys.stdout.flush()


async def _ingest(client: Client, values: Values) -> None:
    (ref,) = values.need("reference")
    size, expected = values["expected-size"], values["expected-digest"]
    async with client.content.writer(ref, size=size, expected=expected) as writer:
        if writer.offset:
            await writer.restart()
        while data := sys.stdin.buffer.read(1 << 20):
            await writer.write(data)
        await writer.commit(size=size, expected=expected)


async def _active(client: Client, values: Values) -> None:
    statuses = await client.content.statuses(*(f"ref~={each}" for each in values.arguments))
    rows = [("REF", "SIZE", "AGE")]
    rows += [(each.ref, table.size_text(each.offset), table.age_text(each.started_at)) for each in statuses]
    print(table.lines(rows, padding=1, minimum=1), end="")


async def _label(client: Client, values: Values) -> None:
    (digest,) = values.need("digest")
    labels = label_arguments(values.arguments[1:])
    info = await client.content.update(Info(digest=digest, labels=labels), *(f"labels.{key}" for key in labels))
    print(table.label_text(info.labels, ""))


COMMANDS = {
    "active": Command(_active, "display active transfers", "[flags] [<regexp>]"),
    "delete": Command(_delete, "permanently delete one or more blobs", "[<digest>, ...]"),
    "get": Command(_get, "get the data for an object", "[<digest>, ...]"),
    "ingest": Command(
        _ingest,
        "accept content into the store",
        "[flags] <key>",
        (
            Flag("expected-size", int, help="validate against provided size"),
            Flag("expected-digest", help="verify content against expected digest"),
        ),
    ),
    "list": Command(
        _list,
        "list all blobs in the store",
        "[flags] [<filter>, ...]",
        (Flag("quiet q", bool, help="print only the blob digest"),),
    ),
    "label": Command(_label, "add labels to content", "<digest> [<label>=<value> ...]"),
}
