# SPDX-License-Identifier: Apache-2.0
"""Containers: every endpoint translates HTTP to one use case."""

from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from aiohttp import web

from orlop import codec
from orlop.dockerd import timestamps
from orlop.dockerd.access.policy import Level
from orlop.dockerd.api import legacy
from orlop.dockerd.api.hijack import HijackedResponse, content_type, hijack, refuse
from orlop.dockerd.api.request import ApiRequest
from orlop.dockerd.api.router import Route
from orlop.dockerd.api.streams import (
    JSON_LINES,
    MULTIPLEXED_STREAM,
    NDJSON,
    RAW_STREAM,
    accepted_json_stream,
    empty_response,
    framed,
    json_response,
    or_gone,
    pump,
    start_stream,
)
from orlop.dockerd.containers.attach import Attach, AttachRequest
from orlop.dockerd.containers.checkpoints import Checkpoints
from orlop.dockerd.containers.create import Create
from orlop.dockerd.containers.inspect import Inspect
from orlop.dockerd.containers.kill import Kill
from orlop.dockerd.containers.links import RemoveLink
from orlop.dockerd.containers.list import List
from orlop.dockerd.containers.logs import Logs, LogsRequest
from orlop.dockerd.containers.pause import Pause
from orlop.dockerd.containers.prune import Prune
from orlop.dockerd.containers.remove import Remove
from orlop.dockerd.containers.rename import Rename
from orlop.dockerd.containers.resize import Resize
from orlop.dockerd.containers.restart import Restart
from orlop.dockerd.containers.start import Start
from orlop.dockerd.containers.stats import GetStats
from orlop.dockerd.containers.stop import Stop
from orlop.dockerd.containers.top import Top
from orlop.dockerd.containers.update import Update, UpdateRequest, without_block_devices
from orlop.dockerd.containers.wait import Wait
from orlop.engine.types import CreateRequest
from orlop.errdefs import InvalidArgumentError, NotFoundError, OrlopError, PermissionDeniedError
from orlop.rpc import stdcopy

if TYPE_CHECKING:
    from orlop.dockerd.containers.container import ExitInfo


class ContainerUseCases(NamedTuple):
    """What the endpoints call, one use case each."""

    create: Create
    start: Start
    stop: Stop
    kill: Kill
    restart: Restart
    pause: Pause
    rename: Rename
    remove: Remove
    wait: Wait
    attach: Attach
    logs: Logs
    resize: Resize
    top: Top
    stats: GetStats
    inspect: Inspect
    list: List
    update: Update
    prune: Prune
    remove_link: RemoveLink
    checkpoints: Checkpoints | None
    """None: not in experimental mode."""


class ContainerRoutes:
    """The endpoints."""

    def __init__(self, use: ContainerUseCases) -> None:
        self._use = use

    def routes(self) -> list[Route]:
        """The table."""
        return [
            Route("GET", "/containers/json", self.list),
            Route("POST", "/containers/create", self.create),
            Route("POST", "/containers/prune", self.prune),
            Route("GET", "/containers/{id}/json", self.inspect),
            Route("GET", "/containers/{id}/logs", self.logs),
            Route("GET", "/containers/{id}/stats", self.stats),
            Route("GET", "/containers/{id}/top", self.top),
            Route("POST", "/containers/{id}/attach", self.attach),
            Route("POST", "/containers/{id}/start", self.start),
            Route("POST", "/containers/{id}/wait", self.wait),
            Route("POST", "/containers/{id}/stop", self.stop),
            Route("POST", "/containers/{id}/kill", self.kill),
            Route("POST", "/containers/{id}/restart", self.restart),
            Route("POST", "/containers/{id}/pause", self.pause),
            Route("POST", "/containers/{id}/unpause", self.unpause),
            Route("POST", "/containers/{id}/rename", self.rename),
            Route("POST", "/containers/{id}/resize", self.resize),
            Route("POST", "/containers/{id}/update", self.update),
            Route("DELETE", "/containers/{id}", self.remove),
            Route("DELETE", "/containers/{id}/{alias}", self.remove_link),
        ]

    async def list(self, request: ApiRequest) -> web.StreamResponse:
        """GET /containers/json."""
        found = await self._use.list(
            request.filters(),
            all=request.flag("all"),
            limit=max(request.integer("limit", 0) or 0, 0),
            size=request.flag("size"),
        )
        return json_response([legacy.summary(view, request.version) for view in found])

    async def create(self, request: ApiRequest) -> web.StreamResponse:
        """POST /containers/create."""
        body = await _create_request(request)
        warnings = legacy.create_request(body, request.version)
        body.labels = request.claim(body.labels)
        body.host_config.runtime = body.host_config.runtime or body.runtime
        platform = request.platform(since=(1, 41))
        created = await self._use.create(request.query("name"), body, platform)
        return json_response({"Id": created.id, "Warnings": warnings + created.warnings}, 201)

    async def inspect(self, request: ApiRequest) -> web.StreamResponse:
        """GET /containers/{id}/json."""
        view = await self._use.inspect(request.params["id"], size=request.flag("size"))
        return json_response(legacy.container(view, request.version))

    async def start(self, request: ApiRequest) -> web.StreamResponse:
        """POST /containers/{id}/start."""
        body = await request.http.read()
        if body.strip() and body.strip() not in (b"{}", b"null"):
            raise InvalidArgumentError(
                "starting container with non-empty request body was deprecated since API v1.22 and removed "
                "in v1.24"
            )
        await self._use.start(request.params["id"], self._checkpoint(request))
        return empty_response()

    def _checkpoint(self, request: ApiRequest) -> str:
        """The directory of the checkpoint that a start is to go on from; empty without one."""
        name = request.query("checkpoint")
        if not name:
            return ""
        if self._use.checkpoints is None:
            raise InvalidArgumentError("checkpoint is only supported in experimental mode")
        if request.viewer.level is not Level.ALL:
            raise PermissionDeniedError("starting from a checkpoint takes all rights: it may be of any process")
        return str(self._use.checkpoints.find(request.params["id"], name, request.query("checkpoint-dir")))

    async def stop(self, request: ApiRequest) -> web.StreamResponse:
        """POST /containers/{id}/stop."""
        await self._use.stop(request.params["id"], _signal(request), request.integer("t"))
        return empty_response()

    async def restart(self, request: ApiRequest) -> web.StreamResponse:
        """POST /containers/{id}/restart."""
        await self._use.restart(request.params["id"], _signal(request), request.integer("t"))
        return empty_response()

    async def kill(self, request: ApiRequest) -> web.StreamResponse:
        """POST /containers/{id}/kill."""
        await self._use.kill(request.params["id"], request.query("signal"))
        return empty_response()

    async def pause(self, request: ApiRequest) -> web.StreamResponse:
        """POST /containers/{id}/pause."""
        await self._use.pause.pause(request.params["id"])
        return empty_response()

    async def unpause(self, request: ApiRequest) -> web.StreamResponse:
        """POST /containers/{id}/unpause."""
        await self._use.pause.unpause(request.params["id"])
        return empty_response()

    async def rename(self, request: ApiRequest) -> web.StreamResponse:
        """POST /containers/{id}/rename."""
        await self._use.rename(request.params["id"], request.query("name"))
        return empty_response()

    async def remove(self, request: ApiRequest) -> web.StreamResponse:
        """DELETE /containers/{id}."""
        if request.flag("link"):
            self._use.remove_link(request.params["id"])  # which refuses: a container's own name is no link
            return empty_response()
        await self._use.remove(request.params["id"], force=request.flag("force"), volumes=request.flag("v"))
        return empty_response()

    async def remove_link(self, request: ApiRequest) -> web.StreamResponse:
        """DELETE /containers/{id}/{alias}?link=1."""
        reference = f"{request.params['id']}/{request.params['alias']}"
        if not request.flag("link"):
            raise NotFoundError(f"No such container: {reference}")
        self._use.remove_link(reference)
        return empty_response()

    async def resize(self, request: ApiRequest) -> web.StreamResponse:
        """POST /containers/{id}/resize."""
        height, width = size_of(request)
        await self._use.resize(request.params["id"], height, width)
        return empty_response(200)

    async def update(self, request: ApiRequest) -> web.StreamResponse:
        """POST /containers/{id}/update."""
        body = await request.json(UpdateRequest)
        if request.version < (1, 40):
            body.pids_limit = None
        if request.version < (1, 55):
            body = without_block_devices(body)
        warnings = await self._use.update(request.params["id"], body)
        return json_response({"Warnings": warnings or None})

    async def prune(self, request: ApiRequest) -> web.StreamResponse:
        """POST /containers/prune."""
        deleted, reclaimed = await self._use.prune(request.filters())
        return json_response({"ContainersDeleted": deleted or None, "SpaceReclaimed": reclaimed})

    async def top(self, request: ApiRequest) -> web.StreamResponse:
        """GET /containers/{id}/top."""
        return json_response(await self._use.top(request.params["id"], request.query("ps_args")))

    # -- streams

    async def wait(self, request: ApiRequest) -> web.StreamResponse:
        """POST /containers/{id}/wait: the headers leave at once, the exit code when there is one."""
        condition = request.query("condition") if request.version >= (1, 30) else ""
        waiting = self._use.wait(request.params["id"], condition)
        response = await start_stream(request, "application/json")

        async def answer() -> AsyncIterator[bytes]:
            try:
                yield codec.encode(_exit_view(await waiting)) + b"\n"
            finally:
                waiting.cancel()

        await pump(request, response, answer())
        return response

    async def logs(self, request: ApiRequest) -> web.StreamResponse:
        """GET /containers/{id}/logs."""
        wanted = LogsRequest(
            stdout=request.flag("stdout"),
            stderr=request.flag("stderr"),
            follow=request.flag("follow"),
            since=_moment(request, "since"),
            until=_moment(request, "until"),
            timestamps=request.flag("timestamps"),
            details=request.flag("details"),
            tail=_tail(request),
            previous=request.flag("previous"),
        )
        json_type = _json_logs(request)
        tty = self._use.logs.check(request.params["id"], wanted)
        raw_type = RAW_STREAM if tty or request.version < (1, 42) else MULTIPLEXED_STREAM
        response = await start_stream(request, json_type or raw_type)
        encode = partial(framed, content_type=json_type) if json_type else None
        await pump(request, response, self._use.logs(request.params["id"], wanted, encode))
        return response

    async def stats(self, request: ApiRequest) -> web.StreamResponse:
        """GET /containers/{id}/stats."""
        reference = request.params["id"]
        one_shot = request.version >= (1, 41) and request.flag("one-shot")
        streaming = request.flag("stream", True)
        if streaming and one_shot:
            raise InvalidArgumentError("cannot have stream=true and one-shot=true")
        if not streaming:
            return json_response(await or_gone(request, self._use.stats.once(reference, one_shot=one_shot)))
        await self._use.inspect(reference)  # an unknown container is a 404, not a broken stream
        response = await start_stream(request, "application/json")

        async def lines() -> AsyncIterator[bytes]:
            async for measured in self._use.stats.stream(reference):
                yield codec.encode(measured) + b"\n"

        await pump(request, response, lines())
        return response

    async def attach(self, request: ApiRequest) -> web.StreamResponse:
        """POST /containers/{id}/attach: takes the connection over."""
        wanted = AttachRequest(
            stdin=request.flag("stdin"),
            stdout=request.flag("stdout"),
            stderr=request.flag("stderr"),
            stream=request.flag("stream"),
            logs=request.flag("logs"),
            detach_keys=request.query("detachKeys"),
        )
        await request.http.read()
        try:
            tty = self._use.attach.check(request.params["id"], wanted)
        except OrlopError as error:
            return refuse(request, error)
        stream = hijack(request, content_type(request, tty=tty), with_headers=False)
        try:
            await or_gone(request, self._use.attach(request.params["id"], wanted, stream))
        except ConnectionError:
            return HijackedResponse()
        except OrlopError as error:
            text = f"{error}\r\n".encode()
            stream.write(text if tty else stdcopy.encode(stdcopy.STDERR, text))
        return HijackedResponse()


def size_of(request: ApiRequest) -> tuple[int, int]:
    """`h` and `w` of a resize request. Raises InvalidArgumentError."""
    found = []
    for name, word in (("h", "height"), ("w", "width")):
        value = request.integer(name)
        if value is None or not 0 <= value <= 0xFFFF:
            raise InvalidArgumentError(f"invalid resize {word} {request.query(name)!r}")
        found.append(value)
    return found[0], found[1]


def _signal(request: ApiRequest) -> str:
    return request.query("signal") if request.version >= (1, 42) else ""


def _moment(request: ApiRequest, name: str) -> int:
    text = request.query(name)
    return timestamps.parse(text, name=name) if text else 0


def _json_logs(request: ApiRequest) -> str:
    """The content type of a log as JSON objects (since 1.54, experimental in Docker); empty: as bytes."""
    if request.version < (1, 54):
        return ""
    form = request.query("format")
    if form not in ("", "json"):
        raise InvalidArgumentError(f"unsupported log format {form!r}: expected json")
    accepted = accepted_json_stream(request)
    return accepted or ((JSON_LINES if request.header("Accept") else NDJSON) if form else "")


def _tail(request: ApiRequest) -> int:
    """Lines from the end; what is no number means all, as with Docker."""
    text = request.query("tail", "all")
    return int(text) if text.isdecimal() else -1


def _exit_view(info: "ExitInfo") -> dict[str, Any]:
    view: dict[str, Any] = {"StatusCode": info.code}
    if info.error:
        view["Error"] = {"Message": info.error}
    return view


async def _create_request(request: ApiRequest) -> CreateRequest:
    if (await request.http.read()).strip() == b"null":
        raise InvalidArgumentError("config cannot be empty in order to create a container")
    return await request.json(CreateRequest, required=True)
