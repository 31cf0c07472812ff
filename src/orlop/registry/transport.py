# SPDX-License-Identifier: Apache-2.0
"""Requests to registries: finding the endpoint, authorization, redirects, and trying again."""

import asyncio
import email.utils
import random
import ssl
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import aiohttp
from yarl import URL

from orlop.errdefs import InvalidArgumentError, OrlopError, UnavailableError
from orlop.oci.distribution import AuthConfig
from orlop.oci.reference import Reference
from orlop.registry.auth import Authorizer, parse_challenges
from orlop.registry.config import RegistryConfig, proxy_for
from orlop.registry.endpoint import CONNECT_TIMEOUT, Endpoint
from orlop.registry.errors import describe_failure, read_error, refusal

T = TypeVar("T")

CHUNK = 1 << 20  # bytes
REDIRECTS_MAX = 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BACKOFF_MAX = 5.0  # seconds
_PATIENCE = 60.0  # seconds that a registry may ask to wait; who is told more gets the refusal
_PASSING = frozenset({408, 425, 429})

Body = Callable[[], AsyncIterable[bytes]] | bytes | None
"""What a request sends: bytes, or what makes a new stream of them for each try."""


class RetryableError(Exception):
    """A request that may work the next time, `after` so many seconds; else `final` is what to raise."""

    def __init__(self, final: OrlopError, after: float = 0.0) -> None:
        super().__init__(str(final))
        self.final = final
        self.after = after


class Tries:
    """How often a transfer has failed: bounded without progress, and in total."""

    def __init__(self, config: RegistryConfig) -> None:
        self._config = config
        self._failures = 0
        self._total = 0

    def progressed(self) -> None:
        self._failures = 0

    async def pause(self, error: RetryableError) -> None:
        """Wait before the next try, longer each time and never in step with others; or raise the final error.

        As long as the registry asks, if that is not longer than `_PATIENCE`.
        """
        self._failures += 1
        self._total += 1
        spent = self._failures >= self._config.attempts or self._total >= self._config.attempts * 4
        if spent or error.after > _PATIENCE:
            raise error.final
        pause = min(self._config.backoff * 2 ** (self._failures - 1), _BACKOFF_MAX)
        await asyncio.sleep(max(error.after, pause * random.uniform(0.75, 1.25)))


def retryable(error: OrlopError, response: aiohttp.ClientResponse) -> OrlopError | RetryableError:
    """The error of a refusal, as one that may pass where its status says so."""
    if response.status >= 500 or response.status in _PASSING:
        return RetryableError(error, retry_after(response.headers.get("Retry-After", "")))
    return error


def retry_after(text: str) -> float:
    """Seconds that Retry-After (RFC 9110 10.2.3) asks to wait; 0 for what is malformed or past."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        when = email.utils.parsedate_to_datetime(text)
        return max(0.0, when.timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


class Connection:
    """A registry that answered: its base URL, how to talk TLS with it and how to be let in."""

    def __init__(self, base: URL, endpoint: Endpoint, authorizer: Authorizer, tls: ssl.SSLContext | bool) -> None:
        self.base = base
        self.tls = tls  # one for all requests: connections are reused only under the same context
        self.endpoint = endpoint
        self.authorizer = authorizer

    def address(self, path: str) -> URL:
        """The address of a path of the API (`/v2/…`), or the whole address that the registry has given."""
        url = URL(path, encoded=True)
        if url.absolute:
            return url
        url = self.base.join(URL(self.endpoint.prefix + path.removeprefix("/v2"), encoded=True))
        return url.update_query(ns=self.endpoint.namespace) if self.endpoint.namespace else url

    def timeout(self, silence: float) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(total=None, sock_connect=self.endpoint.connect_timeout, sock_read=silence)


class Transport:
    """One user's connections. Open for the length of an `async with` block."""

    def __init__(self, config: RegistryConfig, auth: AuthConfig | None, actions: str = "pull") -> None:
        """`actions` are what tokens are asked for: `pull`, or `pull,push`."""
        self.config = config
        self._auth = auth
        self._actions = actions
        self._session: aiohttp.ClientSession | None = None
        self._connections: dict[Endpoint, Connection | OrlopError] = {}
        self._failed: set[Endpoint] = set()
        self._connecting = asyncio.Lock()

    async def __aenter__(self) -> "Transport":
        self._session = aiohttp.ClientSession(
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": self.config.user_agent, "Accept-Encoding": "identity"},
            read_bufsize=CHUNK,
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_TIMEOUT, sock_read=self.config.read_timeout
            ),
            trace_configs=self._observers(),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session:
            await self._session.close()

    def endpoints(self, domain: str, capability: str) -> list[Endpoint]:
        """Who may be asked for something of a registry, the preferred one first, mirrors that failed once last.

        Raises InvalidArgumentError for a broken configuration, UnavailableError where nobody may be asked.
        """
        found = [each for each in self.config.endpoints(domain) if capability in each.capabilities]
        if not found:
            raise UnavailableError(f"{domain}: no host with the capability {capability} is configured")
        return sorted(found, key=lambda each: each in self._failed)

    async def first(self, domain: str, capability: str, use: Callable[[Connection], Awaitable[T]]) -> T:
        """What `use` comes to at the first endpoint where it works; if at none, the registry's own error."""
        failure: OrlopError | None = None
        for endpoint in self.endpoints(domain, capability):
            try:
                connection = await self.connect(endpoint)
                return await self.retrying(partial(use, connection))
            except OrlopError as error:
                if endpoint.mirror:
                    self._failed.add(endpoint)
                if failure is None or not endpoint.mirror:
                    failure = error
        assert failure is not None
        raise failure

    async def connect(self, endpoint: Endpoint) -> Connection:
        """The connection to an endpoint, the same for all requests. A mirror that fails is not tried again."""
        async with self._connecting:
            known = self._connections.get(endpoint)
            if isinstance(known, OrlopError):
                raise known
            if known is None:
                try:
                    known = await self.retrying(partial(self._ping, endpoint))
                except OrlopError as error:
                    if endpoint.mirror:
                        self._connections[endpoint] = error
                    raise
                self._connections[endpoint] = known
            return known

    async def _ping(self, endpoint: Endpoint) -> Connection:
        """Find out the scheme and what the registry asks of its clients (GET /v2/)."""
        failure: OrlopError | None = None
        for scheme in endpoint.schemes:
            base = URL(f"{scheme}://{endpoint.host}")
            try:
                return await self._ping_at(base, endpoint)
            except (aiohttp.ClientError, TimeoutError) as error:
                failure = UnavailableError(describe_failure("GET", f"{base}{endpoint.prefix}/", error))
        assert failure is not None
        raise failure

    async def _ping_at(self, base: URL, endpoint: Endpoint) -> Connection:
        session = self._opened()
        tls = self.config.tls_context(endpoint) if base.scheme == "https" else True
        authorizer = Authorizer(session, base, None if endpoint.mirror else self._auth)
        connection = Connection(base, endpoint, authorizer, tls)
        url = connection.address("/v2/")
        async with session.get(
            url,
            headers=endpoint.headers,
            ssl=tls,
            allow_redirects=False,
            proxy=proxy_for(base.scheme, endpoint.host),
            timeout=connection.timeout(self.config.read_timeout),
        ) as response:
            if response.status == 401:
                authorizer.challenged(parse_challenges(response.headers.getall("WWW-Authenticate", [])))
            elif response.status >= 500 or response.status in _PASSING:
                message = f"unexpected status {response.status} from GET {url.with_query(None)}"
                raise retryable(UnavailableError(message), response)
            return connection

    @asynccontextmanager
    async def request(
        self,
        connection: Connection,
        method: str,
        path: str,
        reference: Reference | None = None,
        headers: dict[str, str] | None = None,
        body: Body = None,
        also: str = "",
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request with authorization and redirects; a refused token is renewed once.

        `path` may be a whole address that the registry gave; credentials go to its own origin only. `also` is
        another repository that the request reads.
        """
        scope = f"repository:{reference.path}:{self._actions}" if reference else ""
        if also:
            scope += f" repository:{also}:pull"
        for renewal in (False, True):
            what = f'{method.capitalize()} "{connection.address(path).with_query(None)}"'
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
        url = connection.address(path)
        endpoint = connection.endpoint
        for _ in range(REDIRECTS_MAX):
            at_origin = url.origin() == origin
            try:
                response = await self._opened().request(
                    method,
                    url,
                    headers=_headers(headers, endpoint, authorization, at_origin),
                    data=body() if callable(body) else body,
                    ssl=connection.tls if at_origin and url.scheme == "https" else True,
                    allow_redirects=False,
                    proxy=proxy_for(url.scheme, url.authority),
                    timeout=connection.timeout(self.config.read_timeout),
                )
            except (aiohttp.ClientError, TimeoutError) as error:
                raise RetryableError(
                    UnavailableError(describe_failure(method, url.with_query(None), error))
                ) from None
            if response.status not in _REDIRECTS:
                return response
            location = response.headers.get("Location", "")
            response.release()
            url = _redirected(url, location, endpoint)
        raise UnavailableError(
            f"stopped after {REDIRECTS_MAX} redirects from {connection.address(path).with_query(None)}"
        )

    async def check(self, reference: Reference, response: aiohttp.ClientResponse, method: str, url: URL) -> None:
        if response.status < 400:
            return
        body = await read_error(response)
        challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
        challenge_error = next((item.parameters["error"] for item in challenges if "error" in item.parameters), "")
        error = refusal(reference, response.status, body, f"{method} {url}", challenge_error)
        raise retryable(error, response)

    async def retrying(self, attempt: Callable[[], Awaitable[T]]) -> T:
        tries = Tries(self.config)
        while True:
            try:
                return await attempt()
            except RetryableError as error:
                await tries.pause(error)
            except (aiohttp.ClientError, TimeoutError) as error:
                await tries.pause(RetryableError(UnavailableError(f"registry: {error or type(error).__name__}")))

    def _observers(self) -> list[aiohttp.TraceConfig] | None:
        if self.config.dump is None and self.config.trace is None:
            return None
        from orlop.registry.observers import observers

        return observers(self.config.dump, self.config.trace)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("a registry's transport is used outside its async with block")
        return self._session


def _headers(
    headers: dict[str, str], endpoint: Endpoint, authorization: str, at_origin: bool
) -> list[tuple[str, str]]:
    """What a request carries; secrets (and what may be some) go to the registry's own origin only."""
    found = list(headers.items())
    if at_origin:
        found += endpoint.headers
    if at_origin and authorization:
        found = [*(item for item in found if item[0].lower() != "authorization"), ("Authorization", authorization)]
    return found


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


async def read_document(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body of an answer. Raises InvalidArgumentError if it has more than `limit` bytes."""
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > limit:
            raise InvalidArgumentError(f"manifest of {response.url.host} is larger than {limit} bytes")
    return bytes(data)
