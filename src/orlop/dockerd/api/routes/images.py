# SPDX-License-Identifier: Apache-2.0
"""Routes under /images, /commit, /distribution and /auth: translation only."""

from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web
from yarl import URL

from orlop.dockerd.api.request import ApiRequest
from orlop.dockerd.api.router import Route
from orlop.dockerd.api.streams import JsonStream, empty_response, json_response, or_gone, pump, start_stream
from orlop.dockerd.images.download import download, source_url
from orlop.dockerd.images.service import ImageService
from orlop.dockerd.images.tag import tag_reference
from orlop.errdefs import (
    InvalidArgumentError,
    NotImplementedByUsError,
    OrlopError,
    PermissionDeniedError,
)
from orlop.oci import reference
from orlop.oci.distribution import AuthConfig, decode_registry_auth
from orlop.oci.image import ImageConfig

CHUNK = 1 << 20  # bytes of a body at a time

# What older versions of the API show of an image's config even where it is empty.
_CONFIG_BEFORE_1_52: dict[str, Any] = {
    "Cmd": None,
    "Entrypoint": None,
    "Env": None,
    "Labels": None,
    "OnBuild": None,
    "User": "",
    "Volumes": None,
    "WorkingDir": "",
}
_CONFIG_BEFORE_1_50: dict[str, Any] = {
    **_CONFIG_BEFORE_1_52,
    "AttachStderr": False,
    "AttachStdin": False,
    "AttachStdout": False,
    "Domainname": "",
    "Hostname": "",
    "Image": "",
    "OpenStdin": False,
    "StdinOnce": False,
    "Tty": False,
}


def image_routes(images: ImageService) -> list[Route]:
    """The routes, over the use cases."""
    handlers = _Handlers(images)
    return [
        Route("GET", "/images/json", handlers.list),
        Route("GET", "/images/search", handlers.search),
        Route("GET", "/images/get", handlers.save),
        Route("GET", "/images/{name:.*}/get", handlers.save),
        Route("GET", "/images/{name:.*}/history", handlers.history),
        Route("GET", "/images/{name:.*}/json", handlers.inspect),
        Route("GET", "/images/{name:.*}/attestations", handlers.attestations),
        Route("POST", "/images/load", handlers.load),
        Route("POST", "/images/create", handlers.create),
        Route("POST", "/images/prune", handlers.prune),
        Route("POST", "/images/{name:.*}/push", handlers.push),
        Route("POST", "/images/{name:.*}/tag", handlers.tag),
        Route("DELETE", "/images/{name:.*}", handlers.remove),
        Route("POST", "/commit", handlers.commit),
        Route("GET", "/distribution/{name:.*}/json", handlers.distribution),
        Route("POST", "/auth", handlers.login),
    ]


class _Handlers:
    def __init__(self, images: ImageService) -> None:
        self._images = images

    async def list(self, request: ApiRequest) -> web.StreamResponse:
        filters = request.filters()
        if request.version < (1, 25) and request.query("filter") and "reference" not in filters:
            filters.add("reference", request.query("filter"))
        shared_size = request.version >= (1, 42) and request.flag("shared-size")
        summaries = await self._images.list(filters, shared_size=shared_size)
        manifests = request.version >= (1, 47) and request.flag("manifests")
        identity = request.version >= (1, 54) and request.flag("identity")
        if identity and not manifests:
            raise InvalidArgumentError("conflicting options: identity requires manifests=1")
        for summary in summaries:
            if manifests:
                summary["Manifests"] = await self._images.manifests(
                    await self._images.store.resolve(summary["Id"]), identity=identity
                )
            if request.version < (1, 43) and not summary["RepoTags"] and not summary["RepoDigests"]:
                summary["RepoTags"], summary["RepoDigests"] = ["<none>:<none>"], ["<none>@<none>"]
            if request.version < (1, 48):
                del summary["Descriptor"]
            if request.version < (1, 51):
                summary["Containers"] = -1
            if request.version < (1, 44):
                summary["VirtualSize"] = summary["Size"]
        return json_response(summaries)

    async def inspect(self, request: ApiRequest) -> web.StreamResponse:
        platform = request.platform(since=(1, 49))
        manifests = request.version >= (1, 48) and request.flag("manifests")
        if manifests and platform:
            raise InvalidArgumentError("conflicting options: manifests and platform options cannot both be set")
        body = await self._images.inspect(request.params["name"], platform)
        if manifests:
            body["Manifests"] = await self._images.manifests(await self._images.store.resolve(body["Id"]))
        if request.version < (1, 52):
            legacy = _CONFIG_BEFORE_1_50 if request.version < (1, 50) else _CONFIG_BEFORE_1_52
            body["Config"] = {**legacy, **body["Config"]}
            for name in ("Parent", "Comment", "DockerVersion", "Author"):
                body.setdefault(name, "")
        else:
            del body["GraphDriver"]
        if request.version < (1, 53):
            body.pop("Identity", None)
        if request.version < (1, 48):
            del body["Descriptor"]
        if request.version < (1, 45):
            body |= {"Container": "", "ContainerConfig": None}
        if request.version < (1, 44):
            body["VirtualSize"] = body["Size"]
            body.setdefault("Created", "0001-01-01T00:00:00Z")
        return json_response(body)

    async def history(self, request: ApiRequest) -> web.StreamResponse:
        platform = request.platform(since=(1, 48))
        return json_response(await self._images.history(request.params["name"], platform))

    async def tag(self, request: ApiRequest) -> web.StreamResponse:
        await self._images.tag(request.params["name"], request.query("repo"), request.query("tag"))
        return empty_response(201)

    async def commit(self, request: ApiRequest) -> web.StreamResponse:
        given = (await request.http.read()).strip() not in (b"", b"null")
        config = await request.json(ImageConfig) if given else None
        repository = request.query("repo")
        image_id = await self._images.commit(
            request.query("container"),
            reference=tag_reference(repository, request.query("tag")) if repository else None,
            comment=request.query("comment"),
            author=request.query("author"),
            pause=request.flag("pause", default=True),
            changes=request.query_all("changes"),
            config=config,
        )
        return json_response({"Id": image_id}, 201)

    async def remove(self, request: ApiRequest) -> web.StreamResponse:
        name, force = request.params["name"], request.flag("force")
        if platforms := request.platforms("platforms", since=(1, 50), several=(1, 50)):
            return json_response(await self._images.remove_platforms(name, platforms, force=force))
        return json_response(await self._images.remove(name, force=force))

    async def prune(self, request: ApiRequest) -> web.StreamResponse:
        return json_response(await self._images.prune(request.filters()))

    async def attestations(self, request: ApiRequest) -> web.StreamResponse:
        await self._images.store.resolve(request.params["name"])
        raise NotImplementedByUsError("attestations of images are not supported")

    async def search(self, request: ApiRequest) -> web.StreamResponse:
        term, filters = request.query("term"), request.filters()
        if not term:
            raise InvalidArgumentError("term is required")
        limit = request.integer("limit")
        found = await or_gone(
            request, self._images.search(term, limit=limit, filters=filters, auth=_auth(request))
        )
        return json_response(found)

    # Streams

    async def create(self, request: ApiRequest) -> web.StreamResponse:
        """Pull (`fromImage`) or import (`fromSrc`)."""
        progress = _Progress(request)
        try:
            if image := request.query("fromImage").removesuffix(":"):
                wanted = _pull_reference(image, request.query("tag"))
                await self._pull(request, wanted, progress)
            else:
                await self._import(request, progress)
        except OrlopError as error:
            await progress.failed(error)
        return await progress.close()

    async def _pull(self, request: ApiRequest, wanted: reference.Reference, progress: "_Progress") -> None:
        platform = request.platform(since=(1, 32))
        auth = _auth(request)
        pull = self._images.pull if wanted.tag or wanted.digest else self._images.pull.all_tags
        await or_gone(request, pull(wanted, progress.send, platform=platform, auth=auth))

    async def _import(self, request: ApiRequest, progress: "_Progress") -> None:
        source = request.query("fromSrc")
        archive = _body(request)
        if source != "-":
            archive = _downloaded(source_url(source), progress)
        repository = request.query("repo")
        image_id = await self._images.import_(
            archive,
            reference=tag_reference(repository, request.query("tag")) if repository else None,
            message=request.query("message") or f"Imported from {source}",
            changes=request.query_all("changes"),
            platform=request.platform(since=(1, 32)),
        )
        await progress.send({"status": image_id})

    async def push(self, request: ApiRequest) -> web.StreamResponse:
        wanted = reference.parse(request.params["name"])
        if request.query("tag"):
            wanted = wanted.with_tag(request.query("tag"))
        progress, platform = _Progress(request), request.platform(since=(1, 46))
        try:
            work = self._images.push(wanted, progress.send, auth=_auth(request), platform=platform)
            await or_gone(request, work)
        except OrlopError as error:
            await progress.failed(error)
        return await progress.close()

    async def load(self, request: ApiRequest) -> web.StreamResponse:
        platforms = request.platforms("platform", since=(1, 48), several=(1, 52))
        stream = await JsonStream.open(request)
        try:
            await self._images.load(_body(request), stream.send, platforms=platforms)
        except OrlopError as error:
            await stream.error(str(error))
        return await stream.close()

    async def save(self, request: ApiRequest) -> web.StreamResponse:
        names = [request.params["name"]] if "name" in request.params else request.query_all("names")
        platforms = request.platforms("platform", since=(1, 48), several=(1, 52))
        archive = await self._images.save(names, platforms)
        response = await start_stream(request, "application/x-tar")
        await pump(request, response, archive)
        return response

    # Registries

    async def distribution(self, request: ApiRequest) -> web.StreamResponse:
        return json_response(await self._images.distribution(request.params["name"], _auth(request)))

    async def login(self, request: ApiRequest) -> web.StreamResponse:
        return json_response(await self._images.login(await request.json(AuthConfig, required=True)))


class _Progress:
    """A stream of messages that begins with the first: until then a failure is the request's own status."""

    def __init__(self, request: ApiRequest) -> None:
        self._request = request
        self._stream: JsonStream | None = None

    async def send(self, message: dict[str, Any]) -> None:
        if self._stream is None:
            self._stream = await JsonStream.open(self._request)
        await self._stream.send(message)

    async def failed(self, error: OrlopError) -> None:
        if self._stream is None:
            raise error
        await self._stream.error(str(error))

    async def close(self) -> web.StreamResponse:
        if self._stream is None:
            self._stream = await JsonStream.open(self._request)
        return await self._stream.close()


async def _downloaded(url: URL, progress: _Progress) -> AsyncIterator[bytes]:
    told = False
    async for chunk in download(url):
        if not told:  # a failure before is the request's own status
            told = True
            await progress.send({"status": f"Downloading from {url}"})
        yield chunk


def _pull_reference(image: str, tag: str) -> reference.Reference:
    parsed = reference.parse(image)
    if tag:
        parsed = parsed.with_digest(tag) if ":" in tag else parsed.with_tag(tag)
    if parsed.path == "scratch" or parsed.familiar_name == "scratch":
        raise PermissionDeniedError("'scratch' is a reserved name")
    return parsed


def _auth(request: ApiRequest) -> AuthConfig | None:
    """The credentials of a pull; malformed ones count as none, as with Docker."""
    try:
        return decode_registry_auth(request.header("X-Registry-Auth"))
    except InvalidArgumentError:
        return None


async def _body(request: ApiRequest) -> AsyncIterator[bytes]:
    async for chunk in request.http.content.iter_chunked(CHUNK):
        yield chunk
