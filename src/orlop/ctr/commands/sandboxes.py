# SPDX-License-Identifier: Apache-2.0
"""ctr sandboxes."""

from __future__ import annotations

import json
import sys

from google.protobuf.json_format import MessageToDict

from orlop.api.types_pb2 import Sandbox
from orlop.containerd.client import Client, typeurl
from orlop.ctr import table
from orlop.ctr.flags import Flag, Values
from orlop.ctr.main import Command
from orlop.errdefs import InvalidArgumentError, NotFoundError, OrlopError


async def _run(client: Client, values: Values) -> None:
    path, id = values.need("pod config", "sandbox id")
    with open(path, "rb") as file:
        config = file.read()
    try:
        json.loads(config)
    except ValueError as error:
        raise InvalidArgumentError(f"{path}: {error}") from None
    sandbox = Sandbox(
        sandbox_id=id,
        runtime=Sandbox.Runtime(name=values["runtime"]),
        spec=typeurl.pack_json(typeurl.SPEC, config),
        sandboxer="shim",
    )
    await client.sandboxes.create_record(sandbox)
    try:
        await client.sandboxes.create(sandbox)
        await client.sandboxes.start(id)
    except BaseException:
        await client.sandboxes.delete_record(id)
        raise
    print(id)


async def _list(client: Client, values: Values) -> None:
    rows = [("NAME", "CREATED", "RUNTIME")]
    for each in await client.sandboxes.records(*values["filters"]):
        rows.append((each.sandbox_id, table.go_time(each.created_at), each.runtime.name))
    print(table.lines(rows), end="")


async def _remove(client: Client, values: Values) -> None:
    values.need("sandbox id")
    for id in values.arguments:
        try:
            await client.sandboxes.stop(id)
            await client.sandboxes.shutdown(id)
        except NotFoundError:
            pass  # its shim has gone; the record is what is left
        except OrlopError as error:
            if not values["force"]:
                raise
            print(f"ctr: failed to stop sandbox {id}: {error}", file=sys.stderr)
        await client.sandboxes.delete_record(id)
        print(id)


async def _info(client: Client, values: Values) -> None:
    (id,) = values.need("sandbox id")
    record = await client.sandboxes.record(id)
    document = MessageToDict(record)
    document.pop("spec", None)
    print(json.dumps(document | {"spec": json.loads(record.spec.value or b"null")}, indent=4))


COMMANDS = {
    "info": Command(_info, "get info about a sandbox", "<sandbox id>"),
    "i": Command(_info, "get info about a sandbox", "<sandbox id>"),
    "list": Command(_list, "list sandboxes", "[flags]", (Flag("filters", list, help="the filters to apply"),)),
    "delete": Command(
        _remove,
        "remove one or more sandboxes",
        "<id> [<id>, ...]",
        (Flag("force f", bool, help="ignore errors of its end"),),
    ),
    "run": Command(
        _run,
        "run a new sandbox",
        "[flags] <pod-config.json> <sandbox-id>",
        (Flag("runtime", str, "io.containerd.runc.v2", "runtime name"),),
    ),
}
COMMANDS["create"] = COMMANDS["c"] = COMMANDS["r"] = COMMANDS["run"]
