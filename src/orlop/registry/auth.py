# SPDX-License-Identifier: Apache-2.0
"""Authorization at a registry: challenges, Basic, and tokens of a token server.

Credentials go to the registry that the user named and to the token server that this registry names, nowhere else;
to a token server over plain HTTP only where the registry itself is spoken to over plain HTTP.
"""

import base64
import re
import time
from typing import NamedTuple

import aiohttp
from yarl import URL

from orlop.codec import decode
from orlop.errdefs import InvalidArgumentError, OrlopError, UnauthorizedError, UnavailableError
from orlop.oci.distribution import AuthConfig, Token
from orlop.registry.config import proxy_for
from orlop.registry.errors import describe_failure, read_error, registry_errors

_CHALLENGE = re.compile(r"([A-Za-z][A-Za-z0-9_-]*)\s+(?=[A-Za-z_-]+\s*=)")
_PARAMETER = re.compile(r'([A-Za-z_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
TOKEN_SIZE_MAX = 1 << 20  # bytes


class Challenge(NamedTuple):
    """One challenge of WWW-Authenticate: scheme in lower case, parameters by name in lower case."""

    scheme: str
    parameters: dict[str, str]


def parse_challenges(headers: list[str]) -> list[Challenge]:
    """Read WWW-Authenticate headers (RFC 9110 11.6.1); what is malformed is left out."""
    challenges = []
    for header in headers:
        starts = list(_CHALLENGE.finditer(header))
        ends = [start.start() for start in starts[1:]] + [len(header)]
        for start, end in zip(starts, ends, strict=False):
            text = header[start.end() : end]
            parameters = {
                found[1].lower(): re.sub(r"\\(.)", r"\1", found[2]) if found[2] is not None else found[3]
                for found in _PARAMETER.finditer(text)
            }
            challenges.append(Challenge(start[1].lower(), parameters))
    return challenges


class Authorizer:
    """The Authorization header for one registry, renewed before a token ends."""

    def __init__(self, session: aiohttp.ClientSession, base: URL, auth: AuthConfig | None) -> None:
        self._session = session
        self._base = base
        self._auth = auth or AuthConfig()
        self._challenges: list[Challenge] = []
        self._tokens: dict[str, tuple[str, float]] = {}

    def challenged(self, challenges: list[Challenge]) -> None:
        """Note what the registry asks for."""
        self._challenges = challenges or self._challenges

    def forget(self, scope: str) -> None:
        """Drop a token that the registry has refused."""
        self._tokens.pop(scope, None)

    async def header(self, scope: str, what: str = "") -> str:
        """The header for `scope` (`repository:library/busybox:pull`); empty if none was asked for.

        `what` names the request in errors. Raises UnauthorizedError if the registry wants credentials that there
        are none of, or refuses them.
        """
        if not self._challenges:
            return ""
        if self._auth.registrytoken:
            return "Bearer " + self._auth.registrytoken
        by_scheme = {challenge.scheme: challenge.parameters for challenge in self._challenges}
        if "bearer" in by_scheme:
            return "Bearer " + await self._token(by_scheme["bearer"], scope)
        if "basic" in by_scheme:
            credentials = self._auth.credentials()
            if credentials is None:
                raise UnauthorizedError(f"{what}: no basic auth credentials")
            return basic(*credentials)
        raise UnauthorizedError(f"registry {self._base.host} asks for an unknown way to log in")

    async def _token(self, parameters: dict[str, str], scope: str) -> str:
        known = self._tokens.get(scope)
        if known and known[1] > time.monotonic():
            return known[0]
        realm = self._realm(parameters)
        asked = time.monotonic()
        token = await self._fetch_token(realm, parameters.get("service", ""), scope)
        if not token.value:
            raise UnauthorizedError(f"authorization server {realm.host} did not include a token in the response")
        # A third is kept back: the token has to outlive the request that it is for.
        self._tokens[scope] = (token.value, asked + max(token.expires_in, 60) * 2 / 3)
        return token.value

    def _realm(self, parameters: dict[str, str]) -> URL:
        try:
            realm = URL(parameters.get("realm", ""))
        except ValueError:
            realm = URL("")
        if realm.scheme not in ("http", "https") or not realm.host or realm.user:
            raise InvalidArgumentError(f"registry {self._base.host} names an invalid token server")
        if realm.scheme == "http" and self._base.scheme == "https":
            raise UnauthorizedError(f"refusing to log in at {realm} over plain HTTP, as {self._base.host} asks")
        return realm

    async def _fetch_token(self, realm: URL, service: str, scope: str) -> Token:
        credentials = self._auth.credentials()
        fields = {"service": service, "scope": scope}
        headers = {}
        if self._auth.identitytoken:
            fields |= {
                "grant_type": "refresh_token",
                "refresh_token": self._auth.identitytoken,
                "client_id": "orlop",
            }
        elif credentials:
            fields["account"] = credentials[0]
            headers["Authorization"] = basic(*credentials)
        method = "POST" if self._auth.identitytoken else "GET"
        try:
            async with self._session.request(
                method,
                realm if method == "POST" else _with_fields(realm, fields),
                data=fields if method == "POST" else None,
                headers=headers,
                allow_redirects=False,
                proxy=proxy_for(realm.scheme, realm.authority),
            ) as response:
                if response.status != 200:
                    raise await self._refused(response, realm)
                return decode(await _limited(response), Token)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise UnavailableError(describe_failure(method, realm.with_query(None), error)) from None

    async def _refused(self, response: aiohttp.ClientResponse, realm: URL) -> OrlopError:
        body = await read_error(response)
        if response.status in (401, 403):
            items = registry_errors(body)
            detail = str(items[0]) if items else "unauthorized: incorrect username or password"
            return UnauthorizedError(detail)
        return UnavailableError(
            f"failed to fetch a token: unexpected status {response.status} from {realm.with_query(None)}"
        )


def _with_fields(realm: URL, fields: dict[str, str]) -> URL:
    """The request for a token; each scope is a parameter of its own there."""
    scopes = fields["scope"].split()
    query = [(name, value) for name, value in fields.items() if value and name != "scope"]
    return realm.extend_query([*query, *(("scope", scope) for scope in scopes)])


def basic(user: str, password: str) -> str:
    """The header of the Basic scheme (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def _limited(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > TOKEN_SIZE_MAX:
            raise InvalidArgumentError(f"token of {response.url.host} is larger than {TOKEN_SIZE_MAX} bytes")
    return bytes(data)
