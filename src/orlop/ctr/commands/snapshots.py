# SPDX-License-Identifier: Apache-2.0
"""ctr snapshots."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from google.protobuf.json_format import MessageToDict

from orlop.api.snapshots_pb2 import Info, Kind
from orlop.containerd.client import DEFAULT_SNAPSHOTTER, Client
from orlop.ctr import table
from orlop.ctr.flags import Flag, Values
from orlop.ctr.labels import label_arguments
from orlop.ctr.main import Command

if TYPE_CHECKING:
    from orlop.api.types_pb2 import Mount
    from orlop.containerd.client.snapshots import Snapshots

FLAGS = (Flag("snapshotter", str, DEFAULT_SNAPSHOTTER, "snapshotter name", "CONTAINERD_SNAPSHOTTER"),)


def _snapshots(client: Client, values: Values) -> Snapshots:
    return client.snapshots(values["snapshotter"])


def _kept() -> dict[str, str]:
    """The label of what was made by hand, which nothing refers to and which is not to be collected."""
    return {"containerd.io/gc.root": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


async def _list(client: Client, values: Values) -> None:
    rows = [("KEY", "PARENT", "KIND")]
    async for info in _snapshots(client, values).list(*values.arguments):
        rows.append((info.name, info.parent, Kind.Name(info.kind).capitalize()))
    print(table.lines(rows, padding=1), end="")


async def _delete(client: Client, values: Values) -> None:
    values.need("key")
    for key in values.arguments:
        await _snapshots(client, values).remove(key)


async def _info(client: Client, values: Values) -> None:
    (key,) = values.need("key")
    info = MessageToDict(await _snapshots(client, values).stat(key))
    print(json.dumps({name[0].upper() + name[1:]: value for name, value in info.items()}, indent=4))


async def _usage(client: Client, values: Values) -> None:
    snapshots = _snapshots(client, values)
    keys = values.arguments or [info.name async for info in snapshots.list()]
    rows = [("KEY", "SIZE", "INODES")]
    for key in keys:
        usage = await snapshots.usage(key)
        size = str(usage.size) if values["b"] else table.size_text(usage.size)
        rows.append((key, size, str(usage.inodes)))
    print(table.lines(rows), end="")


async def _prepare(client: Client, values: Values) -> None:
    (key,) = values.need("key")
    parent = values.arguments[1] if len(values.arguments) > 1 else ""
    _print_mounts(await _snapshots(client, values).prepare(key, parent, _kept()), values)


async def _view(client: Client, values: Values) -> None:
    (key,) = values.need("key")
    parent = values.arguments[1] if len(values.arguments) > 1 else ""
    _print_mounts(await _snapshots(client, values).view(key, parent), values)


async def _mounts(client: Client, values: Values) -> None:
    target, key = values.need("target", "key")
    print(_commands(await _snapshots(client, values).mounts(key), target), end="")


def _print_mounts(mounts: list[Mount], values: Values) -> None:
    if values["mounts"]:
        kinds = [{"Type": each.type, "Source": each.source, "Options": list(each.options)} for each in mounts]
        print(json.dumps(kinds, indent=4))
    elif values["target"]:
        print(_commands(mounts, values["target"]), end="")


def _commands(mounts: list[Mount], target: str) -> str:
    return "".join(f"mount -t {m.type} {m.source} {target} -o {','.join(m.options)}\n" for m in mounts)


async def _commit(client: Client, values: Values) -> None:
    name, active = values.need("key", "active")
    await _snapshots(client, values).commit(name, active, _kept())


async def _label(client: Client, values: Values) -> None:
    (name,) = values.need("name")
    labels = label_arguments(values.arguments[1:])
    change = Info(name=name, labels=labels)
    info = await _snapshots(client, values).update(change, *(f"labels.{key}" for key in labels))
    print(table.label_text(info.labels, ""))


async def _tree(client: Client, values: Values) -> None:
    children: dict[str, list[str]] = {}
    async for info in _snapshots(client, values).list():
        children.setdefault(info.parent, []).append(info.name)

    def show(key: str, depth: int) -> None:
        print("  " * depth + ("\\_ " if depth else "") + key)
        for child in sorted(children.get(key, ())):
            show(child, depth + 1)

    for key in sorted(children.get("", ())):
        show(key, 0)


_MOUNT_FLAGS = (
    Flag("target t", help="mount target path, will print mount, if provided"),
    Flag("mounts", bool, help="print out snapshot mounts as JSON"),
)

COMMANDS = {
    "commit": Command(_commit, "commit an active snapshot into the provided name", "<key> <active>"),
    "delete": Command(_delete, "remove snapshots", "<key> [<key>, ...]"),
    "info": Command(_info, "get info about a snapshot", "<key>"),
    "label": Command(_label, "add labels to a snapshot", "<name> [<label>=<value> ...]"),
    "list": Command(_list, "list snapshots"),
    "mounts": Command(_mounts, "print mount commands for a snapshot", "<target> <key>"),
    "prepare": Command(_prepare, "prepare a snapshot", "[flags] <key> [<parent>]", _MOUNT_FLAGS),
    "tree": Command(_tree, "display tree view of snapshot branches"),
    "usage": Command(
        _usage, "usage snapshots", "[flags] [<key>, ...]", (Flag("b", bool, help="display size in bytes"),)
    ),
    "view": Command(_view, "create a read-only snapshot", "[flags] <key> [<parent>]", _MOUNT_FLAGS),
}
