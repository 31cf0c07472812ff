# SPDX-License-Identifier: Apache-2.0
"""`RegistryClient`: manifests and blobs of repositories, verified as they arrive."""

import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

import aiohttp

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
from orlop.registry.config import RegistryConfig
from orlop.registry.endpoint import PULL, RESOLVE
from orlop.registry.errors import describe_failure
from orlop.registry.referrers import find_referrers
from orlop.registry.tags import find_tags
from orlop.registry.transport import CHUNK, Connection, RetryableError, Transport, Tries, read_document, retryable

_ACCEPT = ", ".join([OCI_INDEX, OCI_MANIFEST, *sorted((INDEX_TYPES | MANIFEST_TYPES) - {OCI_INDEX, OCI_MANIFEST})])


class RegistryClient:
    """One user's requests to registries. Use it as an asynchronous context manager.

    Credentials are for the registry of the references that are asked for, not for mirrors. Every method raises
    UnavailableError when no answer comes, UnauthorizedError, NotFoundError in Docker's words,
    ResourceExhaustedError at a rate limit, and DataLossError for content that is not what its digest says.
    """

    def __init__(self, config: RegistryConfig | None = None, auth: AuthConfig | None = None) -> None:
        self._transport = Transport(config or RegistryConfig(), auth)

    async def __aenter__(self) -> "RegistryClient":
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *exit: object) -> None:
        await self._transport.__aexit__(*exit)

    async def resolve(self, reference: Reference) -> Descriptor:
        """What a reference points at now: media type, digest and size of a manifest or index."""
        capability = PULL if reference.digest else RESOLVE

        return await self._transport.first(
            reference.domain, capability, partial(self._resolve, reference=reference)
        )

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
        tries = Tries(self._transport.config)
        endpoints = self._transport.endpoints(reference.domain, PULL)
        while position < descriptor.size:
            try:
                connection = await self._transport.connect(endpoints[0])
                async with aclosing(self._blob_part(connection, reference, descriptor, position)) as part:
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
                    raise RetryableError(UnavailableError(f"blob {descriptor.digest}: {text}"))
            except (RetryableError, OrlopError) as error:
                if await self._go_on(error, tries, last=len(endpoints) == 1):
                    continue
                del endpoints[0]  # the next has what is missing
                tries = Tries(self._transport.config)
        if hasher and descriptor.digest.partition(":")[2] != hasher.hexdigest():
            raise DataLossError(
                f"filesystem layer verification failed for digest {descriptor.digest}: got {hasher.hexdigest()}"
            )

    async def referrers(self, reference: Reference, digest: str, artifact_type: str = "") -> list[Descriptor]:
        """Manifests whose `subject` is a digest, of one artifact type or of all; none where the registry has none.

        Of registries without the referrers API, those that the tag `sha256-…` lists.
        """
        find = partial(find_referrers, self._transport, reference, check_digest(digest), artifact_type)
        return await self._transport.first(reference.domain, PULL, find)

    async def tags(self, reference: Reference) -> list[str]:
        """Every tag of the reference's repository, in the registry's order."""
        return await self._transport.first(
            reference.domain, RESOLVE, partial(find_tags, self._transport, reference)
        )

    async def login(self, domain: str) -> None:
        """Try the credentials at a registry. Raises UnauthorizedError, UnavailableError."""
        endpoint = self._transport.config.endpoints(domain)[-1]
        connection = await self._transport.connect(endpoint)

        async def attempt() -> None:
            what = connection.address("/v2/").with_query(None)
            async with self._transport.request(connection, "GET", "/v2/") as response:
                if response.status == 401:
                    raise UnauthorizedError(f'Get "{what}": unauthorized: incorrect username or password')
                if response.status != 200:
                    error = UnavailableError(f"unexpected status {response.status} from GET {what}")
                    raise retryable(error, response)

        await self._transport.retrying(attempt)

    # Manifests

    async def _resolve(self, connection: Connection, reference: Reference) -> Descriptor:
        path = f"/v2/{reference.path}/manifests/{reference.digest or reference.tag}"
        headers = {"Accept": _ACCEPT}
        async with self._transport.request(connection, "HEAD", path, reference, headers) as response:
            digest = response.headers.get("Docker-Content-Digest", "")
            size = response.content_length
            media_type = _media_type(response)
            if response.status == 200 and digest and size and media_type in INDEX_TYPES | MANIFEST_TYPES:
                self._expect(reference, check_digest(digest))
                return Descriptor(media_type=media_type, digest=digest, size=size)
        # Some registries cannot answer HEAD, and only GET says why one is refused.
        async with self._transport.request(connection, "GET", path, reference, headers) as response:
            await self._transport.check(reference, response, "GET", connection.address(path))
            raw = await read_document(response, MANIFEST_SIZE_MAX)
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

        async def attempt(connection: Connection) -> bytes:
            headers = {"Accept": descriptor.media_type if "/manifests/" in path else "*/*"}
            async with self._transport.request(connection, "GET", path, reference, headers) as response:
                await self._transport.check(reference, response, "GET", connection.address(path))
                raw = await read_document(response, MANIFEST_SIZE_MAX)
            self._verify(raw, descriptor.digest, descriptor.size)
            return raw

        return await self._transport.first(reference.domain, PULL, attempt)

    def _verify(self, raw: bytes, digest: str, size: int) -> None:
        algorithm, _, encoded = digest.partition(":")
        if len(raw) != size:
            raise DataLossError(f"{digest}: got {len(raw)} bytes, expected {size}")
        if hashlib.new(algorithm, raw).hexdigest() != encoded:
            raise DataLossError(f"manifest verification failed for digest {digest}")

    # Blobs

    async def _go_on(self, error: RetryableError | OrlopError, tries: Tries, last: bool) -> bool:
        """Whether the same endpoint is to be asked again, after a pause; False for the next one.

        Raises the error where there is no other, and where what has come already is wrong.
        """
        if isinstance(error, RetryableError):
            try:
                await tries.pause(error)
            except OrlopError:
                if last:
                    raise
                return False
            return True
        if last or isinstance(error, DataLossError):
            raise error
        return False

    async def _blob_part(
        self, connection: Connection, reference: Reference, descriptor: Descriptor, offset: int
    ) -> AsyncGenerator[bytes, None]:
        path = f"/v2/{reference.path}/blobs/{descriptor.digest}"
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with self._transport.request(connection, "GET", path, reference, headers) as response:
            await self._transport.check(reference, response, "GET", connection.address(path))
            skip = _bytes_to_skip(response, descriptor, offset)
            try:
                async for chunk in response.content.iter_chunked(CHUNK):
                    if skip >= len(chunk):
                        skip -= len(chunk)
                        continue
                    yield chunk[skip:] if skip else chunk
                    skip = 0
            except (aiohttp.ClientError, TimeoutError) as error:
                raise RetryableError(
                    UnavailableError(describe_failure("GET", response.url.with_query(None), error))
                ) from None


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
