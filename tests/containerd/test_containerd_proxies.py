# SPDX-License-Identifier: Apache-2.0
"""Proxy plugins: snapshotters and differs that another process serves over a socket."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support import images, proxy_plugins
from support.containerd import Daemon, wait_until
from support.proxy_plugins import APPLIED, LAYER, MEDIA_TYPE

from orlop.api.snapshots_pb2 import Info
from orlop.api.types_pb2 import Descriptor
from orlop.containerd.client import Client
from orlop.containerd.client.snapshots import Snapshots
from orlop.errdefs import (
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
    NotImplementedByUsError,
    OrlopError,
    UnavailableError,
)

pytestmark = pytest.mark.root

IMAGE = "docker.io/library/busybox:latest"
REF = "containerd.io/snapshot.ref"


class Far:
    """The other process."""

    def __init__(self) -> None:
        self.base = tempfile.mkdtemp(prefix="ocp-", dir="/tmp")
        self.address = f"{self.base}/s"
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        program = os.path.abspath(proxy_plugins.__file__)
        self.process = subprocess.Popen([sys.executable, program, self.base], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def config(self) -> str:
        return f"""version = 3
            [plugins."io.containerd.service.v1.diff-service"]
              default = ["applier", "walking"]
            [proxy_plugins.far]
              type = "snapshot"
              address = "{self.address}"
              capabilities = ["remap-ids"]
            [proxy_plugins.far.exports]
              root = "/far"
            [proxy_plugins.applier]
              type = "diff"
              address = "unix://{self.address}"
        """


@pytest.fixture(scope="module")
def far() -> Iterator[Far]:
    far = Far()
    far.start()
    yield far
    far.kill()
    shutil.rmtree(far.base)


@pytest.fixture(scope="module")
def daemon(far: Far) -> Iterator[Daemon]:
    daemon = Daemon("orlop")
    Path(daemon.base, "config.toml").write_text(far.config())
    daemon.start("-c", f"{daemon.base}/config.toml")
    yield daemon
    daemon.remove()


@pytest.fixture
async def client(daemon: Daemon) -> AsyncIterator[Client]:
    async with Client(daemon.address, daemon.namespace) as client:
        yield client
        assert [info.name async for info in client.snapshots("far").list()] == []


@pytest.fixture
async def remote(far: Far, daemon: Daemon) -> AsyncIterator[Snapshots]:
    """What the other process has."""
    async with Client(far.address, daemon.namespace) as client:
        yield client.snapshots("far")


async def names(snapshots: Snapshots) -> list[str]:
    return [info.name async for info in snapshots.list()]


async def test_life_of_snapshots(client: Client, remote: Snapshots) -> None:
    near = client.snapshots("far")
    keep = {"containerd.io/gc.root": "yes"}
    (mount,) = await near.prepare("a", labels={"x": "y", **keep})
    Path(mount.source, "file").write_text("data")
    assert [(m.source, list(m.options)) for m in await near.mounts("a")] == [(mount.source, list(mount.options))]
    assert (await near.usage("a")).size > 0
    await near.commit("layer", "a", keep)
    with pytest.raises(FailedPreconditionError):
        await near.mounts("layer")
    with pytest.raises(AlreadyExistsError):
        await near.prepare("layer")
    (upper,) = await near.prepare("b", "layer", keep)
    assert Path(upper.source, "file").read_text() == "data"
    (view,) = await near.view("v", "layer", keep)
    assert "ro" in view.options
    found = {info.name: info async for info in near.list()}
    assert {name: info.parent for name, info in found.items()} == {"layer": "", "b": "layer", "v": "layer"}
    updated = await near.update(Info(name="b", labels={"k": "l"}), "labels.k")
    assert dict(updated.labels) == {"k": "l", **keep}
    assert len(await names(remote)) == 3
    assert all(name.startswith(f"{client.namespace}/") for name in await names(remote))
    with pytest.raises(FailedPreconditionError, match="child"):
        await near.remove("layer")
    for key in ("b", "v", "layer"):
        await near.remove(key)
        with pytest.raises(NotFoundError):
            await near.stat(key)
    await near.cleanup()
    assert await names(remote) == []
    with pytest.raises(NotFoundError):
        await near.prepare("c", "none")
    assert await names(remote) == []


async def test_collection(client: Client, remote: Snapshots) -> None:
    """What nothing refers to is removed at the other process too, children before their parents."""
    await client.leases.create("l")
    near = client.with_lease("l").snapshots("far")
    await near.prepare("a")
    await near.commit("one", "a")
    await near.prepare("b", "one")
    await near.commit("two", "b")
    await near.prepare("c", "two")
    assert len(await names(remote)) == 3
    await client.leases.delete("l", sync=True)
    assert await names(near) == []
    assert await names(remote) == []


async def test_layer_that_is_there_by_itself(client: Client, remote: Snapshots) -> None:
    await client.leases.create("l")
    near = client.with_lease("l").snapshots("far")
    with pytest.raises(AlreadyExistsError, match="target snapshot"):
        await near.prepare("extract-1", "", {REF: LAYER})
    info = await near.stat(LAYER)
    assert (info.parent, info.name) == ("", LAYER)
    assert await names(near) == [LAYER]
    await near.prepare("c", LAYER)
    await client.leases.delete("l", sync=True)
    assert await names(remote) == []


async def test_differs_in_order(client: Client) -> None:
    (mount,) = await client.snapshots("native").prepare("a", labels={"containerd.io/gc.root": "yes"})
    layer = Descriptor(media_type=MEDIA_TYPE, digest=LAYER, size=1)
    assert (await client.diff.apply(layer, [mount])).digest == APPLIED
    # What the first cannot, the next does: here, that there is no such content.
    with pytest.raises(NotFoundError):
        await client.diff.apply(
            Descriptor(media_type="application/vnd.oci.image.layer.v1.tar", digest=LAYER), [mount]
        )
    with pytest.raises(NotImplementedByUsError):
        await client.diff.apply(Descriptor(media_type="application/x-other", digest=LAYER), [mount])
    made = await client.diff.diff([], [mount])
    assert made.media_type.endswith("tar+gzip")
    await client.snapshots("native").remove("a")


def test_run_on_it(daemon: Daemon) -> None:
    """A container whose file system another process keeps."""
    flags = ["--snapshotter", "far"]
    daemon.ctr("images", "import", *flags, str(images.archive("busybox"))).ok()
    done = daemon.ctr("run", "--rm", *flags, IMAGE, "r", "sh", "-c", "echo hi > /x; cat /x")
    assert (done.status, done.out) == (0, "hi\n")
    listing = daemon.ctr("plugins", "ls").ok()
    row = next(line for line in listing.splitlines() if " far " in line)
    assert row.split()[0] == "io.containerd.snapshotter.v1"
    daemon.ctr("images", "rm", "--sync", IMAGE).ok()
    assert daemon.ctr("snapshots", *flags, "ls").ok().splitlines()[1:] == []


async def test_other_process_is_away(far: Far, client: Client, remote: Snapshots, daemon: Daemon) -> None:
    near = client.snapshots("far")
    keep = {"containerd.io/gc.root": "yes"}
    await near.prepare("a", labels=keep)
    far.kill()
    for call in (near.prepare("b"), near.mounts("a"), near.commit("c", "a"), near.usage("a")):
        with pytest.raises(UnavailableError):
            await call
    assert await names(near) == ["a"]
    await near.remove("a")  # what it has is removed when it is back
    far.start()
    await near.cleanup()
    assert await names(remote) == []
    # Nor does the daemon need it to start.
    far.kill()
    daemon.stop()
    daemon.start("-c", f"{daemon.base}/config.toml")
    assert await names(near) == []
    far.start()


@pytest.mark.parametrize("point", ["snapshot.remote.after_prepare", "snapshot.remote.after_commit"])
async def test_daemon_dies(far: Far, daemon: Daemon, remote: Snapshots, point: str) -> None:
    daemon.stop()
    flags = ("-c", f"{daemon.base}/config.toml")
    daemon.start(*flags, environment={"ORLOP_FAILPOINTS": f"{point}=kill"})
    async with Client(daemon.address, daemon.namespace) as client:
        near = client.snapshots("far")
        with pytest.raises(OrlopError):
            await near.prepare("a", labels={"containerd.io/gc.root": "yes"})
            await near.commit("one", "a", {"containerd.io/gc.root": "yes"})
        assert daemon.process is not None
        daemon.process.wait(20)
        daemon.start(*flags)
        for key in await names(near):
            await near.remove(key)
        await near.prepare("a", labels={"containerd.io/gc.root": "yes"})
        await near.commit("one", "a", {"containerd.io/gc.root": "yes"})
        await near.remove("one")
        await near.cleanup()
    assert await names(remote) == []
    daemon.stop()
    daemon.start(*flags)


def test_plugins_that_are_missing() -> None:
    for text, complaint in (
        ("required_plugins = ['io.containerd.snapshotter.v1.none']", "required_plugins: there is no plugin"),
        ("[plugins.'io.containerd.service.v1.diff-service']\ndefault = ['none']", "differ none: expected some of"),
        ("disabled_plugins = ['io.containerd.snapshotter.v1.overlayfs']", 'snapshotter "overlayfs" is unknown'),
    ):
        daemon = Daemon("orlop")
        Path(daemon.base, "c.toml").write_text(f"version = 3\n{text}\n")
        with pytest.raises(AssertionError, match=complaint):
            daemon.start("-c", f"{daemon.base}/c.toml")
        assert daemon.process is not None
        assert daemon.process.wait(10) == 1
        daemon.process = None
        daemon.remove()
    daemon = Daemon("orlop")
    Path(daemon.base, "c.toml").write_text(
        "version = 3\ndisabled_plugins = ['io.containerd.snapshotter.v1.native']\n"
    )
    daemon.start("-c", f"{daemon.base}/c.toml")
    wait_until(lambda: "native" not in daemon.ctr("plugins", "ls").ok())
    daemon.remove()
