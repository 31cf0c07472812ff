# SPDX-License-Identifier: Apache-2.0
"""The garbage collector: what roots reach stays, the rest goes."""

import asyncio
import datetime
import os

import pytest
from support.storage import LocalStorage, digest_of, put

from orlop.containerd.core.images import Image, Target
from orlop.containerd.core.leases import Resource
from orlop.containerd.core.namespaces import Scope
from orlop.containerd.metadata.gc import Holder
from orlop.containerd.metadata.snapshots import BoundSnapshots
from orlop.errdefs import NotFoundError
from orlop.unix import mount

PREFIX = "containerd.io/gc."


def in_time(seconds: float) -> str:
    """A moment as the label wants it."""
    return (datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)).isoformat()


class Graph:
    """Short names for making and looking."""

    def __init__(self, local: LocalStorage, scope: Scope) -> None:
        self.local = local
        self.scope = scope
        self.content = local.storage.content.bind(scope)
        self.images = local.storage.images.bind(scope)
        self.leases = local.storage.leases.bind(scope)
        self.snapshots: BoundSnapshots = local.storage.snapshotters["overlayfs"].bind(scope)

    def blob(self, name: str, **labels: str) -> str:
        """A blob with labels whose keys have underscores for dots, below containerd.io/gc."""
        return put(self.content, name.encode(), {PREFIX + key.replace("_", "."): v for key, v in labels.items()})

    def image(self, name: str, digest: str, **labels: str) -> None:
        """An image."""
        gc = {PREFIX + key.replace("_", "."): value for key, value in labels.items()}
        self.images.create(Image(name, Target("type", digest, 1), gc))

    def snapshot(self, name: str, parent: str = "", **labels: str) -> None:
        """A committed snapshot."""
        gc = {PREFIX + key.replace("_", "."): value for key, value in labels.items()}
        self.snapshots.prepare("active", parent)
        self.snapshots.commit(name, "active", gc)

    def collect(self) -> set[str]:
        """Collect; what is left, by name."""
        self.local.storage.gc.collect()
        names = {image.name for image in self.images.list()} | {info.name for info in self.snapshots.walk()}
        names |= {status.ref for status in self.content.statuses()} | {lease.id for lease in self.leases.list()}
        known = {digest_of(name.encode()): name for name in ("config", "layer", "manifest", "loose", "other")}
        return names | {known[info.digest] for info in self.content.walk()}


@pytest.fixture
def graph(local: LocalStorage, scope: Scope) -> Graph:
    """A graph to fill."""
    return Graph(local, scope)


def test_an_image_keeps_what_its_labels_name(graph: Graph) -> None:
    config, layer = graph.blob("config"), graph.blob("layer")
    graph.blob("loose")
    manifest = graph.blob("manifest", ref_content_config=config, ref_content_l_0=layer)
    graph.image("image", manifest)
    assert graph.collect() == {"image", "manifest", "config", "layer"}
    assert len(graph.local.storage.content.local.digests()) == 3
    graph.images.delete("image")
    assert graph.collect() == set()
    assert graph.local.storage.content.local.digests() == {}


def test_references_to_snapshots(graph: Graph) -> None:
    graph.snapshot("base")
    graph.snapshot("upper", "base")
    graph.snapshot("loose")
    config = graph.blob("config", ref_snapshot_overlayfs="upper")
    graph.image("image", config)
    assert graph.collect() == {"image", "config", "base", "upper"}
    graph.images.delete("image")
    assert graph.collect() == set()
    graph.snapshots.cleanup()
    assert os.listdir(f"{graph.local.storage.snapshotters['overlayfs'].driver.root}/snapshots") == []


def test_roots_by_label(graph: Graph) -> None:
    layer = graph.blob("layer")
    graph.blob("config", root="yes", ref_content=layer)
    graph.snapshot("base")
    graph.snapshot("upper", "base", root="yes")
    assert graph.collect() == {"config", "layer", "base", "upper"}


def test_back_references(graph: Graph) -> None:
    graph.image("image", graph.blob("manifest"))
    graph.blob("layer", bref_image="image")
    graph.snapshot("base", bref_content="" + digest_of(b"layer"))
    graph.blob("other", bref_image="absent")
    assert graph.collect() == {"image", "manifest", "layer", "base"}


def test_leases(graph: Graph) -> None:
    layer, loose = graph.blob("layer"), graph.blob("loose")
    config = graph.blob("config", ref_content=layer)
    graph.snapshot("base")
    graph.snapshot("upper", "base")
    graph.leases.create("lease", {})
    graph.leases.add_resource("lease", Resource("content", config))
    graph.leases.add_resource("lease", Resource("snapshots/overlayfs", "upper"))
    graph.leases.add_resource("lease", Resource("content", digest_of(b"absent")))
    assert graph.collect() == {"lease", "config", "layer", "base", "upper"}
    graph.leases.delete("lease")
    assert graph.collect() == set()
    with pytest.raises(NotFoundError):
        graph.content.info(loose)


def test_flat_leases_follow_no_labels(graph: Graph) -> None:
    config = graph.blob("config", ref_content=graph.blob("layer"))
    graph.snapshot("base")
    graph.snapshot("upper", "base", ref_content=graph.blob("loose"))
    graph.leases.create("lease", {PREFIX + "flat": "yes"})
    graph.leases.add_resource("lease", Resource("content", config))
    graph.leases.add_resource("lease", Resource("snapshots/overlayfs", "upper"))
    assert graph.collect() == {"lease", "config", "base", "upper"}


def test_leases_expire(graph: Graph) -> None:
    for id, expiry in (("past", in_time(-5)), ("future", in_time(60)), ("nonsense", "tomorrow")):
        graph.leases.create(id, {PREFIX + "expire": expiry})
        put(graph.local.storage.content.bind(Scope(graph.scope.namespace, id)), id.encode())
    graph.local.storage.gc.collect()
    assert [lease.id for lease in graph.leases.list()] == ["future", "nonsense"]
    left = {info.digest for info in graph.content.walk()}
    assert left == {digest_of(b"future"), digest_of(b"nonsense")}


def test_images_expire(graph: Graph) -> None:
    graph.image("past", graph.blob("layer"), expire=in_time(-5))
    graph.image("future", graph.blob("config"), expire=in_time(60))
    graph.image("held", graph.blob("other"), expire=in_time(-5))
    graph.leases.create("lease", {})
    graph.leases.add_resource("lease", Resource("images", "held"))
    assert graph.collect() == {"future", "config", "held", "other", "lease"}
    assert "/images/delete" in graph.local.events.topics()


def test_ingests(graph: Graph) -> None:
    graph.content.writer("fresh").close()
    graph.content.writer("stale").close()
    open_writer = graph.content.writer("open")
    graph.local.storage.db.execute("UPDATE ingests SET expires = 1 WHERE ref IN ('stale', 'open')")
    graph.leases.create("lease", {})
    graph.local.storage.content.bind(Scope(graph.scope.namespace, "lease")).writer("leased").close()
    assert graph.collect() == {"fresh", "open", "leased", "lease"}
    open_writer.close()
    graph.leases.delete("lease")
    assert graph.collect() == {"fresh"}
    assert len(graph.local.storage.content.local.ingests()) == 1


def test_containers_keep_their_snapshots(graph: Graph) -> None:
    graph.snapshot("base")
    graph.snapshots.prepare("box", "base")
    graph.snapshots.prepare("other", "base")
    holders = [
        Holder(
            graph.scope.namespace, "c1", "overlayfs", "box", labels={PREFIX + "ref.content": graph.blob("layer")}
        )
    ]
    graph.local.storage.gc.add_holders(lambda: holders)
    graph.blob("config", bref_container="c1")
    assert graph.collect() == {"base", "box", "layer", "config"}
    holders.clear()
    assert graph.collect() == set()


def test_namespaces_hold_nothing_for_each_other(local: LocalStorage) -> None:
    one, two = Graph(local, Scope("one")), Graph(local, Scope("two"))
    layer = one.blob("layer")
    two.blob("layer")
    two.blob("config", root="yes", ref_content=layer)
    assert one.collect() == set()
    assert two.collect() == {"layer", "config"}


def test_deleting_collects_soon(local: LocalStorage, scope: Scope) -> None:
    async def scenario() -> None:
        graph = Graph(local, scope)
        graph.image("image", graph.blob("manifest", ref_content=graph.blob("layer")))
        collected = asyncio.Event()
        local.storage.gc.observe(lambda _seconds: collected.set())
        graph.images.delete("image")
        assert len(list(graph.content.walk())) == 2
        await asyncio.wait_for(collected.wait(), 30)
        assert list(graph.content.walk()) == []

    asyncio.run(scenario())


def test_what_cannot_be_deleted_is_logged_and_tried_again(
    local: LocalStorage, scope: Scope, caplog: pytest.LogCaptureFixture
) -> None:
    snapshots = local.storage.snapshotters["overlayfs"]
    snapshots.bind(scope).prepare("key")
    path = f"{snapshots.driver.root}/snapshots/1/fs"
    mount.mount("tmpfs", path, "tmpfs")
    try:
        asyncio.run(local.storage.gc.collect_and_wait())
        with pytest.raises(NotFoundError):
            snapshots.bind(scope).stat("key")
        assert "directory of removed snapshot overlayfs/1 is not deleted" in caplog.text
    finally:
        mount.umount2(f"{snapshots.driver.root}/snapshots/new-1/fs")
    snapshots.bind(scope).cleanup()
    assert os.listdir(f"{snapshots.driver.root}/snapshots") == []


def test_collect_and_wait(local: LocalStorage, scope: Scope) -> None:
    async def scenario() -> None:
        graph = Graph(local, scope)
        graph.blob("layer")
        graph.snapshot("base")
        driver = local.storage.snapshotters["overlayfs"].driver
        assert os.listdir(f"{driver.root}/snapshots") == ["1"]
        await local.storage.gc.collect_and_wait()
        assert os.listdir(f"{driver.root}/snapshots") == []
        assert os.listdir(f"{local.storage.content.local.root}/trash") == []

    asyncio.run(scenario())
