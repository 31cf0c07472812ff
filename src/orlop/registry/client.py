# SPDX-License-Identifier: Apache-2.0
"""`RegistryClient`: manifests and blobs of repositories, verified as they arrive."""

import asyncio
import hashlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import TypeVar

import aiohttp
from yarl import URL

from orlop.errdefs import DataLossError, InvalidArgumentError, OrlopError, UnauthorizedError, UnavailableError
from orlop.oci.distribution import AuthConfig
from orlop.oci.image import (
    INDEX_TYPES,
    MANIFEST_SIZE_MAX,
    MANIFEST_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    check_digest,
    digest_of,
)
from orlop.oci.reference import Reference
from orlop.registry.auth import Authorizer, parse_challenges
from orlop.registry.config import Endpoint, RegistryConfig, proxy_for
from orlop.registry.errors import describe_failure, read_error, refusal

T = TypeVar("T")

CHUNK = 1 << 20  # bytes
REDIRECTS_MAX = 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BACKOFF_MAX = 5.0  # seconds
_ACCEPT = ", ".join([OCI_INDEX, OCI_MANIFEST, *sorted((INDEX_TYPES | MANIFEST_TYPES) - {OCI_INDEX, OCI_MANIFEST})])


class _RetryableError(Exception):
    """A request that may work the next time; `final` is what to raise when it never does."""

    def __init__(self, final: OrlopError) -> None:
        super().__init__(str(final))
        self.final = final


class _Tries:
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


class _Connection:
    """A registry that answered: its base URL, how to talk TLS with it and how to be let in."""

    def __init__(self, base: URL, endpoint: Endpoint, authorizer: Authorizer) -> None:
        self.base = base
        self.endpoint = endpoint
        self.authorizer = authorizer


class RegistryClient:
    """One user's requests to registries. Use it as an asynchronous context manager.

    Credentials are for the registry of the references that are asked for, not for mirrors. Every method raises
    UnavailableError when no answer comes, UnauthorizedError, NotFoundError in Docker's words,
    ResourceExhaustedError at a rate limit, and DataLossError for content that is not what its digest says.
    """

    def __init__(self, config: RegistryConfig | None = None, auth: AuthConfig | None = None) -> None:
        self._config = config or RegistryConfig()
        self._auth = auth
        self._session: aiohttp.ClientSession | None = None
        self._connections: dict[str, list[_Connection]] = {}
        self._connecting = asyncio.Lock()

    async def __aenter__(self) -> "RegistryClient":
        self._session = aiohttp.ClientSession(
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": self._config.user_agent, "Accept-Encoding": "identity"},
            read_bufsize=CHUNK,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=self._config.read_timeout),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session:
            await self._session.close()

    async def resolve(self, reference: Reference) -> Descriptor:
        """What a reference points at now: media type, digest and size of a manifest or index."""
        failure: OrlopError | None = None
        for connection in await self._connect(reference.domain):
            try:
                descriptor = await self._retrying(partial(self._resolve, connection, reference))
            except OrlopError as error:
                failure = error
                if not connection.endpoint.mirror:
                    break
                continue
            self._connections[reference.domain] = [connection]  # the rest comes from there too
            return descriptor
        assert failure is not None
        raise failure

    async def document(self, reference: Reference, descriptor: Descriptor) -> bytes:
        """A manifest or index by digest, of at most `MANIFEST_SIZE_MAX` bytes."""
        path = f"/v2/{reference.path}/manifests/{descriptor.digest}"
        return await self._small(reference, descriptor, path)

    async def small_blob(self, reference: Reference, descriptor: Descriptor) -> bytes:
        """A configuration, of at most `MANIFEST_SIZE_MAX` bytes."""
        return await self._small(reference, descriptor, f"/v2/{reference.path}/blobs/{descriptor.digest}")

    async def blob(
        self, reference: Reference, descriptor: Descriptor, offset: int = 0
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of a blob from `offset` on; a transfer that breaks off is taken up where it stopped.

        The size is held to the descriptor's, and (from offset 0) so is the digest: DataLossError comes instead of
        the end of the iteration, so that what was written until then must be thrown away.
        """
        check_digest(descriptor.digest)
        hasher = hashlib.new(descriptor.digest.partition(":")[0]) if offset == 0 else None
        position = offset
        tries = _Tries(self._config)
        while position < descriptor.size:
            try:
                async with aclosing(self._blob_part(reference, descriptor, position)) as part:
                    async for chunk in part:
                        position += len(chunk)
                        if position > descriptor.size:
                            raise DataLossError(f"blob {descriptor.digest} is larger than {descriptor.size} bytes")
                        if hasher:
                            hasher.update(chunk)
                        tries.progressed()
                        yield chunk
                if position < descriptor.size:
                    text = f"connection closed after {position} of {descriptor.size} bytes"
                    raise _RetryableError(UnavailableError(f"blob {descriptor.digest}: {text}"))
            except _RetryableError as error:
                await tries.pause(error.final)
        if hasher and descriptor.digest.partition(":")[2] != hasher.hexdigest():
            raise DataLossError(
                f"filesystem layer verification failed for digest {descriptor.digest}: got {hasher.hexdigest()}"
            )

    async def login(self, domain: str) -> None:
        """Try the credentials at a registry. Raises UnauthorizedError, UnavailableError."""
        connection = (await self._connect(domain))[-1]
        async with self._request(connection, "GET", "/v2/", "") as response:
            if response.status == 401:
                raise UnauthorizedError(
                    f'Get "{connection.base}/v2/": unauthorized: incorrect username or password'
                )
            if response.status != 200:
                raise UnavailableError(f"unexpected status {response.status} from GET {connection.base}/v2/")

    # Manifests

    async def _resolve(self, connection: _Connection, reference: Reference) -> Descriptor:
        path = f"/v2/{reference.path}/manifests/{reference.digest or reference.tag}"
        headers = {"Accept": _ACCEPT}
        async with self._request(connection, "HEAD", path, _scope(reference), headers) as response:
            digest = response.headers.get("Docker-Content-Digest", "")
            size = response.content_length
            media_type = _media_type(response)
            if response.status == 200 and digest and size and media_type in INDEX_TYPES | MANIFEST_TYPES:
                self._expect(reference, check_digest(digest))
                return Descriptor(media_type=media_type, digest=digest, size=size)
        # Some registries cannot answer HEAD, and only GET says why one is refused.
        async with self._request(connection, "GET", path, _scope(reference), headers) as response:
            await self._check(reference, response, "GET", connection.base.join(URL(path)))
            raw = await _read(response, MANIFEST_SIZE_MAX)
            digest = reference.digest or digest_of(raw)
            self._verify(raw, digest, len(raw))
            announced = response.headers.get("Docker-Content-Digest", digest)
            if announced != digest:
                raise DataLossError(
                    f"manifest for {reference.familiar} is {digest}, the registry says {announced}"
                )
            return Descriptor(media_type=_media_type(response) or _declared(raw), digest=digest, size=len(raw))

    def _expect(self, reference: Reference, digest: str) -> None:
        if reference.digest and reference.digest != digest:
            raise DataLossError(f"manifest for {reference.familiar}: the registry answers with {digest}")

    async def _small(self, reference: Reference, descriptor: Descriptor, path: str) -> bytes:
        check_digest(descriptor.digest)
        if descriptor.size > MANIFEST_SIZE_MAX:
            raise InvalidArgumentError(
                f"{descriptor.digest}: {descriptor.size} bytes, more than {MANIFEST_SIZE_MAX}"
            )

        async def attempt() -> bytes:
            connection = (await self._connect(reference.domain))[-1]
            headers = {"Accept": descriptor.media_type if "/manifests/" in path else "*/*"}
            async with self._request(connection, "GET", path, _scope(reference), headers) as response:
                await self._check(reference, response, "GET", connection.base.join(URL(path)))
                raw = await _read(response, MANIFEST_SIZE_MAX)
            self._verify(raw, descriptor.digest, descriptor.size)
            return raw

        return await self._retrying(attempt)

    def _verify(self, raw: bytes, digest: str, size: int) -> None:
        algorithm, _, encoded = digest.partition(":")
        if len(raw) != size:
            raise DataLossError(f"{digest}: got {len(raw)} bytes, expected {size}")
        if hashlib.new(algorithm, raw).hexdigest() != encoded:
            raise DataLossError(f"manifest verification failed for digest {digest}")

    # Blobs

    async def _blob_part(
        self, reference: Reference, descriptor: Descriptor, offset: int
    ) -> AsyncGenerator[bytes, None]:
        connection = (await self._connect(reference.domain))[-1]
        path = f"/v2/{reference.path}/blobs/{descriptor.digest}"
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with self._request(connection, "GET", path, _scope(reference), headers) as response:
            await self._check(reference, response, "GET", connection.base.join(URL(path)))
            skip = _bytes_to_skip(response, descriptor, offset)
            try:
                async for chunk in response.content.iter_chunked(CHUNK):
                    if skip >= len(chunk):
                        skip -= len(chunk)
                        continue
                    yield chunk[skip:] if skip else chunk
                    skip = 0
            except (aiohttp.ClientError, TimeoutError) as error:
                raise _RetryableError(
                    UnavailableError(describe_failure("GET", response.url.with_query(None), error))
                ) from None

    # Requests

    async def _connect(self, domain: str) -> list[_Connection]:
        """The endpoints that serve a domain and answer, the preferred one first."""
        async with self._connecting:
            if domain not in self._connections:
                found = []
                failure: OrlopError | None = None
                for endpoint in self._config.endpoints(domain):
                    try:
                        found.append(await self._ping(endpoint))
                    except OrlopError as error:
                        failure = error
                if not found:
                    assert failure is not None
                    raise failure
                self._connections[domain] = found
            return self._connections[domain]

    async def _ping(self, endpoint: Endpoint) -> _Connection:
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

    async def _ping_at(self, base: URL, endpoint: Endpoint) -> _Connection:
        session = self._opened()
        tls = self._config.tls_context(endpoint) if base.scheme == "https" else True
        proxy = proxy_for(base.scheme, endpoint.host)
        async with session.get(base / "v2/", ssl=tls, allow_redirects=False, proxy=proxy) as response:
            authorizer = Authorizer(session, base, None if endpoint.mirror else self._auth)
            if response.status == 401:
                authorizer.challenged(parse_challenges(response.headers.getall("WWW-Authenticate", [])))
            elif response.status >= 500:
                raise UnavailableError(f"unexpected status {response.status} from GET {base}/v2/")
            return _Connection(base, endpoint, authorizer)

    @asynccontextmanager
    async def _request(
        self, connection: _Connection, method: str, path: str, scope: str, headers: dict[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request with authorization and redirects; a refused token is renewed once."""
        for renewal in (False, True):
            what = f'{method.capitalize()} "{connection.base}{path}"'
            authorization = await connection.authorizer.header(scope, what)
            response = await self._follow(connection, method, path, authorization, headers or {})
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
        self, connection: _Connection, method: str, path: str, authorization: str, headers: dict[str, str]
    ) -> aiohttp.ClientResponse:
        """Send a request, and after redirects send it again; Authorization goes to the registry's origin only."""
        origin = connection.base.origin()
        url = connection.base.join(URL(path, encoded=True))
        for _ in range(REDIRECTS_MAX):
            at_origin = url.origin() == origin
            tls = self._config.tls_context(connection.endpoint) if at_origin and url.scheme == "https" else True
            try:
                response = await self._opened().request(
                    method,
                    url,
                    headers={
                        **headers,
                        **({"Authorization": authorization} if authorization and at_origin else {}),
                    },
                    ssl=tls,
                    allow_redirects=False,
                    proxy=proxy_for(url.scheme, url.authority),
                )
            except (aiohttp.ClientError, TimeoutError) as error:
                raise _RetryableError(
                    UnavailableError(describe_failure(method, url.with_query(None), error))
                ) from None
            if response.status not in _REDIRECTS:
                return response
            location = response.headers.get("Location", "")
            response.release()
            url = _redirected(url, location, connection.endpoint)
        raise UnavailableError(f"stopped after {REDIRECTS_MAX} redirects from {connection.base}{path}")

    async def _check(self, reference: Reference, response: aiohttp.ClientResponse, method: str, url: URL) -> None:
        if response.status < 400:
            return
        body = await read_error(response)
        challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
        challenge_error = next((item.parameters["error"] for item in challenges if "error" in item.parameters), "")
        error = refusal(reference, response.status, body, f"{method} {url}", challenge_error)
        if response.status >= 500:
            raise _RetryableError(error)
        raise error

    async def _retrying(self, attempt: Callable[[], Awaitable[T]]) -> T:
        tries = _Tries(self._config)
        while True:
            try:
                return await attempt()
            except _RetryableError as error:
                await tries.pause(error.final)
            except (aiohttp.ClientError, TimeoutError) as error:
                await tries.pause(UnavailableError(f"registry: {error or type(error).__name__}"))

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("RegistryClient is used outside its async with block")
        return self._session


def _scope(reference: Reference) -> str:
    return f"repository:{reference.path}:pull"


def _media_type(response: aiohttp.ClientResponse) -> str:
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
    return media_type if media_type in INDEX_TYPES | MANIFEST_TYPES else ""


def _declared(raw: bytes) -> str:
    """The media type that a document itself names, for registries that serve it as plain JSON."""
    from orlop.codec import decode

    fields = decode(raw, dict[str, object])
    declared = fields.get("mediaType")
    if isinstance(declared, str) and declared:
        return declared
    return OCI_INDEX if "manifests" in fields else OCI_MANIFEST


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


def _bytes_to_skip(response: aiohttp.ClientResponse, descriptor: Descriptor, offset: int) -> int:
    """How many bytes of the answer lie before `offset`. Raises DataLossError if it cannot be the blob."""
    if response.status == 206:
        start = response.headers.get("Content-Range", "").removeprefix("bytes").strip().partition("-")[0]
        if start != str(offset):
            raise DataLossError(f"blob {descriptor.digest}: asked for bytes from {offset} on, got from {start!r}")
        return 0
    if response.content_length is not None and response.content_length != descriptor.size:
        raise DataLossError(
            f"blob {descriptor.digest} has {response.content_length} bytes, the manifest says {descriptor.size}"
        )
    return offset  # the registry does not know ranges


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > limit:
            raise InvalidArgumentError(f"manifest of {response.url.host} is larger than {limit} bytes")
    return bytes(data)
