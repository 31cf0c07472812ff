# SPDX-License-Identifier: Apache-2.0
"""ctr snapshots."""

from __future__ import annotations

import json
import secrets
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from orlop.api.snapshots_pb2 import Info, Kind
from orlop.containerd.client import Client
from orlop.containerd.client.leases import leased
from orlop.ctr import table
from orlop.ctr.flags import Flag, Values
from orlop.ctr.labels import label_arguments
from orlop.ctr.main import Command
from orlop.errdefs import NotFoundError, OrlopError
from orlop.oci.image import OCI_LAYER_GZIP

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orlop.api.types_pb2 import Mount
    from orlop.containerd.client.snapshots import Snapshots

FLAGS = (Flag("snapshotter", help="snapshotter name; empty stands for the default", env="CONTAINERD_SNAPSHOTTER"),)


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
        try:
            await _snapshots(client, values).remove(key)
        except OrlopError as error:
            raise type(error)(f'failed to remove "{key}": {error}') from None


async def _info(client: Client, values: Values) -> None:
    (key,) = values.need("key")
    info = await _snapshots(client, values).stat(key)
    document: dict[str, object] = {"Kind": Kind.Name(info.kind).capitalize(), "Name": info.name}
    if info.parent:
        document["Parent"] = info.parent
    if info.labels:
        document["Labels"] = dict(sorted(info.labels.items()))
    document |= {"Created": table.nano_text(info.created_at), "Updated": table.nano_text(info.updated_at)}
    print(json.dumps(document, indent=4))


async def _usage(client: Client, values: Values) -> None:
    snapshots = _snapshots(client, values)
    keys = values.arguments or [info.name async for info in snapshots.list()]
    rows = [("KEY", "SIZE", "INODES")]
    for key in keys:
        usage = await snapshots.usage(key)
        size = str(usage.size) if values["b"] else table.size_text(usage.size)
        rows.append((key, size, str(usage.inodes)))
    print(table.lines(rows, padding=1), end="")


async def _prepare(client: Client, values: Values) -> None:
    (key,) = values.need("key")
    parent = values.arguments[1] if len(values.arguments) > 1 else ""
    _print_mounts(await _snapshots(client, values).prepare(key, parent, _kept()), values)


async def _view(client: Client, values: Values) -> None:
    (key,) = values.need("key")
    parent = values.arguments[1] if len(values.arguments) > 1 else ""
    _print_mounts(await _snapshots(client, values).view(key, parent, _kept()), values)


async def _mounts(client: Client, values: Values) -> None:
    target, key = values.need("target", "key")
    mounts = await _snapshots(client, values).mounts(key)
    if values["temp"]:
        # The daemon makes them, and keeps them until somebody deactivates them or it ends.
        info = await client.mounts.activate(f"ctr-{key}", mounts, temporary=True)
        mounts = list(info.system)
    print(_commands(mounts, target), end="")


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
        print("  " * depth + ("\\_" if depth else "") + f" {key}")
        for child in sorted(children.get(key, ())):
            show(child, depth + 1)

    for key in sorted(children.get("", ())):
        show(key, 0)


async def _diff(client: Client, values: Values) -> None:
    """Write the difference to standard output; of one snapshot to its parent."""
    (first,) = values.need("id")
    async with leased(client) as work:
        snapshots = work.snapshots(values["snapshotter"])
        if len(values.arguments) > 1:
            lower, upper = first, values.arguments[1]
        else:
            lower, upper = (await snapshots.stat(first)).parent, first
        async with mounts_of(snapshots, lower) as left, mounts_of(snapshots, upper) as right:
            labels = label_arguments(values["label"])
            if values["keep"]:
                labels |= _kept()
            layer = await work.diff.diff(
                left, right, media_type=values["media-type"], ref=values["ref"], labels=labels
            )
        async for data in work.content.read(layer.digest):
            sys.stdout.buffer.write(data)
        sys.stdout.flush()
        if not values["keep"]:
            await work.content.delete(layer.digest)


@asynccontextmanager
async def mounts_of(snapshots: Snapshots, key: str) -> AsyncIterator[list[Mount]]:
    """The mounts of an active snapshot, or of a view of a committed one; none for no snapshot."""
    if not key:
        yield []
    elif (await snapshots.stat(key)).kind != Kind.COMMITTED:
        yield await snapshots.mounts(key)
    else:
        view = f"{key}-view-{secrets.token_hex(6)}"
        mounts = await snapshots.view(view, key)
        try:
            yield mounts
        finally:
            await snapshots.remove(view)


async def _unpack(client: Client, values: Values) -> None:
    from orlop.containerd.client.unpack import from_proto, read_image, unpack
    from orlop.oci.platforms import host_platform

    (digest,) = values.need("digest")
    found = await client.images.list(f"target.digest=={digest}")
    if not found:
        raise NotFoundError("manifest not found")
    print(f"unpacking {digest} ({found[0].target.media_type})...", end="", flush=True)
    try:
        content = await read_image(client, from_proto(found[0].target), host_platform())
        await unpack(client, content, values["snapshotter"], sync=values["sync-fs"])
    except BaseException:
        print()
        raise
    print("done")


_MOUNT_FLAGS = (
    Flag("target t", help="mount target path, will print mount, if provided"),
    Flag("mounts", bool, help="print out snapshot mounts as JSON"),
)

_MOUNTS = Command(
    _mounts,
    "print mount commands for a snapshot",
    "<target> <key>",
    (Flag("temp", bool, help="let the daemon mount it, and print the bind mount of that"),),
)

COMMANDS = {
    "diff": Command(
        _diff,
        "get the diff of two snapshots. the default second snapshot is the first snapshot's parent.",
        "[flags] <idA> [<idB>]",
        (
            Flag("media-type", str, OCI_LAYER_GZIP, "media type to use for creating diff"),
            Flag("ref", help="content upload reference to use"),
            Flag("keep", bool, help="keep diff content. up to creator to delete it."),
            Flag("label", list, help="labels to attach to the image"),
        ),
    ),
    "unpack": Command(
        _unpack,
        "unpack applies layers from a manifest to a snapshot",
        "[flags] <digest>",
        (Flag("sync-fs", bool, help="synchronize the underlying filesystem when unpacking"),),
    ),
    "commit": Command(_commit, "commit an active snapshot into the provided name", "<key> <active>"),
    "delete": Command(_delete, "remove snapshots", "<key> [<key>, ...]"),
    "info": Command(_info, "get info about a snapshot", "<key>"),
    "label": Command(_label, "add labels to a snapshot", "<name> [<label>=<value> ...]"),
    "list": Command(_list, "list snapshots"),
    "mount": _MOUNTS,
    "m": _MOUNTS,
    "mounts": _MOUNTS,
    "prepare": Command(_prepare, "prepare a snapshot", "[flags] <key> [<parent>]", _MOUNT_FLAGS),
    "tree": Command(_tree, "display tree view of snapshot branches"),
    "usage": Command(
        _usage, "usage snapshots", "[flags] [<key>, ...]", (Flag("b", bool, help="display size in bytes"),)
    ),
    "view": Command(_view, "create a read-only snapshot", "[flags] <key> [<parent>]", _MOUNT_FLAGS),
}
