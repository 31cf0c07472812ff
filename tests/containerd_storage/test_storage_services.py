# SPDX-License-Identifier: Apache-2.0
"""The storage services on the wire, ours and the original's: scopes, the Write protocol, crashes, ctr."""

import errno
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from support import images
from support.containerd import Daemon
from support.storage import LocalStorage, RemoteContent, RemoteSnapshotter, digest_of, metadata_of, put, read

from orlop.api import (
    content_pb2,
    content_pb2_grpc,
    diff_pb2,
    diff_pb2_grpc,
    images_pb2,
    images_pb2_grpc,
    leases_pb2,
    leases_pb2_grpc,
    namespaces_pb2,
    namespaces_pb2_grpc,
    snapshots_pb2,
    snapshots_pb2_grpc,
    types_pb2,
)
from orlop.containerd.core.namespaces import Scope
from orlop.containerd.plugins.content_local import LocalContent
from orlop.errdefs import AlreadyExistsError, NotFoundError, ResourceExhaustedError, UnavailableError
from orlop.unix import mount as unix_mount

pytestmark = pytest.mark.root

ROOT = {"containerd.io/gc.root": "test"}
DIGEST = digest_of(b"")
STAT, WRITE, COMMIT = content_pb2.STAT, content_pb2.WRITE, content_pb2.COMMIT

CALLS: list[tuple[Any, str, Any]] = [
    (content_pb2_grpc.ContentStub, "Info", content_pb2.InfoRequest(digest=DIGEST)),
    (
        content_pb2_grpc.ContentStub,
        "Update",
        content_pb2.UpdateRequest(info=content_pb2.Info(digest=DIGEST)),
    ),
    (content_pb2_grpc.ContentStub, "List", content_pb2.ListContentRequest()),
    (content_pb2_grpc.ContentStub, "Delete", content_pb2.DeleteContentRequest(digest=DIGEST)),
    (content_pb2_grpc.ContentStub, "Read", content_pb2.ReadContentRequest(digest=DIGEST)),
    (content_pb2_grpc.ContentStub, "Status", content_pb2.StatusRequest(ref="ref")),
    (content_pb2_grpc.ContentStub, "ListStatuses", content_pb2.ListStatusesRequest()),
    (content_pb2_grpc.ContentStub, "Abort", content_pb2.AbortRequest(ref="ref")),
    (content_pb2_grpc.ContentStub, "Write", [content_pb2.WriteContentRequest(ref="ref")]),
    (images_pb2_grpc.ImagesStub, "Get", images_pb2.GetImageRequest(name="x")),
    (images_pb2_grpc.ImagesStub, "List", images_pb2.ListImagesRequest()),
    (images_pb2_grpc.ImagesStub, "Delete", images_pb2.DeleteImageRequest(name="x")),
    (leases_pb2_grpc.LeasesStub, "Create", leases_pb2.CreateRequest(id="x")),
    (leases_pb2_grpc.LeasesStub, "Delete", leases_pb2.DeleteRequest(id="x")),
    (leases_pb2_grpc.LeasesStub, "List", leases_pb2.ListRequest()),
    (leases_pb2_grpc.LeasesStub, "ListResources", leases_pb2.ListResourcesRequest(id="x")),
    *(
        (snapshots_pb2_grpc.SnapshotsStub, method, request)
        for method, request in (
            ("Prepare", snapshots_pb2.PrepareSnapshotRequest(snapshotter="overlayfs", key="x")),
            ("View", snapshots_pb2.ViewSnapshotRequest(snapshotter="overlayfs", key="x")),
            ("Mounts", snapshots_pb2.MountsRequest(snapshotter="overlayfs", key="x")),
            ("Commit", snapshots_pb2.CommitSnapshotRequest(snapshotter="overlayfs", key="x", name="y")),
            ("Remove", snapshots_pb2.RemoveSnapshotRequest(snapshotter="overlayfs", key="x")),
            ("Stat", snapshots_pb2.StatSnapshotRequest(snapshotter="overlayfs", key="x")),
            ("Usage", snapshots_pb2.UsageRequest(snapshotter="overlayfs", key="x")),
        )
    ),
    (
        diff_pb2_grpc.DiffStub,
        "Apply",
        diff_pb2.ApplyRequest(
            diff=types_pb2.Descriptor(media_type="application/vnd.oci.image.layer.v1.tar", digest=DIGEST)
        ),
    ),
]


def call(stub: Any, method: str, request: Any, metadata: Any = ()) -> Any:
    """Make a call of any kind and take its whole answer."""
    argument = iter(request) if isinstance(request, list) else request
    answer = getattr(stub, method)(argument, metadata=metadata, timeout=20)
    return list(answer) if hasattr(answer, "__iter__") else answer


@pytest.mark.parametrize(("stub", "method", "request_"), CALLS, ids=lambda value: getattr(value, "__name__", None))
def test_a_namespace_is_required(channel: grpc.Channel, stub: Any, method: str, request_: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(stub(channel), method, request_)
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION  # type: ignore[attr-defined]
    assert "namespace is required" in caught.value.details()  # type: ignore[attr-defined]


def test_namespaces_need_none(daemon: Daemon, channel: grpc.Channel, scope: Scope) -> None:
    stub = namespaces_pb2_grpc.NamespacesStub(channel)
    # containerd 1.6 makes the namespace, then fails to publish the event without one in the metadata.
    metadata = metadata_of(scope) if daemon.kind == "original" else ()
    namespace = namespaces_pb2.Namespace(name=scope.namespace, labels={"a": "1"})
    created = stub.Create(namespaces_pb2.CreateNamespaceRequest(namespace=namespace), metadata=metadata)
    assert created.namespace == namespace
    assert namespace in stub.List(namespaces_pb2.ListNamespacesRequest()).namespaces
    assert stub.Get(namespaces_pb2.GetNamespaceRequest(name=scope.namespace)).namespace == namespace
    stub.Delete(namespaces_pb2.DeleteNamespaceRequest(name=scope.namespace), metadata=metadata)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Delete(namespaces_pb2.DeleteNamespaceRequest(name=scope.namespace), metadata=metadata)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]


@pytest.mark.parametrize("snapshotter", ["", "absent"])
def test_an_unknown_snapshotter(channel: grpc.Channel, scope: Scope, snapshotter: str) -> None:
    stub = snapshots_pb2_grpc.SnapshotsStub(channel)
    request = snapshots_pb2.StatSnapshotRequest(snapshotter=snapshotter, key="x")
    with pytest.raises(grpc.RpcError) as caught:
        stub.Stat(request, metadata=metadata_of(scope))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]


class TestWriteProtocol:
    """The messages of one Write call."""

    def write(self, channel: grpc.Channel, scope: Scope, *messages: Any) -> list[content_pb2.WriteContentResponse]:
        requests = [content_pb2.WriteContentRequest(**message) for message in messages]
        answers: list[content_pb2.WriteContentResponse] = call(
            content_pb2_grpc.ContentStub(channel), "Write", requests, metadata_of(scope)
        )
        # containerd sends its last answer twice.
        return answers[:-1] if len(answers) > len(messages) and answers[-1] == answers[-2] else answers

    def fails(self, channel: grpc.Channel, scope: Scope, *messages: Any) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.RpcError) as caught:
            self.write(channel, scope, *messages)
        return caught.value.code(), caught.value.details()  # type: ignore[attr-defined]

    def test_each_message_is_answered(self, channel: grpc.Channel, scope: Scope) -> None:
        digest = digest_of(b"abcdef")
        answers = self.write(
            channel,
            scope,
            {"action": STAT, "ref": "r", "total": 6, "expected": digest},
            {"action": WRITE, "data": b"abc"},
            {"action": WRITE, "data": b"def", "offset": 3},
            {"action": STAT},
            {"action": COMMIT, "offset": 6, "total": 6, "expected": digest, "labels": ROOT},
        )
        assert [answer.action for answer in answers] == [STAT, WRITE, WRITE, STAT, COMMIT]
        assert [answer.offset for answer in answers] == [0, 3, 6, 6, 6]
        assert [answer.total for answer in answers if answer.action == STAT] == [6, 6]
        assert [answer.digest for answer in answers[1:]] == [digest_of(b"abc"), digest, digest, digest]
        assert answers[0].HasField("started_at")
        assert answers[0].HasField("updated_at")

    def test_one_message_is_enough(self, channel: grpc.Channel, scope: Scope) -> None:
        (answer,) = self.write(channel, scope, {"action": COMMIT, "ref": "r", "data": b"abc", "labels": ROOT})
        assert (answer.offset, answer.digest) == (3, digest_of(b"abc"))

    def test_the_first_message_has_the_ref(self, channel: grpc.Channel, scope: Scope) -> None:
        code, details = self.fails(channel, scope, {"action": WRITE, "data": b"abc"})
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert details == "first message must have a reference"

    def test_writes_occur_at_the_offset(self, channel: grpc.Channel, scope: Scope) -> None:
        messages = ({"action": WRITE, "ref": "r", "data": b"abc"}, {"action": WRITE, "data": b"x", "offset": 7})
        code, details = self.fails(channel, scope, *messages)
        assert code == grpc.StatusCode.OUT_OF_RANGE
        assert details == "write @7 must occur at current offset 3"
        assert RemoteContent(channel, scope).status("r").offset == 3

    def test_offset_nothing_begins_again(self, channel: grpc.Channel, scope: Scope) -> None:
        self.write(channel, scope, {"action": WRITE, "ref": "r", "data": b"wrong"})
        self.write(channel, scope, {"action": WRITE, "ref": "r", "data": b"right"})
        assert RemoteContent(channel, scope).status("r").offset == 5

    def test_a_blob_that_is_there_ends_the_ingest(self, channel: grpc.Channel, scope: Scope) -> None:
        store = RemoteContent(channel, scope)
        digest = put(store, b"abc", ROOT)
        messages = ({"action": WRITE, "ref": "r", "data": b"ab"}, {"action": STAT, "expected": digest})
        code, _ = self.fails(channel, scope, *messages)
        assert code == grpc.StatusCode.ALREADY_EXISTS
        assert store.statuses() == []

    def test_reading_beyond_the_end(self, channel: grpc.Channel, scope: Scope) -> None:
        store = RemoteContent(channel, scope)
        digest = put(store, b"abc", ROOT)
        assert store.read(digest, 3, 0) == b""
        assert store.read(digest, -5, 0) == b"abc"
        stub = content_pb2_grpc.ContentStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            request = content_pb2.ReadContentRequest(digest=digest, offset=4)
            call(stub, "Read", request, metadata_of(scope))
        assert caught.value.code() == grpc.StatusCode.OUT_OF_RANGE  # type: ignore[attr-defined]

    def test_a_client_that_goes_away_frees_the_ref(self, channel: grpc.Channel, scope: Scope) -> None:
        stub = content_pb2_grpc.ContentStub(channel)
        gone = threading.Event()

        def requests() -> Iterator[content_pb2.WriteContentRequest]:
            yield content_pb2.WriteContentRequest(action=WRITE, ref="r", data=b"abc")
            gone.wait(20)

        running = stub.Write(requests(), metadata=metadata_of(scope))
        assert next(iter(running)).offset == 3
        running.cancel()
        gone.set()
        store = RemoteContent(channel, scope)
        for _ in range(200):  # the daemon learns of it a moment later
            try:
                writer = store.writer("r")
                break
            except UnavailableError:
                continue
        assert writer.status().offset == 3
        writer.close()


def test_one_of_many_wins(channel: grpc.Channel, scope: Scope) -> None:
    snapshots = RemoteSnapshotter(channel, scope, "overlayfs")

    def prepare(_: int) -> bool:
        try:
            snapshots.prepare("key", "", ROOT)
        except AlreadyExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(prepare, range(16))) == 1


def test_pages(channel: grpc.Channel, scope: Scope) -> None:
    snapshots = RemoteSnapshotter(channel, scope, "overlayfs")
    for number in range(120):
        snapshots.prepare(f"key-{number:03}", "", ROOT)
    assert [info.name for info in snapshots.walk()] == [f"key-{number:03}" for number in range(120)]


def test_a_killed_daemon_has_kept_everything() -> None:
    daemon = Daemon("orlop").start()
    scope = Scope("crash")
    try:
        with grpc.insecure_channel(f"unix:{daemon.address}") as channel:
            content, snapshots = (
                RemoteContent(channel, scope),
                RemoteSnapshotter(channel, scope, "overlayfs"),
            )
            digest = put(content, b"blob", ROOT)
            writer = content.writer("ingest", 10)
            writer.write(b"01234")
            mounts = snapshots.prepare("key", "", ROOT)
            daemon.kill()
        daemon.start()
        with grpc.insecure_channel(f"unix:{daemon.address}") as channel:
            content, snapshots = (
                RemoteContent(channel, scope),
                RemoteSnapshotter(channel, scope, "overlayfs"),
            )
            assert read(content, digest) == b"blob"
            assert snapshots.mounts("key") == mounts
            resumed = content.writer("ingest", 10)
            assert resumed.status().offset == 5
            resumed.write(b"56789")
            resumed.commit(10, digest_of(b"0123456789"), ROOT)
    finally:
        daemon.remove()


def test_a_killed_client_of_an_unpacking_leaves_no_file_behind() -> None:
    daemon = Daemon("orlop").start()
    try:
        daemon.ctr("images", "import", images.archive("layers")).ok()
        daemon.kill()
        for name in ("new-77/fs", "99/fs"):
            (Path(daemon.root) / "io.containerd.snapshotter.v1.overlayfs/snapshots" / name).mkdir(parents=True)
        daemon.start()
        daemon.ctr("images", "check", "-q").ok()
        daemon.ctr("images", "rm", "--sync", "docker.io/library/layers:latest").ok()
        assert daemon.ctr("snapshots", "ls").ok().split() == ["KEY", "PARENT", "KIND"]
        assert daemon.ctr("content", "ls", "-q").ok() == ""
        root = Path(daemon.root)
        assert list((root / "io.containerd.content.v1.content").rglob("*/*/?*")) == []
        assert list((root / "io.containerd.snapshotter.v1.overlayfs/snapshots").iterdir()) == []
    finally:
        daemon.remove()


def test_a_full_disk_keeps_the_ingest(tmp_path: Path) -> None:
    fd = unix_mount.detached_mount("tmpfs", "tmpfs", ("size=64k",))
    try:
        store = LocalContent(f"/proc/self/fd/{fd}/content")
        writer = store.writer(1)
        writer.write(b"x" * 1000)
        with pytest.raises(
            ResourceExhaustedError, match=r"content cannot be written at offset \d+: No space left"
        ):
            writer.write(b"y" * 100_000)
        assert (writer.offset, store.ingest_stat(1)[0]) == (1000, 1000)  # type: ignore[index]
        writer.write(b"z")
        assert writer.digest() == digest_of(b"x" * 1000 + b"z")
        writer.close()
    finally:
        os.close(fd)


def test_a_snapshot_that_cannot_be_made(
    local: LocalStorage, scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "")

    overlay = local.storage.snapshotters["overlayfs"]
    monkeypatch.setattr(overlay.driver, "create", full)
    with pytest.raises(ResourceExhaustedError, match=r'^cannot make snapshot "key": No space left on device$'):
        overlay.bind(scope).prepare("key")
    assert list(overlay.bind(scope).walk()) == []


def test_events(local: LocalStorage, scope: Scope) -> None:
    digest = put(local.storage.content.bind(scope), b"abc")
    snapshots = local.storage.snapshotters["overlayfs"].bind(scope)
    snapshots.prepare("key")
    snapshots.commit("name", "key")
    snapshots.view("view", "name")
    snapshots.remove("view")
    local.storage.content.bind(scope).delete(digest)
    found = [(topic, str(event).split("\n")) for _, topic, event in local.events.published]
    overlay = 'snapshotter: "overlayfs"'
    assert found == [
        ("/content/create", [f'digest: "{digest}"', "size: 3", ""]),
        ("/snapshot/prepare", ['key: "key"', overlay, ""]),
        ("/snapshot/commit", ['key: "key"', 'name: "name"', overlay, ""]),
        ("/snapshot/remove", ['key: "view"', overlay, ""]),
        ("/content/delete", [f'digest: "{digest}"', ""]),
    ]
    assert {namespace for namespace, _, _ in local.events.published} == {scope.namespace}
    with pytest.raises(NotFoundError):
        local.storage.content.bind(scope).info(digest)
