# SPDX-License-Identifier: Apache-2.0
"""Images, leases, namespaces, and what outlives a crash."""

import asyncio
import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.storage import LocalStorage, digest_of, put, read

from orlop.api import images_pb2, types_pb2
from orlop.containerd.check import check
from orlop.containerd.core.images import Image, Target
from orlop.containerd.core.leases import Resource
from orlop.containerd.core.namespaces import NAMESPACE_HEADER, Scope, scope_of
from orlop.containerd.metadata import unsynced
from orlop.containerd.metadata.containers import MetadataContainers
from orlop.containerd.metadata.db import Database
from orlop.containerd.services.images import ImagesService
from orlop.errdefs import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    NotImplementedByUsError,
)

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DIGEST = digest_of(b"manifest")


def image(name: str, digest: str = DIGEST, **labels: str) -> Image:
    """An image."""
    return Image(name, Target(MANIFEST, digest, 10), labels)


class TestImages:
    """The image store."""

    def test_lifecycle(self, local: LocalStorage, scope: Scope) -> None:
        images = local.storage.images.bind(scope)
        created = images.create(image("one", a="1"))
        assert created == images.get("one")
        assert created.created == created.updated > 0
        with pytest.raises(AlreadyExistsError, match='image "one": already exists'):
            images.create(image("one"))
        images.create(image("two", digest_of(b"other")))
        assert [found.name for found in images.list()] == ["one", "two"]
        assert [found.name for found in images.list([f"target.digest=={DIGEST}"])] == ["one"]
        assert [found.name for found in images.list(["name==two", "labels.a==1"])] == ["one", "two"]
        with pytest.raises(NotFoundError):
            images.delete("one", digest_of(b"other"))
        images.delete("one", DIGEST)
        with pytest.raises(NotFoundError, match='image "one": not found'):
            images.get("one")
        topics = ["/images/create", "/images/create", "/images/delete"]
        assert local.events.topics() == topics

    def test_update(self, local: LocalStorage, scope: Scope) -> None:
        images = local.storage.images.bind(scope)
        images.create(image("one", a="1", b="2"))
        assert images.update(image("one", a="3"), ["labels.a"]).labels == {"a": "3", "b": "2"}
        target = Target(MANIFEST, digest_of(b"new"), 11, {"note": "x"})
        updated = images.update(Image("one", target), ["target"])
        assert (updated.target, updated.labels) == (target, {"a": "3", "b": "2"})
        noted = images.update(Image("one", Target("", "", 0, {"more": "y"})), ["annotations.more"])
        assert noted.target.annotations == {"note": "x", "more": "y"}
        assert images.update(image("one"), ["labels.a"]).labels == {"b": "2"}  # an empty value removes
        assert images.get("one").labels == {"b": "2"}
        replaced = images.update(image("one", c="1", d=""))
        assert (replaced.labels, replaced.target.digest) == ({"c": "1"}, DIGEST)
        with pytest.raises(InvalidArgumentError, match='cannot update "size" field on image "one"'):
            images.update(image("one"), ["size"])
        with pytest.raises(NotFoundError):
            images.update(image("absent"))

    @pytest.mark.parametrize(
        ("bad", "field"),
        [
            (Image("", Target(MANIFEST, DIGEST, 1)), "name"),
            (Image("x", Target(MANIFEST, "sha256:1", 1)), "target.digest"),
            (Image("x", Target(MANIFEST, DIGEST, 0)), "target.size"),
            (Image("x", Target("", DIGEST, 1)), "target.media_type"),
            (Image("x", Target(MANIFEST, DIGEST, 1), {"k": "v" * 5000}), "label key"),
        ],
    )
    def test_malformed(self, local: LocalStorage, scope: Scope, bad: Image, field: str) -> None:
        with pytest.raises(InvalidArgumentError, match=field):
            local.storage.images.bind(scope).create(bad)
        assert local.storage.images.bind(scope).list() == []

    def test_namespaces_do_not_see_each_other(self, local: LocalStorage) -> None:
        one, two = (local.storage.images.bind(Scope(name)) for name in ("one", "two"))
        one.create(image("name"))
        assert two.list() == []
        two.create(image("name"))
        two.delete("name")
        assert one.get("name").name == "name"


class TestLeases:
    """The lease manager, and leases of requests."""

    def test_lifecycle(self, local: LocalStorage, scope: Scope) -> None:
        leases = local.storage.leases.bind(scope)
        lease = leases.create("one", {"a": "1"})
        assert leases.list() == [lease]
        assert leases.create("", {}).id != leases.create("", {}).id
        assert [found.id for found in leases.list(["labels.a==1"])] == ["one"]
        with pytest.raises(AlreadyExistsError):
            leases.create("one", {})
        leases.delete("one")
        with pytest.raises(NotFoundError):
            leases.delete("one")

    def test_resources(self, local: LocalStorage, scope: Scope) -> None:
        leases = local.storage.leases.bind(scope)
        leases.create("one", {})
        wanted = [Resource("content", DIGEST), Resource("ingests", "ref"), Resource("snapshots/overlayfs", "key")]
        for resource in reversed(wanted):
            leases.add_resource("one", resource)
            leases.add_resource("one", resource)
        assert leases.list_resources("one") == wanted
        leases.delete_resource("one", wanted[0])
        assert leases.list_resources("one") == wanted[1:]
        with pytest.raises(NotFoundError):
            leases.list_resources("two")
        with pytest.raises(InvalidArgumentError):
            leases.add_resource("one", Resource("snapshots", "key"))
        with pytest.raises(NotImplementedByUsError):
            leases.add_resource("one", Resource("dreams", "key"))

    def test_a_request_leases_what_it_makes(self, local: LocalStorage, scope: Scope) -> None:
        leases = local.storage.leases.bind(scope)
        leases.create("one", {})
        leased = Scope(scope.namespace, "one")
        content = local.storage.content.bind(leased)
        snapshots = local.storage.snapshotters["overlayfs"].bind(leased)
        digest = put(content, b"abc")
        content.writer("ref").close()
        snapshots.prepare("active")
        snapshots.commit("name", "active")
        assert leases.list_resources("one") == [
            Resource("content", digest),
            Resource("ingests", "ref"),
            Resource("snapshots/overlayfs", "name"),
        ]
        snapshots.remove("name")
        content.delete(digest)
        content.abort("ref")
        assert leases.list_resources("one") == []

    def test_an_unknown_lease_makes_nothing(self, local: LocalStorage, scope: Scope) -> None:
        leased = Scope(scope.namespace, "absent")
        with pytest.raises(NotFoundError, match='lease "absent"'):
            local.storage.snapshotters["overlayfs"].bind(leased).prepare("key")
        with pytest.raises(NotFoundError):
            local.storage.content.bind(leased).writer("ref")
        assert list(local.storage.snapshotters["overlayfs"].bind(scope).walk()) == []
        assert local.storage.content.bind(scope).statuses() == []


class TestNamespaces:
    """The namespace store."""

    def test_lifecycle(self, local: LocalStorage) -> None:
        namespaces = local.storage.namespaces
        namespaces.create("one", {"a": "1", "b": "2"})
        with pytest.raises(AlreadyExistsError):
            namespaces.create("one", {})
        assert namespaces.update("one", {"a": "", "c": "3"}, ["labels.a", "labels.c"]).labels == {
            "b": "2",
            "c": "3",
        }
        assert namespaces.update("one", {"d": "4"}, []).labels == {"d": "4"}
        assert [found.name for found in namespaces.list()] == ["one"]
        namespaces.delete("one")
        with pytest.raises(NotFoundError):
            namespaces.delete("one")
        assert local.events.topics() == [
            "/namespaces/create",
            "/namespaces/update",
            "/namespaces/update",
            "/namespaces/delete",
        ]

    def test_only_empty_ones_are_deleted(self, local: LocalStorage) -> None:
        scope = Scope("full")
        local.storage.images.bind(scope).create(image("one"))
        digest = put(local.storage.content.bind(scope), b"abc")
        local.storage.snapshotters["overlayfs"].bind(scope).prepare("key")
        with pytest.raises(FailedPreconditionError) as caught:
            local.storage.namespaces.delete("full")
        assert str(caught.value) == (
            'namespace "full" must be empty, but it still has blobs, images, snapshots on "overlayfs" snapshotter'
        )
        local.storage.images.bind(scope).delete("one")
        local.storage.content.bind(scope).delete(digest)
        local.storage.snapshotters["overlayfs"].bind(scope).remove("key")
        local.storage.namespaces.delete("full")
        local.storage.leases.bind(scope).create("again", {})
        assert [found.name for found in local.storage.namespaces.list()] == ["full"]

    @pytest.mark.parametrize("name", ["", "-a", "a..b", "a/b", "a" * 77, "ä", "a b", ".."])
    def test_malformed_names(self, local: LocalStorage, name: str) -> None:
        with pytest.raises(InvalidArgumentError):
            local.storage.namespaces.create(name, {})

    def test_scopes(self) -> None:
        metadata = (("containerd-namespace", "moby"), ("containerd-lease", "abc"))
        assert scope_of(metadata) == Scope("moby", "abc")
        with pytest.raises(FailedPreconditionError, match="namespace is required"):
            scope_of(())
        with pytest.raises(InvalidArgumentError):
            scope_of((("containerd-namespace", "../x"),))


class TestContentIsShared:
    """The bytes of a blob are stored once."""

    def test_isolation_and_sharing(self, local: LocalStorage) -> None:
        one, two = (local.storage.content.bind(Scope(name)) for name in ("one", "two"))
        digest = put(one, b"abc")
        with pytest.raises(NotFoundError):
            two.info(digest)
        with pytest.raises(NotFoundError):
            two.reader(digest)
        writer = two.writer("ref", 3, digest)
        assert writer.status().offset == 3
        writer.commit(3, digest, {"containerd.io/gc.root": "1"})
        assert two.info(digest).labels == {"containerd.io/gc.root": "1"}
        assert one.info(digest).labels == {}
        one.delete(digest)
        local.storage.gc.collect()
        assert read(two, digest) == b"abc"

    def test_a_shared_ingest_keeps_the_bytes(self, local: LocalStorage) -> None:
        one, two = (local.storage.content.bind(Scope(name)) for name in ("one", "two"))
        digest = put(one, b"abc")
        writer = two.writer("ref", 3, digest)
        one.delete(digest)
        local.storage.gc.collect()
        assert writer.commit(3, digest).size == 3

    def test_writing_to_a_shared_ingest_makes_it_own(self, local: LocalStorage) -> None:
        one, two = (local.storage.content.bind(Scope(name)) for name in ("one", "two"))
        digest = put(one, b"abc")
        writer = two.writer("ref", 0, digest)
        writer.write(b"def")
        assert writer.commit(6).digest == digest_of(b"abcdef")
        assert one.info(digest).size == 3


def test_names_of_blobs_are_synced_once(
    local: LocalStorage, scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before an image is recorded the names of its blobs are on the disk; without new ones nothing is synced."""
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    content = local.storage.content

    def sync() -> int:
        with ThreadPoolExecutor(1) as workers:
            asyncio.run(content.sync_names(workers))
        return len(synced)

    assert sync() == 0
    put(content.bind(scope), b"one")
    put(content.bind(scope), b"two")
    assert (sync(), sync()) == (1, 1)
    put(content.bind(scope), b"three")
    assert sync() == 2
    assert set(synced) == {f"{local.base}/root/io.containerd.content.v1.content/blobs/sha256"}


async def test_an_image_is_recorded_after_its_content_is_synced(
    local: LocalStorage, scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each blob's bytes before its name is given, all names before the image is there for anybody."""
    steps: list[str] = []
    going, go_on = threading.Event(), threading.Event()

    def fsync(fd: int) -> None:
        going.set()
        assert go_on.wait(60)
        steps.append("names")

    content, images = local.storage.content, local.storage.images
    rename, datasync = os.rename, os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (steps.append("bytes"), datasync(fd)))
    monkeypatch.setattr(os, "rename", lambda *names: (steps.append("rename"), rename(*names)))
    monkeypatch.setattr(os, "fsync", fsync)
    put(content.bind(scope), b"manifest")
    with ThreadPoolExecutor(1) as workers:
        service = ImagesService(images, local.storage.gc, content, workers)
        target = types_pb2.Descriptor(media_type=MANIFEST, digest=DIGEST, size=8)
        request = images_pb2.CreateImageRequest(image=images_pb2.Image(name="one", target=target))
        creating = asyncio.ensure_future(service.Create(request, Context(scope)))
        await asyncio.to_thread(going.wait, 60)
        assert images.bind(scope).list() == []
        go_on.set()
        await creating
    assert steps == ["bytes", "rename", "names"]
    assert [found.name for found in images.bind(scope).list()] == ["one"]


class Context:
    """The context of a call in a scope."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return [(NAMESPACE_HEADER, self._scope.namespace)]


class TestPowerCuts:
    """Snapshots whose files were not synced in the boot that committed them."""

    def chain(self, local: LocalStorage, scope: Scope) -> list[int]:
        """Three committed snapshots, one on the other, and the numbers that are not synced."""
        snapshots = local.storage.snapshotters["overlayfs"].bind(scope)
        for number, parent in ((1, ""), (2, "layer1"), (3, "layer2")):
            snapshots.prepare(f"extract-{number}", parent)
            snapshots.commit(f"layer{number}", f"extract-{number}")
        return self.unsynced(local)

    def unsynced(self, local: LocalStorage) -> list[int]:
        rows = local.storage.db.rows("SELECT number FROM unsynced_snapshots ORDER BY number")
        return [row["number"] for row in rows]

    def keys(self, local: LocalStorage, scope: Scope) -> set[str]:
        return {row["key"] for row in local.storage.db.rows("SELECT key FROM snapshots")}

    def cut(self, local: LocalStorage, *numbers: int) -> None:
        """As if the machine had gone down before these were synced."""
        local.storage.db.execute("DELETE FROM unsynced_snapshots")
        for number in numbers:
            local.storage.db.execute("INSERT INTO unsynced_snapshots VALUES (?, 'another boot')", (number,))

    async def test_layers_are_synced_once(
        self, local: LocalStorage, scope: Scope, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[str] = []
        monkeypatch.setattr(unsynced.fs, "syncfs", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
        monkeypatch.setattr(unsynced, "_DELAY", 0.2)
        noted, forget = asyncio.Event(), unsynced.UnsyncedSnapshots._forget
        monkeypatch.setattr(unsynced.UnsyncedSnapshots, "_forget", lambda *args: (forget(*args), noted.set()))
        assert self.chain(local, scope) == [1, 2, 3]
        await asyncio.wait_for(noted.wait(), 60)
        assert self.unsynced(local) == []
        assert synced == [f"{local.base}/root/io.containerd.snapshotter.v1.overlayfs"]

    def test_a_stop_syncs(self, local: LocalStorage, scope: Scope) -> None:
        assert self.chain(local, scope) == [1, 2, 3]
        local.reopen()
        assert (self.unsynced(local), len(self.keys(local, scope))) == ([], 3)

    def test_what_is_torn_is_dropped_with_what_stands_on_it(self, local: LocalStorage, scope: Scope) -> None:
        self.chain(local, scope)
        local.storage.snapshotters["overlayfs"].bind(scope).prepare("extract-4", "layer3")
        self.cut(local, 2)
        local.reopen()
        assert (self.keys(local, scope), self.unsynced(local)) == ({"layer1"}, [])

    def test_what_is_used_stays_and_is_told_of(self, local: LocalStorage, scope: Scope) -> None:
        self.chain(local, scope)
        local.storage.snapshotters["overlayfs"].bind(scope).prepare("container", "layer3")
        self.cut(local, 3)
        local.reopen()
        assert self.keys(local, scope) == {"layer1", "layer2", "layer3", "container"}
        MetadataContainers(local.storage.db, local.storage.namespaces, local.storage.gc)  # makes its table
        faults = [str(fault) for fault in check(f"{local.base}/root", f"{local.base}/state").faults]
        assert [fault for fault in faults if "layer3#3: it was not on the disk" in fault]


class TestRestart:
    """What a crash leaves is settled at the next start."""

    def test_everything_is_kept(self, local: LocalStorage, scope: Scope) -> None:
        digest = put(local.storage.content.bind(scope), b"abc", {"containerd.io/gc.root": "x"})
        writer = local.storage.content.bind(scope).writer("ref", 10)
        writer.write(b"01234")
        writer.close()
        local.storage.snapshotters["overlayfs"].bind(scope).prepare("key", "", {"a": "1"})
        storage = local.reopen()
        assert storage.content.bind(scope).info(digest).size == 3
        writer = storage.content.bind(scope).writer("ref", 10)
        assert (writer.status().offset, writer.digest()) == (5, digest_of(b"01234"))
        writer.close()
        assert storage.snapshotters["overlayfs"].bind(scope).stat("key").labels == {"a": "1"}

    def test_half_made_directories_go(self, local: LocalStorage, scope: Scope) -> None:
        snapshots = local.storage.snapshotters["overlayfs"]
        snapshots.bind(scope).prepare("key")
        root = f"{snapshots.driver.root}/snapshots"
        os.makedirs(f"{root}/new-7/fs/deep")
        os.makedirs(f"{root}/9/fs/deep")
        storage = local.reopen()
        storage.snapshotters["overlayfs"].bind(scope).cleanup()
        assert os.listdir(root) == ["1"]
        storage.snapshotters["overlayfs"].bind(scope).prepare("next")
        assert sorted(os.listdir(root)) == ["1", "10"]  # numbers that had files are not used again

    def test_a_snapshot_without_its_directory_goes(self, local: LocalStorage, scope: Scope) -> None:
        snapshots = local.storage.snapshotters["overlayfs"]
        snapshots.bind(scope).prepare("key")
        os.rename(f"{snapshots.driver.root}/snapshots/1", f"{snapshots.driver.root}/snapshots/new-1")
        storage = local.reopen()
        with pytest.raises(NotFoundError):
            storage.snapshotters["overlayfs"].bind(scope).stat("key")

    def test_a_blob_without_its_bytes_goes(self, local: LocalStorage, scope: Scope) -> None:
        content = local.storage.content
        whole, cut = (put(content.bind(scope), data) for data in (b"whole", b"cut"))
        os.chmod(content.local.path(cut), 0o600)
        os.truncate(content.local.path(cut), 1)
        orphan = digest_of(b"orphan")
        with open(content.local.path(orphan), "wb") as file:
            file.write(b"orphan")
        storage = local.reopen()
        assert [info.digest for info in storage.content.bind(scope).walk()] == [whole]
        assert storage.content.local.digests() == {whole: 5}
        put(storage.content.bind(scope), b"cut")

    def test_directories_are_private(self, local: LocalStorage, scope: Scope) -> None:
        local.storage.snapshotters["overlayfs"].bind(scope).prepare("key")
        root = f"{local.base}/root"
        for name in ("", *os.listdir(root)):
            path = f"{root}/{name}"
            assert os.stat(path).st_mode & 0o077 == 0, path

    def test_one_daemon_a_root(self, local: LocalStorage) -> None:
        with pytest.raises(FailedPreconditionError, match="locked"):
            Database(f"{local.base}/root/metadata.db")


class TestDatabase:
    """The file itself."""

    def test_transactions_nest_and_roll_back(self, local: LocalStorage) -> None:
        db = local.storage.db
        db.migrate("test", ("CREATE TABLE things (name TEXT)",))
        with pytest.raises(ValueError, match="no"), db.transaction(), db.transaction():
            db.execute("INSERT INTO things VALUES ('a')")
            raise ValueError("no")
        assert db.rows("SELECT * FROM things") == []
        with db.transaction():
            db.execute("INSERT INTO things VALUES ('b')")
        assert [row["name"] for row in db.rows("SELECT name FROM things")] == ["b"]

    def test_migrations_run_once(self, local: LocalStorage) -> None:
        db = local.storage.db
        db.migrate("test", ("CREATE TABLE things (name TEXT)",))
        db.migrate("test", ("CREATE TABLE things (name TEXT)", "ALTER TABLE things ADD COLUMN size INTEGER"))
        db.execute("INSERT INTO things VALUES ('a', 1)")
        with pytest.raises(FailedPreconditionError, match="newer"):
            db.migrate("test", ())

    def test_a_failed_migration_leaves_nothing(self, local: LocalStorage) -> None:
        db = local.storage.db
        with pytest.raises(sqlite3.OperationalError):
            db.migrate("test", ("CREATE TABLE things (name TEXT); CREATE NONSENSE",))
        db.migrate("test", ("CREATE TABLE things (name TEXT)",))


def test_cached_bytes_are_read_without_a_thread(local: LocalStorage, scope: Scope) -> None:
    """What is in memory comes at once, as `read_at` has it, or None; an end is an end."""
    digest = put(local.storage.content.bind(scope), b"0123456789")
    reader = local.storage.content.bind(scope).reader(digest)
    try:
        assert reader.read_cached(2, 4) in (b"2345", None)
        assert reader.read_cached(8, 100) in (b"89", None)
        assert reader.read_cached(10, 5) in (b"", None)
        assert reader.read_at(2, 4) == b"2345"
    finally:
        reader.close()
