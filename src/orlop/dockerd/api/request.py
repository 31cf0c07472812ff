# SPDX-License-Identifier: Apache-2.0
"""A request of the Engine API as its handlers see it."""

import asyncio
import re
from typing import TypeVar

import msgspec
from aiohttp import web

from orlop import codec
from orlop.dockerd.access.policy import OWNER_LABEL, ROOT, Level, Viewer
from orlop.dockerd.api.connection import Connection
from orlop.dockerd.api.version import Version
from orlop.dockerd.filters import Filters
from orlop.errdefs import InvalidArgumentError
from orlop.oci.image import Platform
from orlop.oci.platforms import parse_platform

T = TypeVar("T")

_NOTHING = "invalid JSON: got EOF while reading request body"
_OTHER_CASE = re.compile(rb'[{,]\s*"(?:[a-z]|CPU[A-Z])\w*"\s*:')
"""A key as no field of ours begins, but as clients write them: `detachKeys`, `CPURealtimePeriod`."""
_FALSE = frozenset({"", "0", "no", "false", "none"})


class ApiRequest:
    """An HTTP request with its API version and the parameters of its path.

    `http` is aiohttp's request (headers, `content` for a streamed body), `connection` the connection that it came
    by, which a hijack takes over, `common_headers` what every answer carries (the server adds them to answers that
    are not sent yet when the handler returns).
    """

    __slots__ = ("common_headers", "connection", "http", "owned_only", "params", "version", "viewer")

    def __init__(
        self,
        http: web.BaseRequest,
        connection: Connection,
        version: Version,
        params: dict[str, str],
        common_headers: dict[str, str],
        viewer: Viewer = ROOT,
    ) -> None:
        self.viewer = viewer
        self.owned_only = False
        """Whether a list shows only what is the viewer's."""
        self.common_headers = common_headers
        self.http = http
        self.connection = connection
        self.version = version
        self.params = params

    @property
    def gone(self) -> "asyncio.Future[None]":
        """Done when the client has closed its connection. Never await it bare: use asyncio.wait or `or_gone`."""
        return self.connection.gone

    def query(self, name: str, default: str = "") -> str:
        """A query parameter as text."""
        return self.http.query.get(name, default)

    def query_all(self, name: str) -> list[str]:
        """Every value of a repeated query parameter."""
        return self.http.query.getall(name, [])

    def flag(self, name: str, default: bool = False) -> bool:
        """A query parameter as true or false: everything but empty, 0, no, false, none is true."""
        if name not in self.http.query:
            return default
        return self.http.query[name].strip().lower() not in _FALSE

    def integer(self, name: str, default: int | None = None) -> int | None:
        """A query parameter as a number. Raises InvalidArgumentError that names the parameter."""
        text = self.http.query.get(name, "")
        if not text:
            return default
        try:
            return int(text)
        except ValueError:
            raise InvalidArgumentError(f"invalid value for {name}: {text!r} is not an integer") from None

    def filters(self, accepted: tuple[str, ...] | None = None) -> Filters:
        """The `filters` parameter. Raises InvalidArgumentError for malformed text or a name not accepted."""
        filters = Filters.parse(self.query("filters"))
        if self.owned_only:
            filters.add("label", f"{OWNER_LABEL}={self.viewer.owner}")
        if accepted is not None:
            filters.validate(accepted)
        return filters

    def platform(self, *, since: Version) -> Platform | None:
        """The `platform` parameter, `linux/arm64` or a platform's JSON; clients before `since` have none."""
        text = self.query("platform")
        if not text or self.version < since:
            return None
        return codec.decode(text, Platform) if text.startswith("{") else parse_platform(text)

    def platforms(self, name: str, *, since: Version, several: Version) -> list[Platform]:
        """The platforms of a parameter, each as JSON; clients before `since` have none, before `several` one.

        Raises InvalidArgumentError.
        """
        found = [text for text in self.query_all(name) if text] if self.version >= since else []
        if len(found) > 1 and self.version < several:
            raise InvalidArgumentError(f"{name}: more than one needs API v{several[0]}.{several[1]} or newer")
        return [codec.decode(text, Platform) if text.startswith("{") else parse_platform(text) for text in found]

    def header(self, name: str, default: str = "") -> str:
        """A request header."""
        return self.http.headers.get(name, default)

    def claim(self, labels: dict[str, str]) -> dict[str, str]:
        """The labels of a new object, with the owner's where only what one owns can be used."""
        if self.viewer.level is Level.OWN:
            return {**labels, OWNER_LABEL: self.viewer.owner}
        return labels

    @property
    def wants_upgrade(self) -> bool:
        """True if the client asked for `Connection: Upgrade`."""
        return "upgrade" in self.header("Connection").lower() and bool(self.header("Upgrade"))

    async def json(self, to: type[T], *, required: bool = False) -> T:
        """The body as a typed value; no body at all is `to()` unless required.

        Raises InvalidArgumentError: wrong Content-Type, malformed JSON, content after it, a field of a wrong type.
        """
        body = await self.http.read()
        content_type = self.header("Content-Type")
        if content_type or body:
            kind = content_type.partition(";")[0].strip().lower()
            if not kind and not content_type:
                raise InvalidArgumentError("malformed Content-Type header (): mime: no media type")
            if kind != "application/json":
                raise InvalidArgumentError(
                    f"unsupported Content-Type header ({content_type}): must be 'application/json'"
                )
        if not body:
            if required:
                raise InvalidArgumentError(_NOTHING)
            return to()
        if not body.strip():
            raise InvalidArgumentError(_NOTHING)
        try:
            if _OTHER_CASE.search(body):
                from orlop.dockerd.api.fold import fold  # seldom needed

                body = fold(body, to)
            return codec.decode(body, to, called="JSON")
        except InvalidArgumentError as error:
            if "trailing characters" in str(error):
                raise InvalidArgumentError("unexpected content after JSON") from None
            raise
        except msgspec.DecodeError as error:
            raise InvalidArgumentError(f"invalid JSON: {error}") from None
