# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of containers, which Docker has in experimental mode only."""

from aiohttp import web

from orlop.dockerd.api.request import ApiRequest
from orlop.dockerd.api.router import Route
from orlop.dockerd.api.streams import empty_response, json_response
from orlop.dockerd.containers.checkpoints import CheckpointRequest, Checkpoints
from orlop.errdefs import NotImplementedByUsError


class CheckpointRoutes:
    """The endpoints; without the use cases (the mode is off) each says so."""

    def __init__(self, checkpoints: Checkpoints | None) -> None:
        self._checkpoints = checkpoints

    def routes(self) -> list[Route]:
        """The table; it comes before the one that has DELETE /containers/{id}/{alias}."""
        return [
            Route("GET", "/containers/{id}/checkpoints", self.list),
            Route("POST", "/containers/{id}/checkpoints", self.create),
            Route("DELETE", "/containers/{id}/checkpoints/{checkpoint}", self.delete),
        ]

    @property
    def _use(self) -> Checkpoints:
        if self._checkpoints is None:
            raise NotImplementedByUsError(
                "This experimental feature is disabled by default. Start the Docker daemon in experimental mode "
                "in order to enable it."
            )
        return self._checkpoints

    async def list(self, request: ApiRequest) -> web.StreamResponse:
        """GET /containers/{id}/checkpoints."""
        names = self._use.list(request.params["id"], request.query("dir"))
        return json_response([{"Name": name} for name in names])

    async def create(self, request: ApiRequest) -> web.StreamResponse:
        """POST /containers/{id}/checkpoints."""
        use = self._use
        await use.create(request.params["id"], await request.json(CheckpointRequest, required=True))
        return empty_response(201)

    async def delete(self, request: ApiRequest) -> web.StreamResponse:
        """DELETE /containers/{id}/checkpoints/{checkpoint}."""
        name = request.params["checkpoint"]
        await self._use.delete(request.params["id"], name, request.query("dir"))
        return empty_response()
