# SPDX-License-Identifier: Apache-2.0
"""ctr containers."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.json_format import MessageToDict

from orlop.api.containers_pb2 import Container
from orlop.containerd.client import Client
from orlop.ctr import table
from orlop.ctr.commands import container_checkpoints
from orlop.ctr.container import CONTAINER_FLAGS, create_container
from orlop.ctr.flags import Flag, Values
from orlop.ctr.labels import label_arguments
from orlop.ctr.main import Command
from orlop.errdefs import FailedPreconditionError, NotFoundError


async def _create(client: Client, values: Values) -> None:
    await create_container(client, values)


async def _list(client: Client, values: Values) -> None:
    containers = await client.containers.list(*values.arguments)
    if values["quiet"]:
        print("".join(f"{container.id}\n" for container in containers), end="")
        return
    rows = [("CONTAINER", "IMAGE", "RUNTIME")]
    rows += [(each.id, each.image or "-", each.runtime.name) for each in containers]
    print(table.lines(rows), end="")


async def _delete(client: Client, values: Values) -> None:
    values.need("container id")
    for id in values.arguments:
        await delete_container(client, id, keep_snapshot=values["keep-snapshot"])


async def delete_container(client: Client, id: str, *, keep_snapshot: bool = False) -> None:
    """Remove a container, a task of it that has not been started or has ended, and its snapshot.

    Raises FailedPreconditionError while it runs.
    """
    container = await client.containers.get(id)
    try:
        task = await client.tasks.get(id)
    except NotFoundError:
        task = None
    if task is not None:
        if task.status not in (1, 3):  # created, stopped
            raise FailedPreconditionError(f"cannot delete a non stopped container: {id}")
        await client.tasks.delete(id)
    if container.snapshot_key and not keep_snapshot:
        try:
            await client.snapshots(container.snapshotter).remove(container.snapshot_key)
        except NotFoundError:
            pass  # it was removed by hand
    await client.containers.delete(id)


async def _info(client: Client, values: Values) -> None:
    (id,) = values.need("container id")
    container = await client.containers.get(id)
    if values["spec"]:
        print(json.dumps(json.loads(container.spec.value), indent=4))
        return
    print(json.dumps(_document(container), indent=4))


def _document(container: Container) -> dict[str, Any]:
    document: dict[str, Any] = {
        "ID": container.id,
        "Labels": dict(container.labels),
        "Image": container.image,
        "Runtime": {
            "Name": container.runtime.name,
            "Options": {"type_url": container.runtime.options.type_url}
            if container.runtime.HasField("options")
            else None,
        },
        "SnapshotKey": container.snapshot_key,
        "Snapshotter": container.snapshotter,
        "CreatedAt": table.nano_text(container.created_at),
        "UpdatedAt": table.nano_text(container.updated_at),
        "Extensions": {key: MessageToDict(value) for key, value in container.extensions.items()} or None,
        "SandboxID": container.sandbox,
    }
    try:
        document["Spec"] = json.loads(container.spec.value)
    except ValueError:
        document["Spec"] = {"type_url": container.spec.type_url}
    return document


async def _label(client: Client, values: Values) -> None:
    (id,) = values.need("container id")
    labels = label_arguments(values.arguments[1:])
    change = Container(id=id, labels=labels)
    updated = await client.containers.update(change, *(f"labels.{key}" for key in labels))
    print(table.label_text(updated.labels, ""))


COMMANDS = {
    **container_checkpoints.COMMANDS,
    "create": Command(
        _create, "create container", "[flags] Image|RootFS CONTAINER [COMMAND] [ARG...]", CONTAINER_FLAGS
    ),
    "delete": Command(
        _delete,
        "delete one or more existing containers",
        "[flags] CONTAINER [CONTAINER, ...]",
        (Flag("keep-snapshot", bool, help="do not clean up snapshot with container"),),
    ),
    "info": Command(
        _info, "get info about a container", "CONTAINER", (Flag("spec", bool, help="only display the spec"),)
    ),
    "list": Command(
        _list,
        "list containers",
        "[flags] [<filter>, ...]",
        (Flag("quiet q", bool, help="print only the container id"),),
    ),
    "label": Command(_label, "set and clear labels for a container", "[flags] CONTAINER [<key>=<value>, ...]"),
}
