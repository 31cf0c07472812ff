# SPDX-License-Identifier: Apache-2.0
"""Networks."""

from typing import Any, Protocol

from aiohttp import web

from orlop.dockerd.api.request import ApiRequest
from orlop.dockerd.api.router import Route
from orlop.dockerd.api.streams import json_response
from orlop.dockerd.filters import Filters
from orlop.errdefs import NotImplementedByUsError, PermissionDeniedError

_FILTERS = ("dangling", "driver", "id", "label", "name", "scope", "type")
_PREDEFINED = ("bridge", "host", "none")


class Networks(Protocol):
    """What is asked of the networks."""

    def list_networks(self) -> list[dict[str, Any]]: ...
    def inspect_network(self, reference: str) -> dict[str, Any]: ...


class NetworkRoutes:
    """The endpoints."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks

    def routes(self) -> list[Route]:
        """The table."""
        return [
            Route("GET", "/networks", self.list),
            Route("GET", "/networks/", self.list),
            Route("POST", "/networks/create", self.create),
            Route("POST", "/networks/prune", self.prune),
            Route("POST", "/networks/{id}/connect", self.create),
            Route("POST", "/networks/{id}/disconnect", self.create),
            Route("GET", "/networks/{id}", self.inspect),
            Route("DELETE", "/networks/{id}", self.remove),
        ]

    async def list(self, request: ApiRequest) -> web.StreamResponse:
        """GET /networks."""
        filters = request.filters(_FILTERS)
        return json_response([each for each in self._networks.list_networks() if _passes(each, filters)])

    async def inspect(self, request: ApiRequest) -> web.StreamResponse:
        """GET /networks/{id}."""
        return json_response(self._networks.inspect_network(request.params["id"]))

    async def create(self, request: ApiRequest) -> web.StreamResponse:
        """POST /networks/create, connect and disconnect."""
        raise NotImplementedByUsError("user-defined networks are not supported yet")

    async def remove(self, request: ApiRequest) -> web.StreamResponse:
        """DELETE /networks/{id}."""
        name = self._networks.inspect_network(request.params["id"])["Name"]
        raise PermissionDeniedError(f"{name} is a pre-defined network and cannot be removed")

    async def prune(self, request: ApiRequest) -> web.StreamResponse:
        """POST /networks/prune: there are only predefined networks, which stay."""
        request.filters(("label", "label!", "until"))
        return json_response({"NetworksDeleted": None})


def _passes(network: dict[str, Any], filters: Filters) -> bool:
    kind = "builtin" if network["Name"] in _PREDEFINED else "custom"
    if "dangling" in filters and filters.flag("dangling", False):
        return kind == "custom" and not network.get("Containers")
    return (
        filters.matches("name", network["Name"])
        and (not filters.get("id") or any(network["Id"].startswith(want) for want in filters.get("id")))
        and filters.exact("driver", network["Driver"])
        and filters.exact("scope", network["Scope"])
        and filters.exact("type", kind)
        and filters.labels("label", network["Labels"])
    )
