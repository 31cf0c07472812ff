# SPDX-License-Identifier: Apache-2.0
"""Which endpoint takes which level: an allow-list; what is not in it is for those who may do everything."""

from orlop.dockerd.access.policy import Level

OWNED = frozenset({"container", "exec", "volume"})
"""Kinds of objects that belong to somebody."""

_FOR_ALL = ("GET /_ping", "HEAD /_ping", "GET /version", "GET /openapi.json")
_READ = (
    "GET /info",
    "GET /events",
    "GET /system/df",
    "GET /containers/json",
    "GET /containers/{id}/json",
    "GET /containers/{id}/logs",
    "GET /containers/{id}/stats",
    "GET /containers/{id}/top",
    "GET /containers/{id}/changes",
    "GET /exec/{id}/json",
    "GET /images/json",
    "GET /images/{name:.*}/json",
    "GET /images/{name:.*}/history",
    "GET /networks",
    "GET /networks/",
    "GET /networks/{id}",
    "GET /volumes",
    "GET /volumes/{name}",
    "GET /plugins",
    "GET /plugins/{name:.*}/json",
)
_OWN = {
    "POST /containers/create": "",
    "POST /images/create": "",
    "POST /auth": "",
    "GET /distribution/{name:.*}/json": "",
    "GET /images/search": "",
    "POST /volumes/create": "",
    "DELETE /volumes/{name}": "volume",
    "DELETE /containers/{id}": "container",
    "GET /containers/{id}/archive": "container",
    "HEAD /containers/{id}/archive": "container",
    "PUT /containers/{id}/archive": "container",
    "GET /containers/{id}/attach/ws": "container",
    "GET /containers/{id}/export": "container",
    "POST /containers/{id}/attach": "container",
    "POST /containers/{id}/exec": "container",
    "POST /containers/{id}/kill": "container",
    "POST /containers/{id}/pause": "container",
    "POST /containers/{id}/rename": "container",
    "POST /containers/{id}/resize": "container",
    "POST /containers/{id}/restart": "container",
    "POST /containers/{id}/start": "container",
    "POST /containers/{id}/stop": "container",
    "POST /containers/{id}/unpause": "container",
    "POST /containers/{id}/update": "container",
    "POST /containers/{id}/wait": "container",
    "POST /exec/{id}/resize": "exec",
    "POST /exec/{id}/start": "exec",
}
"""For those who may have containers of their own: what has to be theirs, "" where nothing has."""
_READ_OF_OWN = {
    "GET /containers/{id}/json": "container",
    "GET /containers/{id}/logs": "container",
    "GET /containers/{id}/stats": "container",
    "GET /containers/{id}/top": "container",
    "GET /containers/{id}/changes": "container",
    "GET /exec/{id}/json": "exec",
    "GET /volumes/{name}": "volume",
}
"""What they may look at only where it is theirs."""
FILTERED = frozenset({"GET /containers/json", "GET /events", "GET /volumes"})
"""Lists of which they see only what is theirs."""
_NOT_OWN = frozenset({"GET /system/df"})
"""It lists everybody's containers and volumes."""


def needed(method: str, template: str) -> Level:
    """The least level that an endpoint takes."""
    endpoint = f"{method} {template}"
    if endpoint in _FOR_ALL:
        return Level.NOTHING
    if endpoint in _READ:
        return Level.READ
    return Level.OWN if endpoint in _OWN else Level.ALL


def must_own(method: str, template: str) -> str | None:
    """What somebody with containers of their own has to own for it: a kind, "" for nothing, None: not for them."""
    endpoint = f"{method} {template}"
    if endpoint in _NOT_OWN:
        return None
    return _READ_OF_OWN.get(endpoint, _OWN.get(endpoint, ""))
