# SPDX-License-Identifier: Apache-2.0
"""`RegistryUploads`: blobs and manifests into a repository."""

from collections.abc import AsyncIterable, Callable
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from orlop.errdefs import DataLossError, OrlopError, UnavailableError
from orlop.oci.distribution import AuthConfig
from orlop.oci.image import OCI_INDEX, Descriptor
from orlop.oci.reference import Reference
from orlop.registry.config import RegistryConfig
from orlop.registry.endpoint import PUSH
from orlop.registry.errors import push_refusal, read_error
from orlop.registry.referrers import Referrer, referrer_of, referrers_tag, tagged_index, with_referrer
from orlop.registry.transport import Connection, Transport, retryable

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
        path = f"/v2/{reference.path}/blobs/{digest}"

        async def attempt(connection: Connection) -> bool:
            async with self._transport.request(connection, "HEAD", path, reference, {}) as response:
                if response.status == 404:
                    return False
                await self._check(response, f"HEAD {connection.address(path)}")
                return True

        return await self._transport.first(reference.domain, PUSH, attempt)

    async def mount(self, reference: Reference, descriptor: Descriptor, source: str) -> bool:
        """Take a blob over from another repository of the registry (`library/busybox`); whether that worked.

        False where the registry does not have it there, or the user may not read it.
        """

        async def attempt(connection: Connection) -> bool:
            query = urlencode({"mount": descriptor.digest, "from": source})
            path = f"/v2/{reference.path}/blobs/uploads/?{query}"
            async with self._transport.request(connection, "POST", path, reference, {}, b"", source) as response:
                if response.status == 201:
                    return True
                location = response.headers.get("Location", "")
            if response.status == 202 and location:
                await self._cancel(connection, reference, location)
            return False

        try:
            return await self._transport.first(reference.domain, PUSH, attempt)
        except OrlopError:
            return False  # not allowed to read there, for example: what is wrong besides, the upload says

    async def upload(self, reference: Reference, descriptor: Descriptor, open: Open) -> None:
        """Send a blob in one piece; after a failure again from the start."""

        async def attempt(connection: Connection) -> None:
            location = await self._begin(connection, reference)
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(descriptor.size)}
            target = str(URL(location, encoded=True).update_query(digest=descriptor.digest))
            async with self._transport.request(connection, "PUT", target, reference, headers, open) as response:
                await self._check(response, f"PUT {URL(target).with_query(None)}")
                got = response.headers.get("Docker-Content-Digest", descriptor.digest)
                if got != descriptor.digest:
                    raise DataLossError(f"registry stored {got}, it was sent {descriptor.digest}")

        await self._transport.first(reference.domain, PUSH, attempt)

    async def put_document(self, reference: Reference, descriptor: Descriptor, raw: bytes, name: str = "") -> None:
        """Store a manifest or index under its digest, or under a tag. What it refers to must be there before.

        One with a subject is a referrer of that: a registry without the referrers API gets it listed by a tag.
        """

        async def attempt(connection: Connection) -> None:
            path = f"/v2/{reference.path}/manifests/{name or descriptor.digest}"
            headers = {"Content-Type": descriptor.media_type}
            async with self._transport.request(connection, "PUT", path, reference, headers, raw) as response:
                await self._check(response, f"PUT {connection.address(path)}")
                known = response.headers.get("OCI-Subject", "")
            listed = referrer_of(descriptor, raw)
            if listed and known != listed.subject:
                await self._list(connection, reference, listed)

        await self._transport.first(reference.domain, PUSH, attempt)

    async def _list(self, connection: Connection, reference: Reference, referrer: Referrer) -> None:
        """Add a referrer to the index under its subject's tag, unless it is there."""
        index = await tagged_index(self._transport, connection, reference, referrer.subject)
        updated = with_referrer(index, referrer.descriptor)
        if updated is None:
            return
        path = f"/v2/{reference.path}/manifests/{referrers_tag(referrer.subject)}"
        headers = {"Content-Type": OCI_INDEX}
        async with self._transport.request(connection, "PUT", path, reference, headers, updated) as response:
            await self._check(response, f"PUT {connection.address(path)}")

    async def _cancel(self, connection: Connection, reference: Reference, location: str) -> None:
        """End an upload that a refused mount has opened; the registry forgets it anyway some day."""
        target = str(connection.base.join(URL(location, encoded=True)))
        async with self._transport.request(connection, "DELETE", target, reference):
            pass

    async def _begin(self, connection: Connection, reference: Reference) -> str:
        """Open an upload: the address to send to, relative ones completed."""
        path = f"/v2/{reference.path}/blobs/uploads/"
        async with self._transport.request(connection, "POST", path, reference, {}, b"") as response:
            await self._check(response, f"POST {connection.address(path)}")
            location = response.headers.get("Location", "")
            if response.status != 202 or not location:
                raise UnavailableError(
                    f"registry {connection.base.host} opened no upload: status {response.status}"
                )
            return str(connection.base.join(URL(location, encoded=True)))

    async def _check(self, response: aiohttp.ClientResponse, what: str) -> None:
        if response.status < 400:
            return
        error: OrlopError = push_refusal(response.status, await read_error(response), what)
        raise retryable(error, response)
