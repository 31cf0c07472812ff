# SPDX-License-Identifier: Apache-2.0
"""Blobs from a registry into the content store: resumable, labelled, one transfer for all who want the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from orlop.api import content_pb2
from orlop.errdefs import (
    AlreadyExistsError,
    DataLossError,
    FailedPreconditionError,
    NotFoundError,
    OrlopError,
    OutOfRangeError,
    UnavailableError,
)
from orlop.oci.image import CONFIG_TYPES, INDEX_TYPES, MANIFEST_TYPES, Descriptor, Index, Manifest

if TYPE_CHECKING:
    from orlop.containerd.client.client import Client
    from orlop.containerd.client.content import Writer

GC_CONTENT = "containerd.io/gc.ref.content."
DISTRIBUTION_SOURCE = "containerd.io/distribution.source."
LOCK_POLL = (
    0.2  # seconds between looks at an ingestion that another client holds; containerd announces no end of it
)

Source = Callable[[int], AsyncGenerator[bytes, None]]
"""Opens a blob's bytes from an offset on."""
Report = Callable[["Progress"], None]


class Progress(NamedTuple):
    """Something happened to a blob: `step`, then bytes so far and in all.

    resolved, exists, fetching (it is wanted), waiting (for a free slot), downloading, verifying, downloaded,
    extracting, extracted.
    """

    step: str
    descriptor: Descriptor
    current: int = 0
    total: int = 0
    source: str = ""
    """The repository that a blob was taken over from."""


def ingest_ref(descriptor: Descriptor) -> str:
    """The name under which every client of containerd ingests a blob, so that they meet."""
    kind = "layer"
    if descriptor.media_type in MANIFEST_TYPES:
        kind = "manifest"
    elif descriptor.media_type in INDEX_TYPES:
        kind = "index"
    elif descriptor.media_type in CONFIG_TYPES:
        kind = "config"
    return f"{kind}-{descriptor.digest}"


def children_labels(document: Manifest | Index) -> dict[str, str]:
    """The labels by which a document keeps what it refers to from being collected."""
    if isinstance(document, Index):
        return {f"{GC_CONTENT}m.{number}": child.digest for number, child in enumerate(document.manifests)}
    layers = {f"{GC_CONTENT}l.{number}": layer.digest for number, layer in enumerate(document.layers)}
    return {GC_CONTENT + "config": document.config.digest, **layers}


async def set_labels(client: Client, digest: str, labels: Mapping[str, str]) -> None:
    """Add labels to a blob. Raises NotFoundError."""
    if labels:
        paths = [f"labels.{name}" for name in labels]
        await client.content.update(content_pb2.Info(digest=digest, labels=labels), *paths)


async def is_present(client: Client, descriptor: Descriptor, labels: Mapping[str, str]) -> bool:
    """Whether a blob is in the store; if so it gets the labels, and the client's lease keeps it."""
    try:
        if client.lease:
            await client.content.info(descriptor.digest)
            await client.leases.add_resource(client.lease, "content", descriptor.digest)
        info = await client.content.info(descriptor.digest)
        missing = {name: value for name, value in labels.items() if info.labels.get(name) != value}
        for name in [name for name in missing if name.startswith(DISTRIBUTION_SOURCE)]:
            known = info.labels.get(name, "")
            places = known.split(",") if known else []
            if missing[name] in places:
                del missing[name]
            else:
                missing[name] = ",".join([*places, missing[name]])
        await set_labels(client, descriptor.digest, missing)
    except NotFoundError:
        return False
    return True


async def store_small(client: Client, descriptor: Descriptor, raw: bytes, labels: Mapping[str, str]) -> None:
    """Put a document into the content store, under its labels, whether or not it was there."""
    while not await is_present(client, descriptor, labels):
        try:
            await client.content.write_blob(ingest_ref(descriptor), raw, descriptor.digest, labels)
        except UnavailableError as error:
            await _until_unlocked(error)


class _Download:
    """One transfer under way and everybody who waits for it."""

    def __init__(self, report: Report) -> None:
        self.reports: list[Report] = [report]
        self.last: Progress | None = None
        self.ended = asyncio.Event()
        self.succeeded = False

    def report(self, progress: Progress) -> None:
        self.last = progress
        for report in list(self.reports):
            report(progress)


class Downloads:
    """The transfers of one client of containerd: at most `slots` at a time, one a blob however many want it."""

    def __init__(self, slots: int = 3) -> None:
        self._slots = asyncio.Semaphore(slots)
        self._active: dict[str, _Download] = {}

    def set_slots(self, slots: int) -> None:
        """Change the number of transfers at a time; those that wait already still wait for the old number's."""
        self._slots = asyncio.Semaphore(slots)

    async def fetch(
        self, client: Client, descriptor: Descriptor, source: Source, labels: Mapping[str, str], report: Report
    ) -> bool:
        """Bring a blob into the content store; False if it was there.

        Raises DataLossError for content that is not what its digest says (nothing of it is kept), and what
        `source` raises. Whoever came first transfers for all; if that one fails or is cancelled, the next goes on
        from there with a source (and credentials) of its own.
        """
        while not await is_present(client, descriptor, labels):
            download = self._active.get(descriptor.digest)
            if download is None:
                await self._lead(client, descriptor, source, labels, report)
                return True
            if download.last:
                report(download.last)
            download.reports.append(report)
            try:
                await download.ended.wait()
            finally:
                download.reports.remove(report)
            if download.succeeded:
                await is_present(client, descriptor, labels)  # labels and lease of our own
                return True
        return False

    async def _lead(
        self, client: Client, descriptor: Descriptor, source: Source, labels: Mapping[str, str], report: Report
    ) -> None:
        download = self._active[descriptor.digest] = _Download(report)
        try:
            await self._transfer(client, descriptor, source, labels, download.report)
            download.succeeded = True
        finally:
            del self._active[descriptor.digest]
            download.ended.set()

    async def _transfer(
        self, client: Client, descriptor: Descriptor, source: Source, labels: Mapping[str, str], report: Report
    ) -> None:
        if self._slots.locked():
            report(Progress("waiting", descriptor, 0, descriptor.size))
        async with self._slots:
            while not await self._attempt(client, descriptor, source, labels, report):
                pass
        report(Progress("downloaded", descriptor, descriptor.size, descriptor.size))

    async def _attempt(
        self, client: Client, descriptor: Descriptor, source: Source, labels: Mapping[str, str], report: Report
    ) -> bool:
        """Transfer what is missing; False if it has to be tried again, from the start or after another client."""
        ref = ingest_ref(descriptor)
        resumed = 0
        try:
            async with client.content.writer(ref, size=descriptor.size, expected=descriptor.digest) as writer:
                resumed = writer.offset
                if resumed > descriptor.size:
                    raise FailedPreconditionError(f"ingestion {ref} is longer than {descriptor.size} bytes")
                await _copy(writer.write, source, descriptor, resumed, report)
                report(Progress("verifying", descriptor, descriptor.size, descriptor.size))
                await writer.commit(size=descriptor.size, expected=descriptor.digest, labels=labels)
        except AlreadyExistsError:
            await set_labels(client, descriptor.digest, labels)  # another client was faster
        except (FailedPreconditionError, OutOfRangeError, DataLossError) as error:
            await _abort(client, ref)
            if resumed:
                return False  # what an earlier transfer left was bad: once more from the start
            if isinstance(error, DataLossError):
                raise
            raise DataLossError(f"blob {descriptor.digest}: {error}") from None
        except UnavailableError as error:
            await _until_unlocked(error)
            return await is_present(client, descriptor, labels)
        return True


async def _copy(
    write: Callable[[bytes], object], source: Source, descriptor: Descriptor, offset: int, report: Report
) -> None:
    done = offset
    report(Progress("downloading", descriptor, done, descriptor.size))
    async with aclosing(source(offset)) as stream:
        async for chunk in stream:
            await write(chunk)  # type: ignore[misc]
            done += len(chunk)
            report(Progress("downloading", descriptor, done, descriptor.size))


@asynccontextmanager
async def ingestion(client: Client, ref: str, *, size: int = 0, expected: str = "") -> AsyncIterator[Writer]:
    """Open an ingestion that nobody will resume: what is left of it when the block fails is thrown away."""
    try:
        async with client.content.writer(ref, size=size, expected=expected) as writer:
            yield writer
    except BaseException:
        await asyncio.shield(asyncio.ensure_future(_discard(client, ref)))
        raise


async def _discard(client: Client, ref: str) -> None:
    try:
        await client.content.abort(ref)
    except OrlopError:
        pass  # it is gone already, or the daemon is; the error that brought us here says more


async def _until_unlocked(error: UnavailableError) -> None:
    """Wait a little if another client holds the ingestion; raise any other error."""
    if "locked" not in str(error):
        raise error
    await asyncio.sleep(LOCK_POLL)


async def _abort(client: Client, ref: str) -> None:
    try:
        await client.content.abort(ref)
    except NotFoundError:
        pass  # the failed commit has thrown it away
    except OrlopError as error:
        raise DataLossError(f"ingestion {ref} is damaged and cannot be thrown away: {error}") from None
