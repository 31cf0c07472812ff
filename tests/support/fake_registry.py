# SPDX-License-Identifier: Apache-2.0
"""A registry in the test's own loop that misbehaves on demand: cuts, lies, redirects, asks for tokens."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from orlop.oci.build import BuiltImage

TRICKLE_PIECES = 44

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FakeRegistry:
    """Serves images under every repository name. Set the attributes to make it misbehave.

    `requests` holds (method, path, headers) of all that came. `cuts` are the numbers of bytes after which the
    next answers with a large blob (above 4096 bytes: no configuration) break off; `failures` the statuses of the
    next answers under /v2/<name>/, with `failure_headers`; `referrers` the pages of a digest's; `replaced` other
    bytes for a digest; `ranges` whether Range is honoured; `redirect` the base of another server to which blobs
    are redirected; `token` the Bearer token that is asked for, `realm` where it is got; `gate` an event that
    large blobs wait for; `trickle` the seconds between each of `TRICKLE_PIECES` pieces of them.
    """

    def __init__(self) -> None:
        self.host = ""
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.blobs: dict[str, bytes] = {}
        self.types: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.cuts: list[int] = []
        self.failures: list[int] = []
        self.failure_body: bytes = b""
        self.failure_headers: dict[str, str] = {}
        self.referrers: dict[str, list[bytes]] = {}
        self.replaced: dict[str, bytes] = {}
        self.ranges = True
        self.redirect = ""
        self.token = ""
        self.realm = ""
        self.challenge_error = ""
        self.gate: asyncio.Event | None = None
        self.trickle = 0.0
        self.head = True
        self.announce = True

    def add(self, image: BuiltImage, tag: str = "latest") -> None:
        """Offer an image or index."""
        import json

        for digest, blob in image.blobs.items():
            self.blobs[digest] = blob
            with contextlib.suppress(ValueError):
                document = json.loads(blob)
                if isinstance(document, dict) and "mediaType" in document:
                    self.types[digest] = document["mediaType"]
        self.types[image.target.digest] = image.target.media_type
        self.tags[tag] = image.target.digest

    def paths(self, method: str = "GET") -> list[str]:
        """The paths that were asked for."""
        return [path for asked, path, _ in self.requests if asked == method]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Any request."""
        self.requests.append((request.method, request.path, dict(request.headers)))
        path = request.path
        if path == "/token":
            return web.json_response({"token": self.token, "expires_in": 300})
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return self._challenge()
        if path == "/v2/":
            return web.json_response({})
        if self.failures and (status := self.failures.pop(0)):
            return web.Response(status=status, body=self.failure_body, headers=self.failure_headers)
        if "/referrers/" in path and self.referrers:
            return self._referrers(request, path.rpartition("/")[2])
        if "/manifests/" in path:
            return self._manifest(request, path.rpartition("/")[2])
        if "/blobs/" in path or path.startswith("/storage/"):
            digest = path.rpartition("/")[2]
            if self.redirect and not path.startswith("/storage/"):
                raise web.HTTPTemporaryRedirect(f"{self.redirect}/storage/{digest}?signature=1")
            return await self._blob(request, digest)
        return web.Response(status=404)

    def _challenge(self) -> web.Response:
        value = f'Bearer realm="{self.realm or f"http://{self.host}/token"}",service="test",scope="x"'
        if self.challenge_error:
            value += f',error="{self.challenge_error}"'
        body = {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}
        return web.json_response(body, status=401, headers={"WWW-Authenticate": value})

    def _referrers(self, request: web.Request, digest: str) -> web.Response:
        pages = self.referrers.get(digest, [b'{"schemaVersion":2,"manifests":[]}'])
        number = int(request.query.get("page", "0"))
        headers = {"Content-Type": "application/vnd.oci.image.index.v1+json"}
        if number + 1 < len(pages):
            headers["Link"] = f'<{request.path}?page={number + 1}>; rel="next"'
        return web.Response(body=pages[number], headers=headers)

    def _manifest(self, request: web.Request, name: str) -> web.Response:
        digest = self.tags.get(name, name)
        if digest not in self.blobs:
            body = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
            return web.json_response(body, status=404)
        if request.method == "HEAD" and not self.head:
            return web.Response(status=405)
        data = self.replaced.get(digest, self.blobs[digest])
        headers = {"Content-Type": self.types[digest]}
        if self.announce:
            headers["Docker-Content-Digest"] = digest
        return web.Response(body=data, headers=headers)

    async def _blob(self, request: web.Request, digest: str) -> web.StreamResponse:
        if digest not in self.blobs:
            return web.json_response({"errors": [{"code": "BLOB_UNKNOWN", "message": "blob unknown"}]}, status=404)
        data = self.replaced.get(digest, self.blobs[digest])
        start = 0
        if self.ranges and (asked := request.headers.get("Range")):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        response = web.StreamResponse(status=206 if start else 200)
        if start:
            response.headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        response.content_length = len(data) - start
        await response.prepare(request)
        large = len(data) > 4096
        if self.gate and large:
            await self.gate.wait()
        if self.cuts and large:
            await response.write(data[start : start + self.cuts.pop(0)])
            assert request.transport is not None
            request.transport.close()
            return response
        if self.trickle and large:
            step = len(data) // TRICKLE_PIECES
            for begin in range(start, len(data), step):
                await response.write(data[begin : begin + step])
                await asyncio.sleep(self.trickle)
            return response
        await response.write(data[start:])
        return response


@asynccontextmanager
async def fake_registry() -> AsyncIterator[FakeRegistry]:
    """Serve one on a free port of 127.0.0.1."""
    registry = FakeRegistry()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", registry.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    registry.host = f"{host}:{port}"
    try:
        yield registry
    finally:
        await runner.cleanup()
