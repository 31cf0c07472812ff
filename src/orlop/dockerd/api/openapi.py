# SPDX-License-Identifier: Apache-2.0
"""What this daemon serves, as an OpenAPI 3.1 document made of its routes and of the types of bodies."""

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from orlop import __version__
from orlop.dockerd.api import version as api_version
from orlop.dockerd.api.router import ANY, Route
from orlop.dockerd.containers.checkpoints import CheckpointRequest
from orlop.dockerd.containers.update import UpdateRequest
from orlop.engine.types import (
    CreateRequest,
    ExecConfig,
    NetworkConnectRequest,
    NetworkCreateRequest,
    NetworkDisconnectRequest,
    VolumeCreateRequest,
)
from orlop.oci.distribution import AuthConfig
from orlop.oci.image import ImageConfig

View = dict[str, Any]

_BODIES: dict[str, type[Any]] = {
    "POST /containers/create": CreateRequest,
    "POST /containers/{id}/update": UpdateRequest,
    "POST /containers/{id}/exec": ExecConfig,
    "POST /containers/{id}/checkpoints": CheckpointRequest,
    "POST /volumes/create": VolumeCreateRequest,
    "POST /networks/create": NetworkCreateRequest,
    "POST /networks/{id}/connect": NetworkConnectRequest,
    "POST /networks/{id}/disconnect": NetworkDisconnectRequest,
    "POST /auth": AuthConfig,
    "POST /commit": ImageConfig,
}
_ARCHIVES = frozenset({"PUT /containers/{id}/archive", "POST /images/load"})
# Parameters of the query: name:type, with ! where it is required.
_ATTACH = "detachKeys:string logs:boolean stream:boolean stdin:boolean stdout:boolean stderr:boolean"
_QUERIES = {
    "GET /containers/json": "all:boolean limit:integer size:boolean filters:filters",
    "POST /containers/create": "name:string platform:string",
    "GET /containers/{id}/json": "size:boolean",
    "GET /containers/{id}/top": "ps_args:string",
    "GET /containers/{id}/logs": "follow:boolean stdout:boolean stderr:boolean since:string until:string "
    "timestamps:boolean tail:string details:boolean",
    "GET /containers/{id}/stats": "stream:boolean one-shot:boolean",
    "POST /containers/{id}/start": "checkpoint:string checkpoint-dir:string",
    "GET /containers/{id}/checkpoints": "dir:string",
    "DELETE /containers/{id}/checkpoints/{checkpoint}": "dir:string",
    "POST /containers/{id}/resize": "h:integer! w:integer!",
    "POST /containers/{id}/stop": "signal:string t:integer",
    "POST /containers/{id}/restart": "signal:string t:integer",
    "POST /containers/{id}/kill": "signal:string",
    "POST /containers/{id}/rename": "name:string!",
    "POST /containers/{id}/attach": _ATTACH,
    "GET /containers/{id}/attach/ws": _ATTACH,
    "POST /containers/{id}/wait": "condition:string",
    "DELETE /containers/{id}": "v:boolean force:boolean link:boolean",
    "DELETE /containers/{id}/{alias}": "link:boolean!",
    "HEAD /containers/{id}/archive": "path:string!",
    "GET /containers/{id}/archive": "path:string!",
    "PUT /containers/{id}/archive": "path:string! noOverwriteDirNonDir:boolean copyUIDGID:boolean",
    "POST /containers/prune": "filters:filters",
    "GET /images/json": "all:boolean filters:filters shared-size:boolean digests:boolean manifests:boolean "
    "identity:boolean",
    "POST /images/create": "fromImage:string fromSrc:string repo:string tag:string message:string changes:string "
    "platform:string",
    "GET /images/{name}/json": "manifests:boolean platform:string",
    "GET /images/{name}/history": "platform:string",
    "GET /images/{name}/get": "platform:string",
    "POST /images/{name}/push": "tag:string platform:string",
    "POST /images/{name}/tag": "repo:string tag:string",
    "DELETE /images/{name}": "force:boolean noprune:boolean platforms:string",
    "GET /images/search": "term:string! limit:integer filters:filters",
    "POST /images/prune": "filters:filters",
    "GET /images/get": "names:string! platform:string",
    "POST /images/load": "quiet:boolean platform:string",
    "POST /commit": "container:string! repo:string tag:string comment:string author:string pause:boolean "
    "changes:string",
    "GET /events": "since:string until:string filters:filters",
    "GET /system/df": "type:string verbose:boolean",
    "POST /exec/{id}/resize": "h:integer! w:integer!",
    "GET /volumes": "filters:filters",
    "DELETE /volumes/{name}": "force:boolean",
    "POST /volumes/prune": "filters:filters",
    "GET /networks": "filters:filters",
    "GET /networks/": "filters:filters",
    "GET /networks/{id}": "verbose:boolean scope:string",
    "POST /networks/prune": "filters:filters",
    "GET /plugins": "filters:filters",
    "POST /build/cancel": "id:string!",
}
_FILTERS: View = {
    "contentMediaType": "application/json",
    "type": "string",
    "description": 'JSON: {"name": ["value", ...]}',
}
_TEMPLATE = re.compile(r"\{(\w+)(?::[^}]+)?\}")
_ERROR: View = {
    "description": "an error, or the answer",
    "content": {"application/json": {"schema": {}}},
}


def describe(routes: Iterable[Route]) -> View:
    """The document for a daemon's routes; paths are without version, which may stand before each."""
    schemas, components = msgspec.json.schema_components(
        list(_BODIES.values()), ref_template="#/components/schemas/{name}"
    )
    bodies = dict(zip(_BODIES, schemas, strict=True))
    paths: View = {}
    for route in routes:
        if ANY not in route.path:
            path = _TEMPLATE.sub(r"{\1}", route.path)
            paths.setdefault(path, {})[route.method.lower()] = _operation(route.method, path, bodies)
    return {
        "openapi": "3.1.0",
        "info": {"title": "orlop's Engine API", "version": __version__, "summary": "Docker's Engine API"},
        "servers": [{"url": "/"}, {"url": f"/v{api_version.text(api_version.MAX)}"}],
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(method: str, path: str, bodies: View) -> View:
    key = f"{method} {path}"
    parameters = [_parameter("path", f"{name}:string!") for name in _TEMPLATE.findall(path)]
    parameters += [_parameter("query", each) for each in _QUERIES.get(key, "").split()]
    operation: View = {"operationId": key, "parameters": parameters, "responses": {"default": _ERROR}}
    if key in bodies:
        operation["requestBody"] = {"content": {"application/json": {"schema": bodies[key]}}}
    if key in _ARCHIVES:
        operation["requestBody"] = {"content": {"application/octet-stream": {"schema": {"type": "string"}}}}
    return operation


def _parameter(place: str, text: str) -> View:
    name, _, kind = text.rstrip("!").partition(":")
    schema = _FILTERS if kind == "filters" else {"type": kind}
    return {"name": name, "in": place, "required": text.endswith("!"), "schema": schema}
