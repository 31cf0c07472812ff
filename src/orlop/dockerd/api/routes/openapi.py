# SPDX-License-Identifier: Apache-2.0
"""The description of the API that the daemon itself gives."""

from collections.abc import Sequence

from aiohttp import web

from orlop.dockerd.api.request import ApiRequest
from orlop.dockerd.api.router import Route
from orlop.dockerd.api.streams import json_response


class OpenApiRoutes:
    """The endpoint; `described` are all others."""

    def __init__(self, described: Sequence[Route]) -> None:
        self._described = described

    def routes(self) -> list[Route]:
        """The table."""
        return [Route("GET", "/openapi.json", self.describe)]

    async def describe(self, request: ApiRequest) -> web.StreamResponse:
        """GET /openapi.json (not in Docker)."""
        from orlop.dockerd.api.openapi import describe  # seldom asked for

        return json_response(describe(self._described))
