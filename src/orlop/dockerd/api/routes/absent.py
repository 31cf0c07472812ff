# SPDX-License-Identifier: Apache-2.0
"""Endpoints whose feature is off: swarm mode, the builder, managed plugins. They answer as Docker's do then."""

from aiohttp import web

from orlop.dockerd.api.grpc import NOT_SERVED
from orlop.dockerd.api.request import ApiRequest
from orlop.dockerd.api.router import Handler, Route
from orlop.dockerd.api.streams import empty_response, json_response
from orlop.errdefs import InvalidArgumentError, NotFoundError, NotImplementedByUsError, UnavailableError

_NO_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to '
    "swarm and try again."
)
_SWARM = (
    ("GET", "/swarm"),
    ("POST", "/swarm/update"),
    ("GET", "/swarm/unlockkey"),
    ("POST", "/swarm/unlock"),
    ("GET", "/nodes"),
    ("GET", "/nodes/{id}"),
    ("DELETE", "/nodes/{id}"),
    ("POST", "/nodes/{id}/update"),
    ("GET", "/services"),
    ("POST", "/services/create"),
    ("GET", "/services/{id}"),
    ("DELETE", "/services/{id}"),
    ("POST", "/services/{id}/update"),
    ("GET", "/services/{id}/logs"),
    ("GET", "/tasks"),
    ("GET", "/tasks/{id}"),
    ("GET", "/tasks/{id}/logs"),
    ("GET", "/secrets"),
    ("POST", "/secrets/create"),
    ("GET", "/secrets/{id}"),
    ("DELETE", "/secrets/{id}"),
    ("POST", "/secrets/{id}/update"),
    ("GET", "/configs"),
    ("POST", "/configs/create"),
    ("GET", "/configs/{id}"),
    ("DELETE", "/configs/{id}"),
    ("POST", "/configs/{id}/update"),
)
_REFUSED = (
    ("POST", "/swarm/init", "swarm mode"),
    ("POST", "/swarm/join", "swarm mode"),
    ("GET", "/plugins/privileges", "managing plugins"),
    ("POST", "/plugins/pull", "managing plugins"),
    ("POST", "/plugins/create", "managing plugins"),
)
_OF_ONE_PLUGIN = (
    ("GET", "/plugins/{name:.*}/json"),
    ("POST", "/plugins/{name:.*}/enable"),
    ("POST", "/plugins/{name:.*}/disable"),
    ("POST", "/plugins/{name:.*}/upgrade"),
    ("POST", "/plugins/{name:.*}/push"),
    ("POST", "/plugins/{name:.*}/set"),
    ("DELETE", "/plugins/{name:.*}"),
)
_PLUGIN_FILTERS = ("capability", "enabled")


def absent_routes() -> list[Route]:
    """The table; it comes after every other one."""
    return [
        *(Route(method, path, _no_swarm) for method, path in _SWARM),
        Route("POST", "/swarm/leave", _no_member),
        Route("PUT", "/volumes/{name}", _no_cluster_volumes),
        *(Route(method, path, _refuse(what)) for method, path, what in _REFUSED),
        Route("POST", "/session", _no_session),
        Route("POST", "/build", _no_builder),
        Route("POST", "/build/cancel", _cancel_build),
        Route("POST", "/build/prune", _no_build_cache),
        Route("GET", "/plugins", _no_plugins),
        *(Route(method, path, _no_such_plugin) for method, path in _OF_ONE_PLUGIN),
    ]


def _refuse(what: str) -> Handler:
    async def refuse(request: ApiRequest) -> web.StreamResponse:
        raise NotImplementedByUsError(f"{what} is not supported by this daemon")

    return refuse


async def _no_builder(request: ApiRequest) -> web.StreamResponse:
    raise NotImplementedByUsError(NOT_SERVED)


async def _no_swarm(request: ApiRequest) -> web.StreamResponse:
    raise UnavailableError(_NO_MANAGER)


async def _no_member(request: ApiRequest) -> web.StreamResponse:
    raise UnavailableError("This node is not part of a swarm")


async def _no_cluster_volumes(request: ApiRequest) -> web.StreamResponse:
    raise UnavailableError("volume update only valid for cluster volumes, but swarm is unavailable")


async def _no_session(request: ApiRequest) -> web.StreamResponse:
    if not request.header("Upgrade"):
        raise InvalidArgumentError("no upgrade proto in request")
    raise NotImplementedByUsError(NOT_SERVED)


async def _cancel_build(request: ApiRequest) -> web.StreamResponse:
    """No build runs, and Docker does not mind either."""
    if not request.query("id"):
        raise InvalidArgumentError("build ID not provided")
    return empty_response(200)


async def _no_plugins(request: ApiRequest) -> web.StreamResponse:
    """There are none."""
    request.filters(_PLUGIN_FILTERS)
    return json_response([])


async def _no_such_plugin(request: ApiRequest) -> web.StreamResponse:
    raise NotFoundError(f'plugin "{request.params["name"]}" not found')


async def _no_build_cache(request: ApiRequest) -> web.StreamResponse:
    """There is nothing to prune."""
    return json_response({"CachesDeleted": None, "SpaceReclaimed": 0})
