# SPDX-License-Identifier: Apache-2.0
"""ctr plugins."""

from __future__ import annotations

import json

from orlop.api.introspection_pb2 import Plugin
from orlop.containerd.client import Client, typeurl
from orlop.ctr import table
from orlop.ctr.container import RUNTIME_FLAGS, runtime_options
from orlop.ctr.flags import Flag, Values
from orlop.ctr.main import Command


async def _list(client: Client, values: Values) -> None:
    plugins = await client.system.plugins(*values.arguments)
    if values["quiet"]:
        print("".join(f"{plugin.id}\n" for plugin in plugins), end="")
        return
    if values["detailed"]:
        rows: list[tuple[str, ...]] = []
        for plugin in plugins:
            rows += [("", "", "", ""), *_details(plugin)] if rows else _details(plugin)
        print(table.lines(rows, trail=False), end="")
        return
    rows = [("TYPE", "ID", "PLATFORMS", "STATUS")]
    rows += [(plugin.type, plugin.id, _platforms(plugin) or "-", _status(plugin)) for plugin in plugins]
    print(table.lines(rows), end="")


def _platforms(plugin: Plugin) -> str:
    return ",".join(
        "/".join(part for part in (each.os, each.architecture, each.variant) if part) for each in plugin.platforms
    )


def _status(plugin: Plugin) -> str:
    if not plugin.init_err.code:
        return "ok"
    return "skip" if "skip plugin" in plugin.init_err.message else "error"


def _details(plugin: Plugin) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("Type:", f" {plugin.type}"), ("ID:", f" {plugin.id}")]
    if plugin.requires:
        rows += [("Requires:", ""), *(("", f" {required}") for required in plugin.requires)]
    if plugin.platforms:
        rows.append(("Platforms:", f" {_platforms(plugin)}"))
    if plugin.exports:
        exports = sorted(plugin.exports.items())
        rows += [("Exports:", ""), *(("", f" {key} ", f" {value}") for key, value in exports)]
    if plugin.capabilities:
        rows.append(("Capabilities:", f" {','.join(plugin.capabilities)}"))
    if plugin.init_err.code:
        rows += [("Error:", ""), ("", " Code:", f" {_code(plugin.init_err.code)}")]
        rows.append(("", " Message:", f" {plugin.init_err.message}"))
    return rows


def _code(number: int) -> str:
    """The name of a status as Go's gRPC writes it."""
    import grpc

    found = next((code for code in grpc.StatusCode if code.value[0] == number), grpc.StatusCode.UNKNOWN)
    return found.name.title().replace("_", "")


async def _inspect_runtime(client: Client, values: Values) -> None:
    from orlop.api.types_pb2 import RuntimeInfo, RuntimeRequest

    request = RuntimeRequest(runtime_path=values["runtime"], options=runtime_options(values))
    answer = await client.system.plugin_info("io.containerd.runtime.v2", "task", typeurl.pack(request))
    info = typeurl.unpack(answer.extra, RuntimeInfo)
    document = {
        "Name": info.name,
        "Version": {"Version": info.version.version, "Revision": info.version.revision},
        "Options": {"type_url": info.options.type_url} if info.HasField("options") else None,
        "Features": json.loads(info.features.value) if info.HasField("features") else None,
        "Annotations": dict(info.annotations) or None,
    }
    print(json.dumps(document, indent=4))


COMMANDS = {
    "inspect-runtime": Command(_inspect_runtime, "display runtime info", "[flags]", RUNTIME_FLAGS),
    "list": Command(
        _list,
        "lists containerd plugins",
        "[flags] [<filter>, ...]",
        (
            Flag("quiet q", bool, help="print only the plugin ids"),
            Flag("detailed d", bool, help="print detailed information about each plugin"),
        ),
    ),
}
