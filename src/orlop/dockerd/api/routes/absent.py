# SPDX-License-Identifier: Apache-2.0
"""Endpoints of the Engine API that this daemon does not serve: one clear line instead of "page not found"."""

from aiohttp import web

from orlop.dockerd.api.grpc import NOT_SERVED
from orlop.dockerd.api.request import ApiRequest
from orlop.dockerd.api.router import Handler, Route
from orlop.dockerd.api.streams import json_response
from orlop.errdefs import NotImplementedByUsError, UnavailableError

_ABSENT = (
    ("GET", "/containers/{id}/checkpoints", "checkpointing"),
    ("POST", "/containers/{id}/checkpoints", "checkpointing"),
    ("DELETE", "/containers/{id}/checkpoints/{checkpoint}", "checkpointing"),
    ("PUT", "/volumes/{name}", "updating volumes"),
    ("POST", "/plugins/pull", "managing plugins"),
    ("POST", "/plugins/create", "managing plugins"),
    ("POST", "/swarm/init", "swarm mode"),
    ("POST", "/swarm/join", "swarm mode"),
)
_SWARM = ("/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs")


def absent_routes() -> list[Route]:
    """The table; it comes after every other one."""
    routes = [Route(method, path, _refuse(what)) for method, path, what in _ABSENT]
    routes += [Route("POST", path, _no_builder) for path in ("/build", "/build/cancel", "/session")]
    routes += [Route("GET", path, _no_swarm) for path in _SWARM]
    routes += [Route("GET", f"{path}/{{rest:.*}}", _no_swarm) for path in _SWARM]
    routes += [Route("POST", f"{path}/{{rest:.*}}", _no_swarm) for path in _SWARM]
    routes += [Route("DELETE", f"{path}/{{rest:.*}}", _no_swarm) for path in _SWARM]
    routes += [Route("GET", "/plugins", _no_plugins), Route("POST", "/build/prune", _no_build_cache)]
    return routes


def _refuse(what: str) -> Handler:
    async def refuse(request: ApiRequest) -> web.StreamResponse:
        raise NotImplementedByUsError(f"{what} is not supported by this daemon")

    return refuse


async def _no_builder(request: ApiRequest) -> web.StreamResponse:
    raise NotImplementedByUsError(NOT_SERVED)


async def _no_swarm(request: ApiRequest) -> web.StreamResponse:
    raise UnavailableError(
        'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to '
        "swarm and try again"
    )


async def _no_plugins(request: ApiRequest) -> web.StreamResponse:
    """There are none."""
    return json_response([])


async def _no_build_cache(request: ApiRequest) -> web.StreamResponse:
    """There is nothing to prune."""
    return json_response({"CachesDeleted": None, "SpaceReclaimed": 0})
