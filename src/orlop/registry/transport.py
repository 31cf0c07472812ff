# SPDX-License-Identifier: Apache-2.0
"""Requests to registries: finding the endpoint, authorization, redirects, and trying again."""

import asyncio
import random
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import aiohttp
from yarl import URL

from orlop.errdefs import OrlopError, UnavailableError
from orlop.oci.distribution import AuthConfig
from orlop.oci.reference import Reference
from orlop.registry.auth import Authorizer, parse_challenges
from orlop.registry.config import Endpoint, RegistryConfig, proxy_for
from orlop.registry.errors import describe_failure, read_error, refusal

T = TypeVar("T")

CHUNK = 1 << 20  # bytes
REDIRECTS_MAX = 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BACKOFF_MAX = 5.0  # seconds

Body = Callable[[], AsyncIterable[bytes]] | bytes | None
"""What a request sends: bytes, or what makes a new stream of them for each try."""


class RetryableError(Exception):
    """A request that may work the next time; `final` is what to raise when it never does."""

    def __init__(self, final: OrlopError) -> None:
        super().__init__(str(final))
        self.final = final


class Tries:
    """How often a transfer has failed: bounded without progress, and in total."""

    def __init__(self, config: RegistryConfig) -> None:
        self._config = config
        self._failures = 0
        self._total = 0

    def progressed(self) -> None:
        self._failures = 0

    async def pause(self, final: OrlopError) -> None:
        """Wait before the next try, longer each time and never in step with others; or raise `final`."""
        self._failures += 1
        self._total += 1
        if self._failures >= self._config.attempts or self._total >= self._config.attempts * 4:
            raise final
        pause = min(self._config.backoff * 2 ** (self._failures - 1), _BACKOFF_MAX)
        await asyncio.sleep(pause * random.uniform(0.75, 1.25))


class Connection:
    """A registry that answered: its base URL, how to talk TLS with it and how to be let in."""

    def __init__(self, base: URL, endpoint: Endpoint, authorizer: Authorizer, tls: ssl.SSLContext | bool) -> None:
        self.base = base
        self.tls = tls  # one for all requests: connections are reused only under the same context
        self.endpoint = endpoint
        self.authorizer = authorizer


class Transport:
    """One user's connections. Open for the length of an `async with` block."""

    def __init__(self, config: RegistryConfig, auth: AuthConfig | None, actions: str = "pull") -> None:
        """`actions` are what tokens are asked for: `pull`, or `pull,push`."""
        self.config = config
        self._auth = auth
        self._actions = actions
        self._session: aiohttp.ClientSession | None = None
        self._connections: dict[str, list[Connection]] = {}
        self._connecting = asyncio.Lock()

    async def __aenter__(self) -> "Transport":
        self._session = aiohttp.ClientSession(
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": self.config.user_agent, "Accept-Encoding": "identity"},
            read_bufsize=CHUNK,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=self.config.read_timeout),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session:
            await self._session.close()

    async def connect(self, domain: str) -> list[Connection]:
        """The endpoints that serve a domain and answer, the preferred one first."""
        async with self._connecting:
            if domain not in self._connections:
                found = []
                failure: OrlopError | None = None
                for endpoint in self.config.endpoints(domain):
                    try:
                        found.append(await self._ping(endpoint))
                    except OrlopError as error:
                        failure = error
                if not found:
                    assert failure is not None
                    raise failure
                self._connections[domain] = found
            return self._connections[domain]

    def pin(self, domain: str, connection: Connection) -> None:
        """Use this endpoint for the domain from now on."""
        self._connections[domain] = [connection]

    async def _ping(self, endpoint: Endpoint) -> Connection:
        """Find out the scheme and what the registry asks of its clients (GET /v2/)."""
        schemes = ["http"] if endpoint.plain else ["https", "http"] if endpoint.insecure else ["https"]
        failure: OrlopError | None = None
        for scheme in schemes:
            base = URL(f"{scheme}://{endpoint.host}")
            try:
                return await self._ping_at(base, endpoint)
            except (aiohttp.ClientError, TimeoutError) as error:
                failure = UnavailableError(describe_failure("GET", f"{base}/v2/", error))
        assert failure is not None
        raise failure

    async def _ping_at(self, base: URL, endpoint: Endpoint) -> Connection:
        session = self._opened()
        tls = self.config.tls_context(endpoint) if base.scheme == "https" else True
        proxy = proxy_for(base.scheme, endpoint.host)
        async with session.get(base / "v2/", ssl=tls, allow_redirects=False, proxy=proxy) as response:
            authorizer = Authorizer(session, base, None if endpoint.mirror else self._auth)
            if response.status == 401:
                authorizer.challenged(parse_challenges(response.headers.getall("WWW-Authenticate", [])))
            elif response.status >= 500:
                raise UnavailableError(f"unexpected status {response.status} from GET {base}/v2/")
            return Connection(base, endpoint, authorizer, tls)

    @asynccontextmanager
    async def request(
        self,
        connection: Connection,
        method: str,
        path: str,
        reference: Reference | None = None,
        headers: dict[str, str] | None = None,
        body: Body = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request with authorization and redirects; a refused token is renewed once.

        `path` may be a whole address that the registry gave; credentials go to its own origin only.
        """
        scope = f"repository:{reference.path}:{self._actions}" if reference else ""
        for renewal in (False, True):
            what = f'{method.capitalize()} "{connection.base}{path}"'
            authorization = await connection.authorizer.header(scope, what)
            response = await self._follow(connection, method, path, authorization, headers or {}, body)
            if response.status != 401 or renewal:
                break
            challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
            if authorization and not any(item.scheme == "bearer" for item in challenges):
                break  # Basic credentials do not get better
            if authorization and any(item.parameters.get("error") == "insufficient_scope" for item in challenges):
                break
            connection.authorizer.forget(scope)
            connection.authorizer.challenged(challenges)
            response.release()
        try:
            yield response
        finally:
            response.close()

    async def _follow(
        self,
        connection: Connection,
        method: str,
        path: str,
        authorization: str,
        headers: dict[str, str],
        body: Body,
    ) -> aiohttp.ClientResponse:
        """Send a request, and after redirects send it again; Authorization goes to the registry's origin only."""
        origin = connection.base.origin()
        url = connection.base.join(URL(path, encoded=True))
        for _ in range(REDIRECTS_MAX):
            at_origin = url.origin() == origin
            try:
                response = await self._opened().request(
                    method,
                    url,
                    headers={
                        **headers,
                        **({"Authorization": authorization} if authorization and at_origin else {}),
                    },
                    data=body() if callable(body) else body,
                    ssl=connection.tls if at_origin and url.scheme == "https" else True,
                    allow_redirects=False,
                    proxy=proxy_for(url.scheme, url.authority),
                )
            except (aiohttp.ClientError, TimeoutError) as error:
                raise RetryableError(
                    UnavailableError(describe_failure(method, url.with_query(None), error))
                ) from None
            if response.status not in _REDIRECTS:
                return response
            location = response.headers.get("Location", "")
            response.release()
            url = _redirected(url, location, connection.endpoint)
        raise UnavailableError(f"stopped after {REDIRECTS_MAX} redirects from {connection.base}{path}")

    async def check(self, reference: Reference, response: aiohttp.ClientResponse, method: str, url: URL) -> None:
        if response.status < 400:
            return
        body = await read_error(response)
        challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
        challenge_error = next((item.parameters["error"] for item in challenges if "error" in item.parameters), "")
        error = refusal(reference, response.status, body, f"{method} {url}", challenge_error)
        if response.status >= 500:
            raise RetryableError(error)
        raise error

    async def retrying(self, attempt: Callable[[], Awaitable[T]]) -> T:
        tries = Tries(self.config)
        while True:
            try:
                return await attempt()
            except RetryableError as error:
                await tries.pause(error.final)
            except (aiohttp.ClientError, TimeoutError) as error:
                await tries.pause(UnavailableError(f"registry: {error or type(error).__name__}"))

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("a registry's transport is used outside its async with block")
        return self._session


def _redirected(url: URL, location: str, endpoint: Endpoint) -> URL:
    """Where a redirect leads. Raises UnavailableError for what must not be followed."""
    try:
        target = url.join(URL(location, encoded=True)) if location else URL("")
    except ValueError:
        target = URL("")
    if target.scheme not in ("http", "https") or not target.host:
        raise UnavailableError(f"{url.host} redirects to an invalid address")
    if url.scheme == "https" and target.scheme == "http" and not endpoint.insecure:
        raise UnavailableError(f"refusing the redirect from {url.host} to plain HTTP at {target.host}")
    return target
