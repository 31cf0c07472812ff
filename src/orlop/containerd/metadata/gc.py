# SPDX-License-Identifier: Apache-2.0
"""The garbage collector: mark what roots reach, sweep the rest.

Roots: images (unless expired), what unexpired leases hold, containers and their snapshots, ingests that are being
written or have not expired, and content and snapshots with the label `containerd.io/gc.root`.

References, followed from there:

    image     -> its target (content)
    snapshot  -> its parent
    ingest    -> the blob whose bytes it shares
    container -> its snapshot
    label containerd.io/gc.ref.content[.|/…]               -> content, by digest
    label containerd.io/gc.ref.snapshot.<snapshotter>[/…]  -> a snapshot, by key
    label containerd.io/gc.ref.image[.|/…]                 -> an image, by name
    label containerd.io/gc.bref.{container,content,image,snapshot.<snapshotter>}[…]
                                                           the reverse: the labelled object hangs on that one

A lease with the label `containerd.io/gc.flat` keeps the objects it names, not what their labels refer to.

Mark and sweep run in the event loop without a pause, so nothing changes in between; bytes and directories are
deleted afterwards in worker threads. Collections are so spaced that they take at most 2 % of the loop's time.
"""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from orlop.api.events_pb2 import SnapshotRemove
from orlop.api.image_events_pb2 import ImageDelete
from orlop.containerd.core.labels import GC_EXPIRE, GC_FLAT, GC_ROOT
from orlop.containerd.failpoints import failpoint
from orlop.containerd.metadata.db import Database, unpack

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from orlop.containerd.core.events import EventPublisher
    from orlop.containerd.metadata.content import MetadataContent
    from orlop.containerd.metadata.snapshots import MetadataSnapshots


class Pace(NamedTuple):
    """How often it is collected: at most this share of the loop's time, and after so many changes; `delay` is the
    seconds from what makes a collection due to the collection, if they are more than a moment."""

    share: float = 0.02
    mutations: int = 100
    delay: float = 0.0


_SOON = 0.05  # seconds; a client that deletes goes on calling, and is not to wait for a collection in between
_PREFIX = "containerd.io/gc."
_CONTENT, _SNAPSHOT, _IMAGE, _INGEST, _CONTAINER = "content", "snapshot", "image", "ingest", "container"
_FLAT = "/flat"


class Node(NamedTuple):
    """An object of the graph. The key of a snapshot is `<snapshotter>/<key>`; flat kinds end in `/flat`."""

    kind: str
    namespace: str
    key: str


class Holder(NamedTuple):
    """A root that another module keeps: a container, say, with the snapshot it uses. Empty fields hold nothing."""

    namespace: str
    id: str
    snapshotter: str = ""
    snapshot_key: str = ""
    image: str = ""
    labels: Mapping[str, str] = {}


class GarbageCollector:
    """Finds and removes what nothing refers to. One a daemon; all methods belong to the event loop's thread."""

    def __init__(self, db: Database, events: EventPublisher, pace: Pace | None = None) -> None:
        self._db = db
        self._events = events
        self._pace = pace or Pace()
        self._observers: list[Callable[[float], None]] = []
        self._content: MetadataContent | None = None
        self._snapshotters: dict[str, MetadataSnapshots] = {}
        self._sources: list[Callable[[], Iterable[Holder]]] = []
        self._sweepers: list[Callable[[], None]] = []
        self._workers: Executor | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._mutations = 0
        self._next = 0.0  # time.monotonic() before which no scheduled collection runs
        self._closed = False

    def set_content(self, content: MetadataContent) -> None:
        """The content store whose blobs and ingests are collected."""
        self._content = content

    def add_snapshotter(self, snapshots: MetadataSnapshots) -> None:
        """A snapshotter whose snapshots are collected."""
        self._snapshotters[snapshots.name] = snapshots

    def set_workers(self, workers: Executor) -> None:
        """Where files are deleted."""
        self._workers = workers

    def add_holders(self, source: Callable[[], Iterable[Holder]]) -> None:
        """A function that gives the roots of another module; it is called inside each collection."""
        self._sources.append(source)

    def add_sweeper(self, sweeper: Callable[[], None]) -> None:
        """A function that removes what another module keeps under leases; it is called after each collection."""
        self._sweepers.append(sweeper)

    def observe(self, observer: Callable[[float], None]) -> None:
        """A function that is told how many seconds each collection took."""
        self._observers.append(observer)

    def deleted(self) -> None:
        """Something was deleted: collect soon."""
        self.schedule(max(self._pace.delay, _SOON))

    def mutated(self) -> None:
        """Something changed; many changes make a collection due."""
        self._mutations += 1
        if self._mutations >= self._pace.mutations > 0:
            self.schedule(max(self._pace.delay, _SOON))

    def schedule(self, delay: float = 0.0) -> None:
        """Collect after `delay` seconds, or later if the last collection was long.

        Without a running loop: never.
        """
        if self._closed or self._timer is not None:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # nobody serves requests yet; what is garbage now still is later
        wait = max(delay, self._next - time.monotonic())
        self._timer = loop.call_later(wait, self._run_scheduled)

    def _run_scheduled(self) -> None:
        self._timer = None
        if not self._closed:
            self.collect()

    def close(self) -> None:
        """No further collections."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def trash(self) -> None:
        """Free discarded content in a worker thread."""
        if self._content is not None and self._workers is not None and not self._closed:
            self._workers.submit(self._content.local.empty_trash)

    async def collect_and_wait(self) -> None:
        """Collect now and return when the bytes and directories are deleted too."""
        self.collect()
        futures = [future for snapshots in self._snapshotters.values() for future in snapshots.deletions()]
        if self._content is not None and self._workers is not None:
            futures.append(self._workers.submit(self._content.local.empty_trash))
        # What could not be deleted is in the log, and is tried again: the request has done what it was asked for.
        await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)

    def collect(self) -> None:
        """Mark and sweep now; files are deleted afterwards in worker threads."""
        start = time.monotonic()
        self._mutations = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        with self._db.transaction():
            graph = _Graph(self._db, self._holders(), self._locked_ingests(), self._creating())
            garbage = graph.garbage()
            self._sweep(garbage)
            failpoint("gc.after_sweep")
        failpoint("gc.after_record")
        self._delete_files(garbage, graph)
        failpoint("gc.after_files")
        for sweep in self._sweepers:
            sweep()
        self._publish(garbage)
        end = time.monotonic()
        for observe in self._observers:
            observe(end - start)
        self._next = end + (end - start) / self._pace.share

    def _holders(self) -> list[Holder]:
        return [holder for source in self._sources for holder in source()]

    def _locked_ingests(self) -> set[int]:
        return self._content.locked if self._content is not None else set()

    def _creating(self) -> set[int]:
        return {number for snapshots in self._snapshotters.values() for number in snapshots.creating}

    def _sweep(self, garbage: _Garbage) -> None:
        self._db.execute_many("DELETE FROM leases WHERE namespace = ? AND id = ?", garbage.leases)
        self._db.execute_many("DELETE FROM images WHERE namespace = ? AND name = ?", garbage.images)
        self._db.execute_many("DELETE FROM blobs WHERE namespace = ? AND digest = ?", garbage.blobs)
        self._db.execute_many("DELETE FROM ingests WHERE namespace = ? AND ref = ?", garbage.ingests)
        # A child has a higher number than its parent, and is garbage when the parent is.
        numbers = sorted((number for node, number in garbage.snapshots), reverse=True)
        self._db.execute_many("DELETE FROM snapshots WHERE number = ?", [(number,) for number in numbers])

    def _delete_files(self, garbage: _Garbage, graph: _Graph) -> None:
        for node, number in garbage.snapshots:
            snapshotter = self._snapshotters.get(node.key.partition("/")[0])
            if snapshotter is not None:
                snapshotter.discard(number)
        if self._content is not None:
            self._content.drop_files(self._content.local.sizes())
            self.trash()

    def _publish(self, garbage: _Garbage) -> None:
        for namespace, name in garbage.images:
            self._events.publish(namespace, "/images/delete", ImageDelete(name=name))
        for node, _ in garbage.snapshots:
            snapshotter, _, key = node.key.partition("/")
            self._events.publish(
                node.namespace, "/snapshot/remove", SnapshotRemove(key=key, snapshotter=snapshotter)
            )


class _Garbage(NamedTuple):
    """What a sweep removes: (namespace, name) pairs, and snapshots with their numbers."""

    leases: list[tuple[str, str]]
    images: list[tuple[str, str]]
    blobs: list[tuple[str, str]]
    ingests: list[tuple[str, str]]
    snapshots: list[tuple[Node, int]]


class _Graph:
    """The objects and their references at one instant."""

    def __init__(self, db: Database, holders: Iterable[Holder], locked: set[int], creating: set[int]) -> None:
        self._db = db
        self._edges: dict[Node, list[Node]] = {}
        self._roots: list[Node] = []
        self._snapshot_numbers: dict[Node, int] = {}
        self._content: set[Node] = set()
        self._images: set[Node] = set()
        self._ingests: set[Node] = set()
        self._expired_leases: list[tuple[str, str]] = []
        self._now = time.time_ns()
        self._read_content()
        self._read_images()
        self._read_snapshots(creating)
        self._read_ingests(locked)
        self._read_leases()
        for holder in holders:
            self._add_holder(holder)

    def garbage(self) -> _Garbage:
        """Everything that no root reaches."""
        seen = set(self._roots)
        todo = list(seen)
        edges = self._edges
        while todo:
            for target in edges.get(todo.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    todo.append(target)
        kept = {Node(node.kind.removesuffix(_FLAT), node.namespace, node.key) for node in seen}
        return _Garbage(
            self._expired_leases,
            [(node.namespace, node.key) for node in self._images - kept],
            [(node.namespace, node.key) for node in self._content - kept],
            [(node.namespace, node.key) for node in self._ingests - kept],
            [(node, number) for node, number in self._snapshot_numbers.items() if node not in kept],
        )

    def _edge(self, source: Node, target: Node) -> None:
        self._edges.setdefault(source, []).append(target)

    def _read_content(self) -> None:
        for row in self._db.rows("SELECT namespace, digest, labels FROM blobs"):
            node = Node(_CONTENT, row["namespace"], row["digest"])
            self._content.add(node)
            if _PREFIX in row["labels"]:
                self._add_labels(node, unpack(row["labels"]))

    def _read_images(self) -> None:
        for row in self._db.rows("SELECT namespace, name, digest, labels FROM images"):
            node = Node(_IMAGE, row["namespace"], row["name"])
            self._images.add(node)
            self._edge(node, Node(_CONTENT, node.namespace, row["digest"]))
            self._edge(node._replace(kind=_IMAGE + _FLAT), Node(_CONTENT + _FLAT, node.namespace, row["digest"]))
            labels = unpack(row["labels"])
            if not self._expired(labels):
                self._roots.append(node)
            self._add_labels(node, labels)

    def _read_snapshots(self, creating: set[int]) -> None:
        rows = self._db.rows("SELECT number, namespace, snapshotter, key, parent, labels FROM snapshots")
        keys = {row["number"]: f"{row['snapshotter']}/{row['key']}" for row in rows}
        for row in rows:
            node = Node(_SNAPSHOT, row["namespace"], keys[row["number"]])
            self._snapshot_numbers[node] = row["number"]
            if row["parent"] is not None:
                for kind in (_SNAPSHOT, _SNAPSHOT + _FLAT):
                    self._edge(node._replace(kind=kind), Node(kind, node.namespace, keys[row["parent"]]))
            if row["number"] in creating:
                self._roots.append(node)
            if _PREFIX in row["labels"]:
                self._add_labels(node, unpack(row["labels"]))

    def _read_ingests(self, locked: set[int]) -> None:
        for row in self._db.rows("SELECT number, namespace, ref, expected, shared, expires FROM ingests"):
            node = Node(_INGEST, row["namespace"], row["ref"])
            self._ingests.add(node)
            if row["number"] in locked or (row["expires"] is not None and row["expires"] > self._now):
                self._roots.append(node)
            if row["shared"]:
                self._edge(node, Node(_CONTENT, node.namespace, row["expected"]))

    def _read_leases(self) -> None:
        flat: dict[tuple[str, str], bool] = {}
        for row in self._db.rows("SELECT namespace, id, labels FROM leases"):
            labels = unpack(row["labels"])
            if self._expired(labels):
                self._expired_leases.append((row["namespace"], row["id"]))
            else:
                flat[row["namespace"], row["id"]] = GC_FLAT in labels
        for row in self._db.rows("SELECT namespace, lease, type, id FROM lease_resources"):
            is_flat = flat.get((row["namespace"], row["lease"]))
            if is_flat is not None:
                kind, _, snapshotter = row["type"].partition("/")
                kind = kind.rstrip("s")
                key = f"{snapshotter}/{row['id']}" if snapshotter else row["id"]
                kind += _FLAT if is_flat and kind != _INGEST else ""
                self._roots.append(Node(kind, row["namespace"], key))

    def _add_holder(self, holder: Holder) -> None:
        node = Node(_CONTAINER, holder.namespace, holder.id)
        self._roots.append(node)
        if holder.snapshotter and holder.snapshot_key:
            self._edge(node, Node(_SNAPSHOT, node.namespace, f"{holder.snapshotter}/{holder.snapshot_key}"))
        if holder.image:
            self._edge(node, Node(_IMAGE, node.namespace, holder.image))
        self._add_labels(node, holder.labels)

    def _add_labels(self, node: Node, labels: Mapping[str, str]) -> None:
        for key, value in labels.items():
            if not key.startswith(_PREFIX):
                continue
            if key == GC_ROOT or key.startswith(GC_ROOT + "."):
                self._roots.append(node)
                continue
            direction, _, rest = key.removeprefix(_PREFIX).partition(".")
            other = _referred(rest, node.namespace, value) if direction in ("ref", "bref") else None
            if other is not None and direction == "ref":
                self._edge(node, other)
            elif other is not None:
                self._edge(other, node)

    def _expired(self, labels: Mapping[str, str]) -> bool:
        expiry = labels.get(GC_EXPIRE)
        if expiry is None:
            return False
        try:
            when = datetime.datetime.fromisoformat(expiry)
        except ValueError:
            return False  # as containerd: a value that is no time does not expire
        if when.tzinfo is None:
            return False
        return when.timestamp() * 1e9 < self._now


def _referred(rest: str, namespace: str, value: str) -> Node | None:
    """What the label `gc.ref.<rest>` (or bref) with that value names; None for a label that is no reference."""
    if rest.startswith("snapshot."):
        snapshotter = rest.removeprefix("snapshot.").partition("/")[0]
        return Node(_SNAPSHOT, namespace, f"{snapshotter}/{value}")
    for kind in (_CONTENT, _IMAGE, _CONTAINER):
        suffix = rest.removeprefix(kind)
        if suffix != rest and suffix[:1] in ("", ".", "/"):
            return Node(kind, namespace, value)
    return None
