# SPDX-License-Identifier: Apache-2.0
"""Asks authorization plugins about requests and answers: what they deny, or cannot judge, does not happen.

A plugin judges what the handler will read: the body is taken off the connection before, whatever the headers say
of its length, and one that is too long for a plugin is refused (CVE-2024-41110, CVE-2026-34040).
"""

import asyncio
import base64
import logging
import re
import ssl
from collections.abc import Mapping, Sequence

import msgspec
from aiohttp import streams, web

from orlop.dockerd.api.connection import Connection
from orlop.dockerd.plugins.client import Plugins
from orlop.errdefs import InternalError, InvalidArgumentError, OrlopError, PermissionDeniedError

log = logging.getLogger("orlop.dockerd.authorization")

KIND = "authz"
LONGEST_BODY = 4 << 20
"""Bytes of a body that a plugin is shown."""
_HIDDEN = frozenset({"authorization", "x-registry-config", "x-registry-auth"})
_AUTH_ENDPOINT = re.compile(r"/(?:v\d[\d.]*/)?auth.*")


class Question(msgspec.Struct, rename="pascal", omit_defaults=True):
    """What a plugin is told; bodies and certificates are base64."""

    user: str = ""
    user_auth_n_method: str = msgspec.field(default="", name="UserAuthNMethod")
    request_method: str = ""
    request_uri: str = ""
    request_body: bytes = b""
    request_headers: dict[str, str] = {}
    request_peer_certificates: list[str] = []
    response_status_code: int = 0
    response_body: bytes = b""
    response_headers: dict[str, str] = {}


class _Verdict(msgspec.Struct, rename="pascal"):
    allow: bool = False
    msg: str = ""
    err: str = ""


class Authorization:
    """`names` are the plugins, in the order in which they are asked; all of them must allow."""

    def __init__(self, plugins: Plugins, names: Sequence[str]) -> None:
        self._plugins = plugins
        self._names = list(names)

    @property
    def active(self) -> bool:
        """Whether there is anybody to ask."""
        return bool(self._names)

    def check(self, names: Sequence[str]) -> None:
        """Whether plugins can be asked. Raises InvalidArgumentError that names one that cannot. Blocks."""
        for name in names:
            try:
                self._plugins.get(name, KIND)
            except OrlopError as error:
                raise InvalidArgumentError(f"Error validating authorization plugin: {error}") from None

    def replace(self, names: Sequence[str]) -> None:
        """Ask others from now on."""
        self._names = list(names)

    async def before(self, http: web.BaseRequest, connection: Connection) -> Question:
        """Ask about a request. Raises PermissionDeniedError, InternalError."""
        question = Question(
            request_method=http.method,
            request_uri=http.raw_path,
            request_headers=_headers(http.headers),
        )
        if connection.peer is not None:
            question.user, question.user_auth_n_method = connection.peer.name, "TLS"
            pem = ssl.DER_cert_to_PEM_cert(connection.peer.certificate)
            question.request_peer_certificates = [base64.b64encode(pem.encode()).decode()]
        if _shows_body(http.path, http.headers):
            question.request_body = await _take_body(http)
        await self._ask("AuthZPlugin.AuthZReq", question)
        return question

    async def after(self, question: Question, path: str, response: web.StreamResponse) -> None:
        """Ask about an answer; one that has begun to be sent can only be told of. Raises PermissionDeniedError."""
        question.response_status_code = response.status
        question.response_headers = _headers(response.headers)
        if isinstance(response, web.Response) and _shows_body(path, response.headers):
            body = response.body
            question.response_body = bytes(body) if isinstance(body, bytes | bytearray) else b""
        await self._ask("AuthZPlugin.AuthZRes", question)

    async def _ask(self, method: str, question: Question) -> None:
        for name in list(self._names):
            try:
                verdict = await asyncio.to_thread(self._call, name, method, question)
            except OrlopError as error:
                raise InternalError(f"plugin {name} failed with error: {error}") from None
            if verdict.err:
                raise InternalError(f"plugin {name} failed with error: {verdict.err}")
            if not verdict.allow:
                raise PermissionDeniedError(f"authorization denied by plugin {name}: {verdict.msg}")

    def _call(self, name: str, method: str, question: Question) -> _Verdict:
        return self._plugins.get(name, KIND).call(method, question, _Verdict)


def _headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _HIDDEN}


def _shows_body(path: str, headers: Mapping[str, str]) -> bool:
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return kind == "application/json" and not _AUTH_ENDPOINT.fullmatch(path)


async def _take_body(http: web.BaseRequest) -> bytes:
    """The whole body, which stays readable for the handler. Raises PermissionDeniedError if it is too long."""
    body = bytearray()
    while not http.content.at_eof():
        body += await http.content.readany()
        if len(body) > LONGEST_BODY:
            raise PermissionDeniedError(
                f"request body too large for authorization plugin: size exceeds {LONGEST_BODY} bytes"
            )
    again = streams.StreamReader(http.protocol, 2**16, loop=asyncio.get_running_loop())
    again.feed_data(bytes(body))
    again.feed_eof()
    http._payload = again  # there is no other way to give it to whoever reads next
    return bytes(body)
