# SPDX-License-Identifier: Apache-2.0
"""Pulls images: from a registry into containerd's content store, snapshotter and image store.

1. take a lease, so that the collector leaves alone what arrives
2. resolve the reference; up to date? then that is all
3. fetch the documents: index, manifest, configuration
4. fetch the layers, a few at a time, and unpack each as soon as it and those below it are there
5. name the image, which keeps everything below it; end the lease
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from orlop.containerd.client.fetch import (
    DISTRIBUTION_SOURCE,
    Downloads,
    Progress,
    Report,
    children_labels,
    is_present,
    store_small,
)
from orlop.containerd.client.leases import create_temporary, end_resumable
from orlop.containerd.client.unpack import (
    INDEX_DEPTH_MAX,
    ImageContent,
    KeyedLocks,
    check_layers,
    from_proto,
    label_config,
    layer_steps,
    read_image,
    to_proto,
    unpack_layer,
)
from orlop.errdefs import AlreadyExistsError, InvalidArgumentError, NotFoundError, OrlopError
from orlop.oci import reference as references
from orlop.oci.image import (
    MANIFEST_SIZE_MAX,
    Descriptor,
    Manifest,
    Platform,
    chain_ids,
    parse_document,
    parse_image,
)
from orlop.oci.platforms import host_platform, select_manifest
from orlop.registry import RegistryClient, RegistryConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from orlop.containerd.client.client import Client
    from orlop.oci.distribution import AuthConfig
    from orlop.oci.reference import Reference

T = TypeVar("T")


class PulledImage(NamedTuple):
    """What a pull came to. `changed` is False if the name already meant this image and all of it was here."""

    name: str
    target: Descriptor
    content: ImageContent
    changed: bool
    previous: Descriptor | None


BeforeNaming = Callable[[PulledImage], Awaitable[None]]


async def pull(
    client: Client,
    reference: str | Reference,
    *,
    platform: Platform | None = None,
    auth: AuthConfig | None = None,
    snapshotter: str = "overlayfs",
    progress: Report | None = None,
    config: RegistryConfig | None = None,
) -> PulledImage:
    """Pull one image. A daemon keeps a `Puller` instead, so that pulls at the same time share their work."""
    puller = Puller(client, config)
    return await puller.pull(reference, platform=platform, auth=auth, snapshotter=snapshotter, progress=progress)


class Puller:
    """Pulls into one namespace of one containerd. Pulls that overlap fetch and unpack what they share once."""

    def __init__(self, client: Client, config: RegistryConfig | None = None, *, slots: int = 3) -> None:
        """`slots` is how many layers are transferred at a time, over all pulls."""
        self._client = client
        self._config = config or RegistryConfig()
        self._downloads = Downloads(slots)
        self._locks = KeyedLocks()
        self._lease_lock = asyncio.Lock()
        self._lease = ""
        self._pulls = 0

    def set_slots(self, slots: int) -> None:
        """Change how many layers are transferred at a time from now on."""
        self._downloads.set_slots(slots)

    async def pull(
        self,
        reference: str | Reference,
        *,
        platform: Platform | None = None,
        auth: AuthConfig | None = None,
        snapshotter: str = "overlayfs",
        progress: Report | None = None,
        before_naming: BeforeNaming | None = None,
    ) -> PulledImage:
        """Pull the image of a reference for a platform (the host's) and unpack it (not if `snapshotter` is empty).

        `before_naming` is awaited when all is here, before the name changes its meaning.

        Raises InvalidArgumentError for a malformed reference or image, NotFoundError in Docker's words,
        UnauthorizedError, UnavailableError, DataLossError. On failure no name is given, and what came without its
        neighbours is collected; a later pull takes up interrupted layers where they stopped.
        """
        if isinstance(reference, str):
            reference = references.parse(reference)
        reference = reference.canonical()
        wanted = platform or host_platform()
        report = progress or (lambda _: None)
        async with self._leased(str(reference)) as client, RegistryClient(self._config, auth) as registry:
            one = ImagePull(client, registry, reference, wanted, snapshotter, report)
            pulled = await one.run(self._downloads, self._locks)
            if pulled.changed:
                if before_naming:
                    await before_naming(pulled)
                await _name(client, pulled.name, pulled.target)
            if client.owner:
                await end_resumable(client, str(reference))
            return pulled

    async def tags(self, reference: Reference, *, auth: AuthConfig | None = None) -> list[str]:
        """The tags of a repository. Raises NotFoundError, UnauthorizedError, UnavailableError."""
        async with RegistryClient(self._config, auth) as registry:
            return await registry.tags(reference)

    @asynccontextmanager
    async def _leased(self, name: str) -> AsyncIterator[Client]:
        """One lease for all pulls that overlap, since each may rest on what another has brought.

        It bears the name of the first: when that image has been pulled in a later life, what is left here is not
        needed.
        """
        async with self._lease_lock:
            if not self._pulls:
                self._lease = await create_temporary(self._client, resumable=name)
            self._pulls += 1
            client = self._client.with_lease(self._lease)
        try:
            yield client
        finally:
            await asyncio.shield(asyncio.ensure_future(self._release()))

    async def _release(self) -> None:
        async with self._lease_lock:
            self._pulls -= 1
            if not self._pulls:
                try:
                    await self._client.leases.delete(self._lease)
                except OrlopError:
                    pass  # the daemon is gone, or somebody ended the lease; it ends by itself anyway


class ImagePull:
    """One pull of one image for one platform, all but the naming: the steps of `run`, in order."""

    def __init__(
        self,
        client: Client,
        registry: RegistryClient,
        reference: Reference,
        platform: Platform,
        snapshotter: str,
        report: Report,
    ) -> None:
        self._client = client
        self._registry = registry
        self._reference = reference
        self._platform = platform
        self._snapshotter = snapshotter
        self._report = report
        self._source = {DISTRIBUTION_SOURCE + reference.domain: reference.path}

    async def run(self, downloads: Downloads, locks: KeyedLocks) -> PulledImage:
        name = str(self._reference)
        target = await self._registry.resolve(self._reference)
        self._report(Progress("resolved", target))
        previous = await self._named(name)
        if previous is not None and previous.digest == target.digest:
            present = await self._complete(previous)
            if present:
                return PulledImage(name, previous, present, False, previous)
        async with locks.hold(target.digest):
            content = await self._documents(target)
        await self.layers(content, downloads, locks)
        return PulledImage(name, target, content, True, previous)

    async def _named(self, name: str) -> Descriptor | None:
        try:
            return from_proto((await self._client.images.get(name)).target)
        except NotFoundError:
            return None

    async def _complete(self, target: Descriptor) -> ImageContent | None:
        """The image, if all of it is here for this platform and unpacked."""
        try:
            content = await read_image(self._client, target, self._platform)
            wanted = await self._select(target)
            if wanted.digest != content.manifest_descriptor.digest:
                return None
            for layer in content.layers:
                await self._client.content.info(layer.digest)
            chains = chain_ids(content.image.rootfs.diff_ids)
            if self._snapshotter and chains:
                await self._client.snapshots(self._snapshotter).stat(chains[-1])
        except NotFoundError:
            return None
        return content

    async def _select(self, target: Descriptor) -> Descriptor:
        """The manifest for the platform, by the documents in the store."""
        for _ in range(INDEX_DEPTH_MAX + 1):
            raw = await self._client.content.read_blob(target.digest, MANIFEST_SIZE_MAX)
            document = parse_document(raw, target.media_type)
            if isinstance(document, Manifest):
                return target
            target = select_manifest(document, self._platform)
        raise InvalidArgumentError(f"index {target.digest}: nested deeper than {INDEX_DEPTH_MAX} levels")

    async def _documents(self, target: Descriptor) -> ImageContent:
        """Fetch target, manifest and configuration, and store each with labels that keep its children."""
        current = target
        for _ in range(INDEX_DEPTH_MAX + 1):
            raw = await self._document(current)
            document = parse_document(raw, current.media_type)
            await store_small(self._client, current, raw, {**children_labels(document), **self._source})
            if isinstance(document, Manifest):
                break
            current = select_manifest(document, self._platform)
        else:
            raise InvalidArgumentError(f"index {target.digest}: nested deeper than {INDEX_DEPTH_MAX} levels")
        raw = await self._config(document.config)
        image = parse_image(raw)
        check_layers(document, image)
        await store_small(self._client, document.config, raw, self._source)
        return ImageContent(target, current, document.config, document.layers, image)

    async def _document(self, descriptor: Descriptor) -> bytes:
        if await is_present(self._client, descriptor, {}):
            return await self._client.content.read_blob(descriptor.digest, MANIFEST_SIZE_MAX)
        return await self._registry.document(self._reference, descriptor)

    async def _config(self, descriptor: Descriptor) -> bytes:
        if await is_present(self._client, descriptor, {}):
            return await self._client.content.read_blob(descriptor.digest, MANIFEST_SIZE_MAX)
        return await self._registry.small_blob(self._reference, descriptor)

    async def layers(self, content: ImageContent, downloads: Downloads, locks: KeyedLocks) -> None:
        """Fetch all layers and unpack them from the lowest up, each as soon as it is there."""
        for layer in content.layers:
            self._report(Progress("fetching", layer, 0, layer.size))
        arrivals: list[asyncio.Future[bool]] = []
        loop = asyncio.get_running_loop()
        fetching = []
        for layer in content.layers:
            arrived: asyncio.Future[bool] = loop.create_future()
            arrivals.append(arrived)
            fetching.append(self._fetch(layer, downloads, arrived))
        await together(*fetching, self._unpack(content, arrivals, locks))

    async def _fetch(self, layer: Descriptor, downloads: Downloads, arrived: asyncio.Future[bool]) -> None:
        source = partial(self._registry.blob, self._reference, layer)
        fetched = await downloads.fetch(self._client, layer, source, self._source, self._report)
        if not arrived.done():
            arrived.set_result(fetched)

    async def _unpack(
        self, content: ImageContent, arrivals: list[asyncio.Future[bool]], locks: KeyedLocks
    ) -> None:
        diff_ids = content.image.rootfs.diff_ids
        for step, arrived in zip(layer_steps(content.layers, diff_ids), arrivals, strict=True):
            fetched = await arrived
            layer = step.layer
            unpacked = False
            if self._snapshotter:
                async with locks.hold(f"{self._snapshotter} {step.chain_id}"):
                    unpacked = await unpack_layer(
                        self._client, self._snapshotter, *step, partial(self._extracting, layer)
                    )
            self._report(Progress("extracted" if fetched or unpacked else "exists", layer, layer.size, layer.size))
        if self._snapshotter:
            await label_config(self._client, content.config_descriptor, self._snapshotter, diff_ids)

    def _extracting(self, layer: Descriptor) -> None:
        self._report(Progress("extracting", layer, 0, layer.size))


async def _name(client: Client, name: str, target: Descriptor) -> None:
    from orlop.api.images_pb2 import Image

    message = to_proto(target)
    try:
        await client.images.create(name, message)
    except AlreadyExistsError:
        await client.images.update(Image(name=name, target=message), "target")


async def together(*coroutines: Coroutine[object, object, None]) -> None:
    """Run all; the first failure cancels the others, and is what is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in coroutines:
                group.create_task(coroutine)
    except BaseExceptionGroup as failures:
        raise _first(failures) from None


def _first(failure: BaseException) -> BaseException:
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
