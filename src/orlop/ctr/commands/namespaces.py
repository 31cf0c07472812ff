# SPDX-License-Identifier: Apache-2.0
"""ctr namespaces."""

from __future__ import annotations

import contextlib
import glob
import os

from orlop.containerd.client import Client
from orlop.ctr import table
from orlop.ctr.flags import Flag, Values
from orlop.ctr.labels import label_arguments
from orlop.ctr.main import Command
from orlop.errdefs import InvalidArgumentError, NotFoundError


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
    if any("/" in name or name in (".", "..") for name in values.arguments):
        raise InvalidArgumentError("namespace: a name without slashes was expected")
    for name in values.arguments:
        if values["cgroup"]:
            _remove_cgroups(name)
        with contextlib.suppress(NotFoundError):  # it is gone, as wanted
            await client.namespaces.delete(name)
        print(name)


def _remove_cgroups(name: str) -> None:
    """Remove the control groups that runtimes made for the namespace, in every hierarchy."""
    for directory in glob.glob(f"/sys/fs/cgroup/{glob.escape(name)}") + glob.glob(f"/sys/fs/cgroup/*/{name}"):
        for path, _, _ in os.walk(directory, topdown=False):
            os.rmdir(path)


COMMANDS = {
    "create": Command(_create, "create a new namespace", "<name> [<key>=<value>]"),
    "c": Command(_create, "create a new namespace", "<name> [<key>=<value>]"),
    "list": Command(_list, "list namespaces", "[flags]", (Flag("quiet q", bool, help="print only the name"),)),
    "delete": Command(
        _delete,
        "remove one or more namespaces",
        "<name> [<name>, ...]",
        (Flag("cgroup c", bool, help="delete the namespace's cgroup"),),
    ),
    "label": Command(_label, "set and clear labels for a namespace", "<name> [<key>=<value>, ...]"),
}
