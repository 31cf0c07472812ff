# SPDX-License-Identifier: Apache-2.0
"""Transfers between a registry and the image store."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from orlop.containerd.client.fetch import Downloads, Progress
from orlop.containerd.client.leases import leased
from orlop.containerd.client.pull_platforms import PlatformsPull, Wanted
from orlop.containerd.client.push import push
from orlop.containerd.client.unpack import KeyedLocks, from_proto
from orlop.containerd.plugins.transfer.images import platforms_of, store_names
from orlop.containerd.plugins.transfer.names import names_of_target
from orlop.errdefs import NotFoundError
from orlop.registry import RegistryClient

if TYPE_CHECKING:
    from orlop.api.transfer_types_pb2 import ImageStore
    from orlop.containerd.client import Client
    from orlop.containerd.plugins.transfer.progress import ProgressReporter
    from orlop.containerd.plugins.transfer.registry import RegistryEndpoint


class Shared(NamedTuple):
    """What transfers of one namespace at a time share, so that none fetches or unpacks what another does."""

    downloads: Downloads
    locks: KeyedLocks


async def pull_image(
    client: Client,
    registry: RegistryEndpoint,
    store: ImageStore,
    progress: ProgressReporter,
    shared: Shared,
    default_snapshotter: str,
) -> None:
    """From a registry into the image store, unpacked as the store's message asks.

    Raises NotFoundError for a destination without a name, before anything is fetched, and what
    `PlatformsPull.run` raises.
    """
    if not names_of_target(store, "sha256:"):
        raise NotFoundError("no image name found")
    unpack = [
        (platforms_of([item.platform])[0], item.snapshotter or default_snapshotter) for item in store.unpacks
    ]
    wanted = Wanted(platforms_of(store.platforms), unpack, store.all_metadata, store.manifest_limit)
    root = str(registry.reference)

    def report(step: Progress) -> None:
        progress.blobs(root, step)

    progress.say(f"Resolving from {registry}")
    async with leased(client) as work, RegistryClient(registry.config, registry.auth) as remote:
        target = await remote.resolve(registry.reference)
        progress.say(f"Pulling from {registry}")
        progress.say("fetching image content", root, target)
        one = PlatformsPull(
            work, remote, registry.reference, shared.downloads, shared.locks, report, progress.children
        )
        await one.run(target, wanted)
        names = names_of_target(store, target.digest)
        await store_names(work, names, target)
        for name in names:
            progress.say("saved", name.name, target)
    progress.say(f"Completed pull from {registry}")


async def push_image(
    client: Client, store: ImageStore, registry: RegistryEndpoint, progress: ProgressReporter
) -> None:
    """From the image store to a registry. Raises NotFoundError, and what `push` raises."""
    image = await client.images.get(store.name)
    target = from_proto(image.target)
    progress.say(f"Pushing to {registry}")
    progress.say("pushing content", image.name, target)
    async with leased(client) as work:
        await push(
            work,
            registry.reference,
            target,
            auth=registry.auth,
            config=registry.config,
            progress=lambda step: progress.blobs(image.name, step),
            platforms=platforms_of(store.platforms),
        )
    progress.say("pushed content", image.name, target)
    progress.say(f"Completed push to {registry}", descriptor=target)


async def tag_image(client: Client, source: ImageStore, destination: ImageStore) -> None:
    """Another name for an image. Raises NotFoundError."""
    target = from_proto((await client.images.get(source.name)).target)
    await store_names(client, names_of_target(destination, target.digest), target)
