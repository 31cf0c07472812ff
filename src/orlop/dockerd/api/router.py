# SPDX-License-Identifier: Apache-2.0
"""Routes of the Engine API and the search for the one that a request means."""

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from aiohttp import web

from orlop.dockerd.api.request import ApiRequest

Handler = Callable[[ApiRequest], Awaitable[web.StreamResponse]]

_VERSIONED = re.compile(r"/v([0-9.]+)(/.*)")
ANY = "{path:.*}"
"""A path of one route that takes every path: `/{path:.*}`."""

_PARAMETER = re.compile(r"\{(\w+)(?::([^}]+))?\}")


class Route(NamedTuple):
    """`path` is a template without version: `/containers/{id}/json`; `{name:.*}` also takes slashes."""

    method: str
    path: str
    handler: Handler


class Match(NamedTuple):
    """A route, the version text of the path (empty: none given) and the path's parameters."""

    route: Route
    version: str
    params: dict[str, str]


class Router:
    """All routes; the first that fits, in order of registration, wins."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._table: dict[tuple[str, str], list[tuple[re.Pattern[str], Route]]] = {}
        for route in routes:
            key = (route.method, _first_segment(route.path))
            self._table.setdefault(key, []).append((_compile(route.path), route))

    def find(self, method: str, path: str) -> Match | None:
        """The route for a method and a (decoded) path, or None."""
        version = ""
        if versioned := _VERSIONED.fullmatch(path):
            version, path = versioned[1], versioned[2]
        found_here = self._table.get((method, _first_segment(path)), ())
        for pattern, route in (*found_here, *self._table.get((method, ANY), ())):
            if found := pattern.fullmatch(path):
                return Match(route, version, found.groupdict())
        return None


def _first_segment(path: str) -> str:
    return path.split("/", 2)[1] if path.startswith("/") else path


def _compile(template: str) -> re.Pattern[str]:
    parts, position = [], 0
    for parameter in _PARAMETER.finditer(template):
        parts.append(re.escape(template[position : parameter.start()]))
        parts.append(f"(?P<{parameter[1]}>{parameter[2] or '[^/]+'})")
        position = parameter.end()
    parts.append(re.escape(template[position:]))
    return re.compile("".join(parts))
