# SPDX-License-Identifier: Apache-2.0
"""`RegistryUploads`: blobs and manifests into a repository."""

from collections.abc import AsyncIterable, Callable

import aiohttp
from yarl import URL

from orlop.errdefs import DataLossError, OrlopError, UnavailableError
from orlop.oci.distribution import AuthConfig
from orlop.oci.image import Descriptor
from orlop.oci.reference import Reference
from orlop.registry.config import RegistryConfig
from orlop.registry.errors import push_refusal, read_error
from orlop.registry.transport import Connection, RetryableError, Transport

Open = Callable[[], AsyncIterable[bytes]]
"""Opens the bytes of a blob from the start."""


class RegistryUploads:
    """One user's uploads. Use it as an asynchronous context manager.

    Every method raises UnavailableError when no answer comes, UnauthorizedError, PermissionDeniedError, and
    DataLossError if the registry got something else than it was sent.
    """

    def __init__(self, config: RegistryConfig | None = None, auth: AuthConfig | None = None) -> None:
        self._transport = Transport(config or RegistryConfig(), auth, "pull,push")

    async def __aenter__(self) -> "RegistryUploads":
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *exit: object) -> None:
        await self._transport.__aexit__(*exit)

    async def has_blob(self, reference: Reference, digest: str) -> bool:
        """Whether the repository has a blob."""
        return await self._exists(reference, f"/v2/{reference.path}/blobs/{digest}", {})

    async def has_document(self, reference: Reference, descriptor: Descriptor) -> bool:
        """Whether the repository has a manifest or index."""
        path = f"/v2/{reference.path}/manifests/{descriptor.digest}"
        return await self._exists(reference, path, {"Accept": descriptor.media_type})

    async def upload(self, reference: Reference, descriptor: Descriptor, open: Open) -> None:
        """Send a blob in one piece; after a failure again from the start."""

        async def attempt() -> None:
            connection = await self._origin(reference)
            location = await self._begin(connection, reference)
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(descriptor.size)}
            target = str(URL(location, encoded=True).update_query(digest=descriptor.digest))
            async with self._transport.request(connection, "PUT", target, reference, headers, open) as response:
                await self._check(response, f"PUT {URL(target).with_query(None)}")
                got = response.headers.get("Docker-Content-Digest", descriptor.digest)
                if got != descriptor.digest:
                    raise DataLossError(f"registry stored {got}, it was sent {descriptor.digest}")

        await self._transport.retrying(attempt)

    async def put_document(self, reference: Reference, descriptor: Descriptor, raw: bytes, name: str = "") -> None:
        """Store a manifest or index under its digest, or under a tag. What it refers to must be there before."""

        async def attempt() -> None:
            connection = await self._origin(reference)
            path = f"/v2/{reference.path}/manifests/{name or descriptor.digest}"
            headers = {"Content-Type": descriptor.media_type}
            async with self._transport.request(connection, "PUT", path, reference, headers, raw) as response:
                await self._check(response, f"PUT {connection.base}{path}")

        await self._transport.retrying(attempt)

    async def _exists(self, reference: Reference, path: str, headers: dict[str, str]) -> bool:
        async def attempt() -> bool:
            connection = await self._origin(reference)
            async with self._transport.request(connection, "HEAD", path, reference, headers) as response:
                if response.status == 404:
                    return False
                await self._check(response, f"HEAD {connection.base}{path}")
                return True

        return await self._transport.retrying(attempt)

    async def _begin(self, connection: Connection, reference: Reference) -> str:
        """Open an upload: the address to send to, relative ones completed."""
        path = f"/v2/{reference.path}/blobs/uploads/"
        async with self._transport.request(connection, "POST", path, reference, {}, b"") as response:
            await self._check(response, f"POST {connection.base}{path}")
            location = response.headers.get("Location", "")
            if response.status != 202 or not location:
                raise UnavailableError(
                    f"registry {connection.base.host} opened no upload: status {response.status}"
                )
            return str(connection.base.join(URL(location, encoded=True)))

    async def _origin(self, reference: Reference) -> Connection:
        """The registry itself: mirrors take no uploads."""
        return (await self._transport.connect(reference.domain))[-1]

    async def _check(self, response: aiohttp.ClientResponse, what: str) -> None:
        if response.status < 400:
            return
        error: OrlopError = push_refusal(response.status, await read_error(response), what)
        if response.status >= 500:
            raise RetryableError(error)
        raise error
