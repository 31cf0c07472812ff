# SPDX-License-Identifier: Apache-2.0
"""ctr namespaces."""

from __future__ import annotations

from orlop.containerd.client import Client
from orlop.ctr import table
from orlop.ctr.flags import Flag, Values
from orlop.ctr.labels import label_arguments
from orlop.ctr.main import Command


async def _list(client: Client, values: Values) -> None:
    namespaces = await client.namespaces.list()
    if values["quiet"]:
        print("".join(f"{namespace.name}\n" for namespace in namespaces), end="")
        return
    rows = [("NAME", "LABELS"), *((each.name, table.label_text(each.labels, "")) for each in namespaces)]
    print(table.lines(rows, padding=1, minimum=1), end="")


async def _create(client: Client, values: Values) -> None:
    (name,) = values.need("namespace")
    await client.namespaces.create(name, label_arguments(values.arguments[1:]))


async def _label(client: Client, values: Values) -> None:
    (name,) = values.need("namespace")
    labels = label_arguments(values.arguments[1:])
    await client.namespaces.update(name, labels, [f"labels.{key}" for key in labels])


async def _delete(client: Client, values: Values) -> None:
    values.need("namespace")
    for name in values.arguments:
        await client.namespaces.delete(name)
        print(name)


COMMANDS = {
    "create": Command(_create, "create a new namespace", "<name> [<key>=<value>]"),
    "c": Command(_create, "create a new namespace", "<name> [<key>=<value>]"),
    "list": Command(_list, "list namespaces", "[flags]", (Flag("quiet q", bool, help="print only the name"),)),
    "delete": Command(_delete, "remove one or more namespaces", "<name> [<name>, ...]"),
    "label": Command(_label, "set and clear labels for a namespace", "<name> [<key>=<value>, ...]"),
}
