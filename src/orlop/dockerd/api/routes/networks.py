# SPDX-License-Identifier: Apache-2.0
"""Networks."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from aiohttp import web

from orlop.dockerd import timestamps
from orlop.dockerd.api.request import ApiRequest
from orlop.dockerd.api.router import Route
from orlop.dockerd.api.streams import empty_response, json_response
from orlop.dockerd.filters import Filters
from orlop.dockerd.network.types import PREDEFINED
from orlop.engine.types import (
    EndpointSettings,
    NetworkConnectRequest,
    NetworkCreateRequest,
    NetworkDisconnectRequest,
)
from orlop.errdefs import InvalidArgumentError, NotFoundError, PermissionDeniedError

_LIST_FILTERS = ("dangling", "driver", "id", "label", "name", "scope", "type")
_PRUNE_FILTERS = ("label", "label!", "until")


class Networks(Protocol):
    """What is asked of the networks."""

    async def create_network(self, request: NetworkCreateRequest) -> dict[str, Any]: ...
    async def remove_network(self, reference: str) -> dict[str, Any]: ...
    def list_networks(self) -> list[dict[str, Any]]: ...
    def used_networks(self) -> set[str]: ...
    def inspect_network(self, reference: str) -> dict[str, Any]: ...


class Networking(Protocol):
    """Changes the networks that a container is in."""

    async def connect(self, network: str, reference: str, settings: EndpointSettings) -> None: ...
    async def disconnect(self, network: str, reference: str, *, force: bool = False) -> None: ...


class NetworkRoutes:
    """The endpoints."""

    def __init__(
        self,
        networks: Networks,
        networking: Networking,
        publish: Callable[[str, str, Mapping[str, str]], object],
    ) -> None:
        self._networks = networks
        self._networking = networking
        self._publish = publish

    def routes(self) -> list[Route]:
        """The table."""
        return [
            Route("GET", "/networks", self.list),
            Route("GET", "/networks/", self.list),
            Route("POST", "/networks/create", self.create),
            Route("POST", "/networks/prune", self.prune),
            Route("POST", "/networks/{id}/connect", self.connect),
            Route("POST", "/networks/{id}/disconnect", self.disconnect),
            Route("GET", "/networks/{id}", self.inspect),
            Route("DELETE", "/networks/{id}", self.remove),
        ]

    async def list(self, request: ApiRequest) -> web.StreamResponse:
        """GET /networks."""
        filters = request.filters(_LIST_FILTERS)
        used = self._networks.used_networks()
        return json_response([each for each in self._networks.list_networks() if _passes(each, filters, used)])

    async def inspect(self, request: ApiRequest) -> web.StreamResponse:
        """GET /networks/{id}."""
        _check_verbose(request.query("verbose"))
        network = self._networks.inspect_network(request.params["id"])
        scope = request.query("scope")
        if scope and scope != network["Scope"]:
            raise NotFoundError(f"network {request.params['id']} not found")
        if request.version < (1, 52):
            del network["Status"]
        return json_response(network)

    async def create(self, request: ApiRequest) -> web.StreamResponse:
        """POST /networks/create."""
        body = await request.json(NetworkCreateRequest)
        if request.version < (1, 48):
            body.enable_ipv4 = None
        network = await self._networks.create_network(body)
        self._tell("create", network)
        return json_response({"Id": network["Id"], "Warning": ""}, 201)

    async def connect(self, request: ApiRequest) -> web.StreamResponse:
        """POST /networks/{id}/connect."""
        body = await request.json(NetworkConnectRequest)
        if request.version < (1, 48):
            body.endpoint_config.gw_priority = 0
        if request.version < (1, 54):
            body.endpoint_config.mac_address = ""
        await self._networking.connect(request.params["id"], body.container, body.endpoint_config)
        return empty_response(200)

    async def disconnect(self, request: ApiRequest) -> web.StreamResponse:
        """POST /networks/{id}/disconnect."""
        body = await request.json(NetworkDisconnectRequest)
        await self._networking.disconnect(request.params["id"], body.container, force=body.force)
        return empty_response(200)

    async def remove(self, request: ApiRequest) -> web.StreamResponse:
        """DELETE /networks/{id}."""
        self._tell("destroy", await self._networks.remove_network(request.params["id"]))
        return empty_response()

    async def prune(self, request: ApiRequest) -> web.StreamResponse:
        """POST /networks/prune: the users' networks that no container is in."""
        filters = request.filters(_PRUNE_FILTERS)
        until = _until(filters)
        used = self._networks.used_networks()
        deleted = []
        for network in self._networks.list_networks():
            if network["Name"] in PREDEFINED or network["Id"] in used or not _prunable(network, filters, until):
                continue
            try:
                await self._networks.remove_network(network["Id"])
            except (NotFoundError, PermissionDeniedError):
                continue  # removed or entered meanwhile
            self._tell("destroy", network)
            deleted.append(network["Name"])
        self._publish("prune", "", {"reclaimed": "0"})
        return json_response({"NetworksDeleted": deleted or None})

    def _tell(self, action: str, network: dict[str, Any]) -> None:
        self._publish(action, network["Id"], {"name": network["Name"], "type": network["Driver"]})


def _check_verbose(text: str) -> None:
    if text and text.lower() not in ("1", "t", "true", "0", "f", "false"):
        raise InvalidArgumentError(f"invalid value for verbose: {text} is neither true nor false")


def _passes(network: dict[str, Any], filters: Filters, used: set[str]) -> bool:
    predefined = network["Name"] in PREDEFINED
    for wanted in filters.get("type"):
        if wanted not in ("builtin", "custom"):
            raise InvalidArgumentError(f"invalid filter: 'type'='{wanted}'")
    in_use = predefined or network["Id"] in used
    return (
        filters.matches("name", network["Name"])
        and filters.matches("id", network["Id"])
        and filters.exact("driver", network["Driver"])
        and filters.exact("scope", network["Scope"])
        and filters.exact("type", "builtin" if predefined else "custom")
        and filters.labels("label", network["Labels"])
        and ("dangling" not in filters or in_use != filters.flag("dangling", False))
    )


def _prunable(network: dict[str, Any], filters: Filters, until: int) -> bool:
    labels = network["Labels"]
    return (
        filters.labels("label", labels)
        and ("label!" not in filters or not filters.labels("label!", labels))
        and not (until and timestamps.parse(network["Created"]) > until)
    )


def _until(filters: Filters) -> int:
    values = filters.get("until")
    if len(values) > 1:
        raise InvalidArgumentError("more than one until filter specified")
    return timestamps.parse_ago(values[0], name="until") if values else 0
