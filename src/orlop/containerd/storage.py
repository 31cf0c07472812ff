# SPDX-License-Identifier: Apache-2.0
"""Wire the storage half of the daemon: metadata, content, snapshots, differ, collector and their services."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from orlop.api import (
    content_pb2_grpc,
    diff_pb2_grpc,
    images_pb2_grpc,
    leases_pb2_grpc,
    mounts_pb2_grpc,
    namespaces_pb2_grpc,
    sandbox_pb2_grpc,
    snapshots_pb2_grpc,
)
from orlop.containerd.metadata.activations import MetadataActivations
from orlop.containerd.metadata.content import MetadataContent
from orlop.containerd.metadata.db import Database
from orlop.containerd.metadata.gc import GarbageCollector, Pace
from orlop.containerd.metadata.images import MetadataImages
from orlop.containerd.metadata.leases import MetadataLeases
from orlop.containerd.metadata.namespaces import MetadataNamespaces
from orlop.containerd.metadata.remote_snapshots import RemoteRecords
from orlop.containerd.metadata.sandboxes import MetadataSandboxes
from orlop.containerd.metadata.snapshots import MetadataSnapshots
from orlop.containerd.plugins.checkpoints import Checkpoints
from orlop.containerd.plugins.content_local import LocalContent
from orlop.containerd.plugins.differ import LayerDiffer
from orlop.containerd.plugins.differs import OrderedDiffers, RemoteDiffer
from orlop.containerd.plugins.mount_manager import LocalMounts
from orlop.containerd.plugins.snapshots_native import NativeDriver
from orlop.containerd.plugins.snapshots_overlay import OverlayDriver
from orlop.containerd.plugins.snapshots_remote import RemoteSnapshots
from orlop.containerd.services.content import ContentService
from orlop.containerd.services.diff import DiffService
from orlop.containerd.services.images import ImagesService
from orlop.containerd.services.leases import LeasesService
from orlop.containerd.services.mounts import MountsService
from orlop.containerd.services.namespaces import NamespacesService
from orlop.containerd.services.sandboxes import SandboxStoreService
from orlop.containerd.services.snapshots import SnapshotsService
from orlop.errdefs import InvalidArgumentError

if TYPE_CHECKING:
    from orlop.containerd.config import ProxyPlugin, StreamProcessor
    from orlop.containerd.core.diff import Differ
    from orlop.containerd.core.events import EventPublisher
    from orlop.containerd.core.snapshots import SnapshotDriver

CONTENT_DIRECTORY = "io.containerd.content.v1.content"
SNAPSHOTTER_DIRECTORY = "io.containerd.snapshotter.v1.{name}"

Service = tuple[Callable[[Any, Any], None], object]


class Settings(NamedTuple):
    """What of a storage can be set.

    `startup_delay`: seconds from the services' start to the first collection. `differs`: names, in the order in
    which they are asked. `proxies`: snapshotters and differs of other processes. `disabled`: snapshotters that are
    not wanted, as `io.containerd.snapshotter.v1.native`. `processors`: programs for other media types.
    `overlay_options`: for every overlay; `overlay_upper_label`: snapshots show their upper directory.
    """

    snapshotter: str = "overlayfs"
    pace: Pace = Pace()
    startup_delay: float = 0.1
    differs: Sequence[str] = ("walking",)
    proxies: Sequence[ProxyPlugin] = ()
    disabled: Sequence[str] = ()
    processors: Sequence[StreamProcessor] = ()
    overlay_options: Sequence[str] = ()
    overlay_upper_label: bool = False


class Storage:
    """The open storage of a daemon. Everything but what says otherwise is called in the thread of the event loop.

    What is bound to a scope is had by `bind`: `storage.content.bind(scope)`, `storage.snapshotters["overlayfs"]
    .bind(scope)`.
    """

    def __init__(
        self,
        db: Database,
        content: MetadataContent,
        images: MetadataImages,
        snapshotters: Mapping[str, MetadataSnapshots],
        leases: MetadataLeases,
        namespaces: MetadataNamespaces,
        differ: LayerDiffer,
        gc: GarbageCollector,
        mounts: LocalMounts,
        sandboxes: MetadataSandboxes,
        remotes: Mapping[str, RemoteSnapshots],
        differs: Mapping[str, Differ],
        checkpoints: Checkpoints,
        workers: Sequence[ThreadPoolExecutor],
        settings: Settings,
    ) -> None:
        self.db = db
        self.content = content
        self.images = images
        self.snapshotters = snapshotters
        self.leases = leases
        self.namespaces = namespaces
        self.differ = differ
        self.gc = gc
        self.mounts = mounts
        self.sandboxes = sandboxes
        self.remotes = remotes
        self.differs = differs
        self.checkpoints = checkpoints
        self._settings = settings
        self._workers = workers

    @property
    def workers(self) -> ThreadPoolExecutor:
        """The threads for what may block on a disk."""
        return self._workers[0]

    def services(self) -> list[Service]:
        """Each service with the generated function that adds it to a server. Garbage is looked for soon after."""
        self.gc.schedule(self._settings.startup_delay)
        return [
            (content_pb2_grpc.add_ContentServicer_to_server, ContentService(self.content, self._workers[0])),
            (
                images_pb2_grpc.add_ImagesServicer_to_server,
                ImagesService(self.images, self.gc, self.content, self._workers[0]),
            ),
            (
                snapshots_pb2_grpc.add_SnapshotsServicer_to_server,
                SnapshotsService(self.snapshotters, self.remotes, self._settings.snapshotter, self._workers[0]),
            ),
            (diff_pb2_grpc.add_DiffServicer_to_server, DiffService(self._ordered())),
            (leases_pb2_grpc.add_LeasesServicer_to_server, LeasesService(self.leases, self.gc)),
            (namespaces_pb2_grpc.add_NamespacesServicer_to_server, NamespacesService(self.namespaces)),
            (mounts_pb2_grpc.add_MountsServicer_to_server, MountsService(self.mounts)),
            (sandbox_pb2_grpc.add_StoreServicer_to_server, SandboxStoreService(self.sandboxes)),
        ]

    def _ordered(self) -> Differ:
        """The differs in the order of the settings. Raises InvalidArgumentError for one that there is not."""
        names = self._settings.differs
        missing = [name for name in names if name not in self.differs]
        if missing or not names:
            known = ", ".join(self.differs)
            raise InvalidArgumentError(f"differ {', '.join(missing) or 'list'}: expected some of {known}")
        return OrderedDiffers([self.differs[name] for name in names])

    async def disconnect(self) -> None:
        """Close the connections to other processes. Call it before `close`, in the event loop."""
        for remote in self.remotes.values():
            await remote.close()
        for differ in self.differs.values():
            if isinstance(differ, RemoteDiffer):
                await differ.close()

    def close(self) -> None:
        """Stop the collector, wait for the worker threads and close the database. Stop the server first."""
        self.gc.close()
        self.differ.close()
        for snapshotter in self.snapshotters.values():
            snapshotter.unsynced.close()
        for pool in self._workers:
            pool.shutdown(wait=True, cancel_futures=True)
        self.content.local.close()
        self.db.close()


def _local_snapshotters(
    root: str,
    settings: Settings,
    db: Database,
    namespaces: MetadataNamespaces,
    leases: MetadataLeases,
    gc: GarbageCollector,
    events: EventPublisher,
    workers: ThreadPoolExecutor,
) -> dict[str, MetadataSnapshots]:
    """Those that keep their snapshots on our disk, without the ones that are not wanted."""
    made: dict[str, Callable[[str], SnapshotDriver]] = {
        OverlayDriver.name: partial(
            OverlayDriver, options=settings.overlay_options, label_upper=settings.overlay_upper_label
        ),
        NativeDriver.name: NativeDriver,
    }
    return {
        name: MetadataSnapshots(
            db,
            make(os.path.join(root, SNAPSHOTTER_DIRECTORY.format(name=name))),
            namespaces,
            leases,
            gc,
            events,
            workers,
        )
        for name, make in made.items()
        if f"io.containerd.snapshotter.v1.{name}" not in settings.disabled
    }


def _content(directory: str, settings: Settings) -> LocalContent:
    """The store of our own, or that of another process."""
    for plugin in settings.proxies:
        if plugin.type == "content":
            from orlop.containerd.plugins.content_remote import RemoteContent

            return RemoteContent(directory, plugin.address)
    return LocalContent(directory)


def open_storage(root: str, state: str, events: EventPublisher, settings: Settings | None = None) -> Storage:
    """Open the storage below `root` (kept) and `state` (volatile), making what is missing, mode 0700.

    Settles what a crash left: half-made snapshots, blobs without a record, records without a blob. Call it in the
    thread that will run the event loop. Raises InvalidArgumentError for an unknown default snapshotter, and
    what `Database` raises.
    """
    settings = settings or Settings()
    for directory in (root, state):
        os.makedirs(directory, mode=0o700, exist_ok=True)
    db = Database(os.path.join(root, "metadata.db"))
    workers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="storage")
    # Layers take long: they have threads of their own, so that they never hold up a write of content.
    differ_workers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="differ")
    try:
        namespaces = MetadataNamespaces(db, events)
        leases = MetadataLeases(db, namespaces)
        gc = GarbageCollector(db, events, settings.pace)
        gc.set_workers(workers)
        local = _content(os.path.join(root, CONTENT_DIRECTORY), settings)
        content = MetadataContent(db, local, namespaces, leases, gc, events)
        images = MetadataImages(db, namespaces, leases, gc, events)
        local_ones = _local_snapshotters(root, settings, db, namespaces, leases, gc, events, workers)
        remotes = {
            plugin.name: RemoteSnapshots(
                plugin, partial(RemoteRecords, db, plugin.name, namespaces, leases, gc, events, workers)
            )
            for plugin in settings.proxies
            if plugin.type == "snapshot"
        }
        snapshotters = {**local_ones, **{name: remote.records for name, remote in remotes.items()}}
        if settings.snapshotter not in snapshotters:
            raise InvalidArgumentError(
                f'snapshotter "{settings.snapshotter}" is unknown: expected one of {", ".join(snapshotters)}'
            )
        differ = LayerDiffer(content, differ_workers, settings.processors)
        differs: dict[str, Differ] = {"walking": differ}
        differs |= {each.name: RemoteDiffer(each.address) for each in settings.proxies if each.type == "diff"}
        mounts = LocalMounts(root, state, MetadataActivations(db, namespaces), workers)
        gc.add_sweeper(mounts.release_abandoned)
        sandboxes = MetadataSandboxes(db, namespaces)
        content.settle()
        mounts.settle()
        for snapshotter in snapshotters.values():
            snapshotter.settle()
    except BaseException:
        workers.shutdown(wait=True, cancel_futures=True)
        differ_workers.shutdown(wait=False)
        db.close()
        raise
    return Storage(
        db, content, images, snapshotters, leases, namespaces, differ, gc, mounts, sandboxes, remotes, differs,
        Checkpoints(state, content, workers), (workers, differ_workers), settings,
    )  # fmt: skip
