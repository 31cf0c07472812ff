# SPDX-License-Identifier: Apache-2.0
"""Applying and making layers through the Diff service, ours and the original's, and the differ in process."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import grpc
import pytest
from support import images
from support.containerd import Daemon
from support.layers import RemoteLayers, Tree, change, plain_of, tree_of
from support.snapshotter_suite import ROOT
from support.storage import (
    LocalStorage,
    digest_of,
    opened,
    put,
    read,
)

from orlop.api import types_pb2
from orlop.containerd.core.diff import Descriptor
from orlop.containerd.core.mount import Mount, from_proto, to_proto
from orlop.containerd.core.namespaces import Scope
from orlop.containerd.plugins import layer_workers
from orlop.errdefs import (
    DataLossError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    NotImplementedByUsError,
    ResourceExhaustedError,
)
from orlop.unix import mount as unix_mount

pytestmark = pytest.mark.root

TAR = "application/vnd.oci.image.layer.v1.tar"
PACKAGES = "/usr/lib/python3/dist-packages"  # some thousand files


@pytest.fixture
def remote(channel: grpc.Channel, scope: Scope) -> RemoteLayers:
    """The Diff service of each daemon."""
    return RemoteLayers(channel, scope)


@pytest.fixture(scope="module")
def pair() -> Iterator[dict[str, RemoteLayers]]:
    """Both daemons at once."""
    with contextlib.ExitStack() as stack:
        found = {}
        for kind in ("orlop", "original"):
            daemon = Daemon(kind).start()
            stack.callback(daemon.remove)
            channel = stack.enter_context(grpc.insecure_channel(f"unix:{daemon.address}"))
            found[kind] = RemoteLayers(channel, Scope("pair"))
        yield found


@pytest.mark.original
@pytest.mark.parametrize("make", [images.layers, images.busybox, lambda: images.with_zstd(images.layers())])
def test_both_daemons_make_the_same_tree(
    pair: dict[str, RemoteLayers], make: Callable[[], images.BuiltImage], scope: Scope
) -> None:
    trees: dict[str, Tree] = {}
    start = time.time_ns()
    for kind, remote in pair.items():
        own = RemoteLayers(remote.content._channel, scope)
        with opened(own.snapshots.view("view", own.unpack(make()), ROOT)) as root:
            trees[kind] = tree_of(root)
    for name, entry in trees["original"].items():
        if entry[3] > start:  # type: ignore[operator] # it does not restore the times of directories of other layers
            for tree in trees.values():
                tree[name] = (*tree[name][:3], 0, *tree[name][4:])
    assert trees["orlop"] == trees["original"]
    assert len(trees["orlop"]) > 5


@pytest.mark.parametrize("media_type", ["", TAR, f"{TAR}+gzip"])
def test_a_difference_applied_gives_the_same_tree(daemon: Daemon, remote: RemoteLayers, media_type: str) -> None:
    base = remote.unpack(images.busybox())
    box = remote.snapshots.prepare("box", base, ROOT)
    with opened(box) as root:
        change(root)
        wanted = tree_of(root)
    view = remote.snapshots.view("base-view", base, ROOT)
    layer = remote.compare(view, box, media_type)
    assert layer.media_type == (media_type or f"{TAR}+gzip")
    data = read(remote.content, layer.digest)
    assert len(data) == layer.size
    labels = remote.content.info(layer.digest).labels
    if media_type != TAR:  # containerd 1.6 says nothing about what is not compressed
        assert labels["containerd.io/uncompressed"] == digest_of(plain_of(data))
    again = remote.snapshots.prepare("again", base, ROOT)
    assert remote.apply(layer, again).digest == digest_of(plain_of(data))
    with opened(again) as root:
        found = tree_of(root)
    if daemon.kind == "original":  # which writes whole seconds only
        wanted, found = _in_seconds(wanted), _in_seconds(found)
    assert {name: entry for name, entry in found.items() if entry != wanted.get(name)} == {}
    assert found.keys() == wanted.keys()


def _in_seconds(tree: Tree) -> Tree:
    return {name: (*entry[:3], entry[3] // 10**9, *entry[4:]) for name, entry in tree.items()}  # type: ignore[operator]


def test_a_difference_from_nothing(remote: RemoteLayers) -> None:
    box = remote.snapshots.prepare("box", "", ROOT)
    with opened(box) as root:
        os.mkdir(f"{root}/etc")
        change_free = f"{root}/etc/hostname"
        with open(change_free, "w", encoding="utf-8") as file:
            file.write("x")
    layer = remote.compare([], box, TAR)
    names = subprocess.run(["tar", "t"], input=read(remote.content, layer.digest), capture_output=True, check=True)
    assert names.stdout.decode().split() == ["etc/", "etc/hostname"]


class InProcess:
    """The differ of an open storage."""

    def __init__(self, local: LocalStorage, scope: Scope) -> None:
        self.local = local
        self.scope = scope
        self.content = local.storage.content.bind(scope)
        self.snapshots = local.storage.snapshotters["overlayfs"].bind(scope)

    def apply(self, layer: Descriptor, mounts: list[Mount]) -> Descriptor:
        """Apply a layer."""
        return asyncio.run(self.local.storage.differ.apply(self.scope, layer, mounts, sync=True))

    def compare(self, left: list[Mount], right: list[Mount], **options: object) -> Descriptor:
        """Make a layer."""
        return asyncio.run(self.local.storage.differ.compare(self.scope, left, right, **options))  # type: ignore[arg-type]

    def layer(self, data: bytes, media_type: str = TAR) -> Descriptor:
        """A layer in the content store."""
        return Descriptor(media_type, put(self.content, data), len(data))


@pytest.fixture
def differ(local: LocalStorage, scope: Scope) -> InProcess:
    """The differ in process."""
    return InProcess(local, scope)


def tar(*arguments: str) -> bytes:
    """What tar(1) makes."""
    return subprocess.run(["tar", "-c", *arguments], check=True, capture_output=True).stdout


def test_what_cannot_be_applied(differ: InProcess) -> None:
    mounts = differ.snapshots.prepare("box")
    layer = differ.layer(tar("-C", "/etc", "hostname"))
    with pytest.raises(NotImplementedByUsError, match="application/json"):
        differ.apply(layer._replace(media_type="application/json"), mounts)
    with pytest.raises(NotFoundError):
        differ.apply(layer._replace(digest=digest_of(b"absent")), mounts)
    with pytest.raises(InvalidArgumentError, match="read-only"):
        differ.apply(layer, differ.snapshots.view("view"))
    for bad in ([], mounts * 2):
        with pytest.raises(InvalidArgumentError, match="one mount"):
            differ.apply(layer, bad)
    with pytest.raises(NotFoundError, match="/absent"):
        differ.apply(layer, [Mount("bind", "/absent", ("rbind", "rw"))])
    assert os.listdir(mounts[0].source) == []


def test_damaged_content_is_found(differ: InProcess) -> None:
    mounts = differ.snapshots.prepare("box")
    layer = differ.layer(tar("-C", "/etc", "hostname", "hosts"))
    path = differ.local.storage.content.local.path(layer.digest)
    os.chmod(path, 0o600)
    with open(path, "r+b") as file:
        file.seek(600)  # inside the first file's data
        file.write(b"?")
    with pytest.raises(DataLossError, match=layer.digest):
        differ.apply(layer, mounts)


def test_a_full_disk(differ: InProcess) -> None:
    layer = differ.layer(tar("-C", "/bin", "busybox"))
    fd = unix_mount.detached_mount("tmpfs", "tmpfs", ("size=64k",))
    try:
        with pytest.raises(ResourceExhaustedError, match="No space left on device"):
            differ.apply(layer, [Mount("bind", f"/proc/self/fd/{fd}", ("rbind", "rw"))])
    finally:
        os.close(fd)


def test_cancellation_waits_for_the_worker(differ: InProcess) -> None:
    layer = differ.layer(tar("-C", PACKAGES, "."))

    async def scenario() -> None:
        mounts = differ.snapshots.prepare("box")
        task = asyncio.create_task(differ.local.storage.differ.apply(differ.scope, layer, mounts))
        while not os.listdir(mounts[0].source):  # noqa: ASYNC110
            await asyncio.sleep(0.001)  # the thread says nothing until it ends
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert workers() == []
        after = files_below(mounts[0].source)
        await asyncio.sleep(0.05)
        assert files_below(mounts[0].source) == after

    asyncio.run(scenario())


def files_below(root: str) -> int:
    """How many files there are."""
    return sum(len(files) for _, _, files in os.walk(root))


def workers() -> list[int]:
    """The processes that this one has started to unpack layers."""
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="utf-8") as file:
        children = [int(pid) for pid in file.read().split()]
    found = []
    for pid in children:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            if b"layer_worker" in file.read():
                found.append(pid)
    return found


def test_a_worker_is_used_again_and_ends_when_idle(differ: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_workers, "IDLE_TIME", 0.05)
    layer = differ.layer(tar("-C", "/etc", "hostname"))
    apply = differ.local.storage.differ.apply

    async def scenario() -> None:
        await apply(differ.scope, layer, differ.snapshots.prepare("one"))
        first = workers()
        await apply(differ.scope, layer, differ.snapshots.prepare("two"))
        assert workers() == first
        assert len(first) == 1
        await asyncio.sleep(0.1)
        assert workers() == []
        await apply(differ.scope, layer, differ.snapshots.prepare("three"))

    asyncio.run(scenario())
    differ.local.storage.differ.close()
    assert workers() == []


def test_a_worker_that_dies(differ: InProcess) -> None:
    layer = differ.layer(tar("-C", PACKAGES, "."))

    async def scenario() -> None:
        mounts = differ.snapshots.prepare("box")
        task = asyncio.create_task(differ.local.storage.differ.apply(differ.scope, layer, mounts))
        while not os.listdir(mounts[0].source):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        for pid in workers():
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(InternalError, match=r"layer worker \d+ has died"):
            await task
        # The next one gets another process.
        await differ.local.storage.differ.apply(differ.scope, layer, differ.snapshots.prepare("next"))
        for pid in workers():
            os.kill(pid, signal.SIGKILL)  # while it is idle: nobody notices
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222
        await differ.local.storage.differ.apply(differ.scope, layer, differ.snapshots.prepare("after"))

    asyncio.run(scenario())


def test_a_worker_ends_with_its_daemon(differ: InProcess) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mounts = differ.snapshots.prepare("box")
    layer = differ.layer(tar("-C", PACKAGES, "."))
    root = os.open(mounts[0].source, os.O_RDONLY | os.O_DIRECTORY)
    reader = differ.content.reader(layer.digest)
    with ours, theirs:
        command = [sys.executable, "-P", "-m", "orlop.containerd.plugins.layer_worker", str(theirs.fileno())]
        process = subprocess.Popen(command, pass_fds=(theirs.fileno(),))
        theirs.close()
        job = {"digest": layer.digest, "opaque": "", "sync": False}
        socket.send_fds(ours, [json.dumps(job).encode()], [reader.fileno(), root])
        while not os.listdir(root):
            time.sleep(0.001)
    assert process.wait(5) == 0
    assert files_below(mounts[0].source) < files_below(PACKAGES)
    os.close(root)
    reader.close()


def test_equal_trees_give_equal_layers(differ: InProcess) -> None:
    digests = set()
    for name in ("one", "two"):
        mounts = differ.snapshots.prepare(name)
        differ.apply(differ.layer(tar("-C", "/etc", "hostname", "hosts", "host.conf")), mounts)
        digests.add(differ.compare([], mounts).digest)
    assert len(digests) == 1


def test_an_epoch_bounds_times(differ: InProcess) -> None:
    mounts = differ.snapshots.prepare("box")
    with opened(mounts) as root, open(f"{root}/file", "w", encoding="utf-8"):
        pass
    layer = differ.compare([], mounts, media_type=TAR, epoch=10**9)
    listing = subprocess.run(
        ["tar", "tv", "--utc", "--full-time"],
        input=read(differ.content, layer.digest),
        capture_output=True,
        check=True,
    )
    assert b"1970-01-01 00:00:01" in listing.stdout


def test_nothing_is_left_of_a_failed_difference(differ: InProcess) -> None:
    mounts = differ.snapshots.prepare("box")
    with opened(mounts) as root, open(f"{root}/.wh.file", "w", encoding="utf-8"):
        pass
    with pytest.raises(InvalidArgumentError, match="whiteout"):
        differ.compare([], mounts, ref="diff")
    with pytest.raises(NotImplementedByUsError):
        differ.compare([], mounts, media_type="application/x-rar")
    assert differ.content.statuses() == []
    assert list(differ.content.walk()) == []


def test_a_running_container_is_compared(differ: InProcess) -> None:
    differ.snapshots.prepare("base-active")
    differ.snapshots.commit("base", "base-active")
    mounts = differ.snapshots.prepare("box", "base")
    with opened(mounts) as root:
        with open(f"{root}/file", "w", encoding="utf-8") as file:
            file.write("x")
            file.flush()
            layer = differ.compare(differ.snapshots.view("view", "base"), mounts, media_type=TAR)
        os.unlink(f"{root}/file")
    assert b"file" in read(differ.content, layer.digest)


def test_mounts_travel() -> None:
    mounts = [Mount("overlay", "overlay", ("lowerdir=/a:/b", "index=off"))]
    assert from_proto(to_proto(mounts)) == mounts
    assert mounts[0].option("lowerdir") == "/a:/b"
    with pytest.raises(InvalidArgumentError, match=r"mounts\[0\].type"):
        from_proto([types_pb2.Mount(source="/x")])
