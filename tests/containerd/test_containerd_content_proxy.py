# SPDX-License-Identifier: Apache-2.0
"""A content store as a proxy plugin: orlop-containerd over the content of another one, and of Debian's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support import images
from support.containerd import Daemon

from orlop.containerd.client import Client
from orlop.containerd.plugins.content_remote import NAMESPACE, OWNED
from orlop.errdefs import FailedPreconditionError, NotFoundError, UnavailableError

pytestmark = pytest.mark.root

IMAGE = "docker.io/library/busybox:latest"
CONFIG = """version = 3
[proxy_plugins.far]
  type = "content"
  address = "{address}"
"""


@pytest.fixture(scope="module", params=["orlop", pytest.param("original", marks=pytest.mark.original)])
def far(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """The other process."""
    daemon = Daemon(request.param).start()
    yield daemon
    daemon.remove()


@pytest.fixture(scope="module")
def near(far: Daemon) -> Iterator[Daemon]:
    """Ours, without content of its own."""
    daemon = Daemon("orlop")
    Path(daemon.base, "c.toml").write_text(CONFIG.format(address=far.address))
    daemon.start("-c", f"{daemon.base}/c.toml")
    yield daemon
    daemon.remove()


@pytest.fixture
async def client(near: Daemon) -> AsyncIterator[Client]:
    """A client of ours; afterwards nothing of ours is left in the other process."""
    async with Client(near.address, near.namespace) as client:
        yield client
        await client.leases.create("collect")
        await client.leases.delete("collect", sync=True)


async def theirs(far: Daemon) -> dict[str, dict[str, str]]:
    async with Client(far.address, NAMESPACE) as client:
        return {info.digest: dict(info.labels) async for info in client.content.list()}


async def test_life_of_a_blob(client: Client, near: Daemon, far: Daemon) -> None:
    data = os.urandom(3 << 20)
    digest = images.digest_of(data)
    async with client.content.writer("w", size=len(data)) as writer:
        await writer.write(data[: 1 << 20])
    assert await theirs(far) == {}
    async with client.content.writer("w", size=len(data), expected=digest) as writer:
        assert writer.offset == 1 << 20
        await writer.write(data[1 << 20 :])
        with pytest.raises(FailedPreconditionError):
            await writer.commit(size=1, expected=digest)
    async with client.content.writer("w", size=len(data), expected=digest) as writer:
        assert (
            await writer.commit(size=len(data), expected=digest, labels={"containerd.io/gc.root": "x"}) == digest
        )
    assert OWNED in (await theirs(far))[digest]
    found = await client.content.info(digest)
    assert (found.size, dict(found.labels)) == (len(data), {"containerd.io/gc.root": "x"})
    assert await client.content.read_blob(digest) == data
    assert [part async for part in client.content.read(digest, 5, 7)] == [data[5:12]]
    assert not os.listdir(f"{near.root}/io.containerd.content.v1.content/ingest")
    await client.content.delete(digest)
    await client.leases.create("now")
    await client.leases.delete("now", sync=True)
    assert await theirs(far) == {}
    with pytest.raises(NotFoundError):
        await client.content.info(digest)


async def test_what_others_have_there(client: Client, far: Daemon) -> None:
    """It spares the bytes, and is not ours to delete."""
    async with Client(far.address, NAMESPACE) as other:
        digest = images.digest_of(b"of another")
        await other.content.write_blob("o", b"of another", digest, {"containerd.io/gc.root": "x"})
        await client.content.write_blob("w", b"of another", digest, {"containerd.io/gc.root": "x"})
        await client.content.delete(digest)
        await client.leases.create("now")
        await client.leases.delete("now", sync=True)
        assert OWNED not in (await theirs(far))[digest]
        await other.content.delete(digest)


def test_run(near: Daemon, far: Daemon) -> None:
    """An image is imported, unpacked and run, and exported again; a restart finds it."""
    near.ctr("images", "import", images.archive("busybox")).ok()
    assert (
        near.ctr("run", "--rm", "--runtime", "io.containerd.orlop.v2", IMAGE, "c", "echo", "far").ok() == "far\n"
    )
    assert not os.listdir(f"{near.root}/io.containerd.content.v1.content/blobs/sha256")
    near.stop()
    near.start("-c", f"{near.base}/c.toml")
    near.ctr("images", "export", f"{near.base}/out.tar", IMAGE).ok()
    assert "far" in near.ctr("plugins", "ls", "type==io.containerd.content.v1").ok()
    near.ctr("images", "rm", "--sync", IMAGE).ok()


async def test_other_process_is_away() -> None:
    """Requests fail, records stay, and all is well when it is back."""
    far = Daemon("orlop").start()
    near = Daemon("orlop")
    Path(near.base, "c.toml").write_text(CONFIG.format(address=far.address))
    near.start("-c", f"{near.base}/c.toml")
    digest = images.digest_of(b"kept")
    async with Client(near.address, near.namespace) as client:
        await client.content.write_blob("w", b"kept", digest, {"containerd.io/gc.root": "x"})
        far.kill()
        with pytest.raises(UnavailableError):
            await client.content.read_blob(digest)
        with pytest.raises(UnavailableError):
            await client.content.write_blob("v", b"new", images.digest_of(b"new"))
        near.stop()
        near.start("-c", f"{near.base}/c.toml")
        far.start()
    async with Client(near.address, near.namespace) as client:
        for _ in range(300):  # the connection is tried again now and then
            try:
                assert await client.content.read_blob(digest) == b"kept"
                break
            except UnavailableError:
                await asyncio.sleep(0.1)
        else:
            pytest.fail("the content store is not found again")
    near.remove()
    far.remove()


def test_refusals(tmp_path: Path) -> None:
    daemon = Daemon("orlop")
    text = CONFIG.format(address="/tmp/x") + CONFIG.replace("far", "near").partition("\n")[2].format(
        address="/tmp/y"
    )
    Path(daemon.base, "c.toml").write_text(text)
    with pytest.raises(AssertionError, match="at most one of the type content, got far, near"):
        daemon.start("-c", f"{daemon.base}/c.toml")
    assert daemon.process is not None
    assert daemon.process.wait(30) == 1
    daemon.process = None
    daemon.remove()
