# SPDX-License-Identifier: Apache-2.0
"""Pulling through containerd's services: orlop's daemon and the original."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator

import pytest
from support import images
from support.fake_registry import FakeRegistry, fake_registry
from support.image_daemons import (
    client,
    containerd_daemon,
    content_of,
    fresh_image,
    mounted,
    snapshots_of,
)

from orlop.codec import decode, encode
from orlop.containerd.client import Client
from orlop.containerd.client.fetch import Progress, ingest_ref
from orlop.containerd.client.pull import Puller, pull
from orlop.errdefs import DataLossError, InvalidArgumentError, NotFoundError, UnavailableError
from orlop.oci.build import BuiltImage, build_index
from orlop.oci.distribution import AuthConfig
from orlop.oci.image import Manifest, chain_ids, digest_of
from orlop.oci.platforms import parse_platform
from orlop.registry import RegistryConfig

__all__ = ["client", "containerd_daemon"]

pytestmark = pytest.mark.root

QUICK = RegistryConfig(backoff=0.001, attempts=3)


@pytest.fixture
async def fake() -> AsyncIterator[FakeRegistry]:
    """A registry that does as it is told."""
    async with fake_registry() as running:
        yield running


def _layers(image: BuiltImage) -> list[str]:
    return [layer.digest for layer in decode(image.blobs[image.target.digest], Manifest).layers]


def _blob_requests(fake: FakeRegistry, digest: str) -> list[str | None]:
    """The Range headers of the requests for a blob."""
    return [
        headers.get("Range")
        for method, path, headers in fake.requests
        if method == "GET" and path.endswith(f"/blobs/{digest}")
    ]


@pytest.mark.parametrize("name", ["layers", "schema2", "zstd"])
async def test_file_system_of_an_image(client: Client, fake: FakeRegistry, name: str) -> None:
    """Whiteouts, opaque directories, links, owners, modes, attributes and names arrive as the layers say."""
    fake.add(images.IMAGES[name][1]())
    pulled = await pull(client, f"{fake.host}/{name}:latest", config=QUICK)
    top = chain_ids(pulled.content.image.rootfs.diff_ids)[-1]
    mounts = await client.snapshots().view("look", top, {"containerd.io/gc.root": "test"})
    try:
        with mounted(mounts) as root:
            _check_layers_image(root)
    finally:
        await client.snapshots().remove("look")


def _check_layers_image(root: os.PathLike[str]) -> None:
    path = os.fspath(root)
    assert not os.path.lexists(f"{path}/gone")
    assert os.listdir(f"{path}/tree/inner") == ["kept"]
    assert os.listdir(f"{path}/opaque") == ["new"]
    assert os.listdir(f"{path}/replaced") == ["inside"]
    assert _text(f"{path}/changed") == "two\n"
    assert os.stat(f"{path}/first").st_ino == os.stat(f"{path}/second").st_ino
    assert stat.S_IMODE(os.stat(f"{path}/setuid").st_mode) == 0o4755
    assert stat.S_IMODE(os.stat(f"{path}/setgid").st_mode) == 0o2755
    owned = os.stat(f"{path}/owned")
    assert (owned.st_uid, owned.st_gid, int(owned.st_mtime)) == (1234, 5678, 1_600_000_000)
    assert os.getxattr(f"{path}/xattr", "user.orlop") == b"v\xff\x00w"
    assert os.getxattr(f"{path}/capable", "security.capability") == images.CAPABILITY
    assert stat.S_ISFIFO(os.stat(f"{path}/fifo").st_mode)
    null = os.stat(f"{path}/null")
    assert stat.S_ISCHR(null.st_mode) and null.st_rdev == os.makedev(1, 3)
    assert os.readlink(f"{path}/absolute-link") == "/etc/passwd"
    for odd in ("with space", "ünï-日本-🚢", "new\nline", "-dash", "..dots", images.LONG_NAME):
        assert os.path.isfile(f"{path}/odd/{odd}"), odd
    assert os.path.isfile(os.fsencode(path) + b"/odd/latin1-\xe9")
    assert _text(f"{path}/{images.LONG_PATH}") == "long path\n"
    assert stat.S_IMODE(os.stat(f"{path}/tmp").st_mode) == 0o1777


def _text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


async def test_pull_again_and_another_image_under_the_name(client: Client, fake: FakeRegistry) -> None:
    """Up to date costs no blob; a moved tag moves the name and tells what it meant before."""
    first, second = fresh_image(), fresh_image()
    name = f"{fake.host}/test/app:latest"
    fake.add(first)
    assert (await pull(client, name, config=QUICK)).changed
    fake.requests.clear()
    assert not (await pull(client, name, config=QUICK)).changed
    assert fake.paths() == ["/v2/"]
    fake.add(second)
    pulled = await pull(client, name, config=QUICK)
    assert pulled.changed
    assert pulled.previous is not None and pulled.previous.digest == first.target.digest
    assert (await client.images.get(name)).target.digest == second.target.digest


async def test_progress(client: Client, fake: FakeRegistry) -> None:
    """Each layer goes through its steps in order; those beyond the slots wait."""
    image = fresh_image(layer_count=5)
    fake.add(image)
    seen: list[Progress] = []
    await Puller(client, QUICK, slots=2).pull(f"{fake.host}/test/app:latest", progress=seen.append)
    assert seen[0].step == "resolved"
    waited = 0
    for digest in _layers(image):
        steps = [item.step for item in seen if item.descriptor.digest == digest and item.step != "downloading"]
        waited += "waiting" in steps
        steps = [step for step in steps if step != "waiting"]
        assert steps == ["fetching", "verifying", "downloaded", "extracting", "extracted"]
    assert waited == 3
    extracted = [item.descriptor.digest for item in seen if item.step == "extracted"]
    assert extracted == _layers(image)


class Steps:
    """Collects a pull's steps; `until` waits for one."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._more = asyncio.Event()

    def __call__(self, progress: Progress) -> None:
        self.seen.append(progress.step)
        self._more.set()

    async def until(self, step: str) -> None:
        async with asyncio.timeout(20):
            while step not in self.seen:
                self._more.clear()
                await self._more.wait()


async def test_pulls_at_the_same_time_share(client: Client, fake: FakeRegistry) -> None:
    """Three pulls of one image fetch each layer once, and each hears of the progress."""
    image = fresh_image(layer_count=3)
    fake.add(image)
    fake.gate = asyncio.Event()
    puller = Puller(client, QUICK)
    seen = [Steps(), Steps(), Steps()]
    for number in range(3):
        fake.tags[f"v{number}"] = image.target.digest
    pulls = [
        asyncio.create_task(puller.pull(f"{fake.host}/test/app:v{number}", progress=seen[number]))
        for number in range(3)
    ]
    for steps in seen:
        await steps.until("downloading")
    fake.gate.set()
    for pulled in await asyncio.gather(*pulls):
        assert pulled.target.digest == image.target.digest
    for digest in _layers(image):
        assert len(_blob_requests(fake, digest)) == 1
    assert all(steps.seen.count("extracted") + steps.seen.count("exists") == 3 for steps in seen)


async def test_next_pull_takes_over_from_a_cancelled_one(client: Client, fake: FakeRegistry) -> None:
    """Whoever goes away does not take the others' image along."""
    image = fresh_image()
    fake.add(image)
    fake.gate = asyncio.Event()
    puller = Puller(client, QUICK)
    name = f"{fake.host}/test/app:latest"
    leading, following = Steps(), Steps()
    first = asyncio.create_task(puller.pull(name, progress=leading))
    await leading.until("downloading")
    second = asyncio.create_task(puller.pull(name, progress=following))
    await following.until("downloading")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    fake.gate.set()
    assert (await second).changed


async def test_cut_off_in_a_layer(client: Client, fake: FakeRegistry) -> None:
    """It goes on by itself; where it cannot, the next pull does, and until then there is no image."""
    image = fresh_image(400)
    (digest,) = _layers(image)
    fake.add(image)
    fake.cuts = [100_000, 0, 0, 0]
    name = f"{fake.host}/test/app:latest"
    with pytest.raises(UnavailableError, match="unexpected EOF"):
        await pull(client, name, config=QUICK)
    assert await client.images.list() == []
    assert await snapshots_of(client) == set()
    fake.cuts = []
    fake.requests.clear()
    assert (await pull(client, name, config=QUICK)).changed
    (resumed,) = _blob_requests(fake, digest)
    # An ingestion without a lease may be collected in between; then it begins again.
    assert resumed in (None, "bytes=100000-")


async def test_rubbish_left_by_an_earlier_transfer(client: Client, fake: FakeRegistry) -> None:
    """A resumed layer that turns out wrong is fetched once more from the start."""
    image = fresh_image(400)
    fake.add(image)
    layer = decode(image.blobs[image.target.digest], Manifest).layers[0]
    await client.leases.create("keep")
    leased = client.with_lease("keep")
    async with leased.content.writer(ingest_ref(layer), size=layer.size, expected=layer.digest) as writer:
        await writer.write(b"rubbish" * 1000)
    assert (await pull(client, f"{fake.host}/test/app:latest", config=QUICK)).changed
    assert _blob_requests(fake, layer.digest) == ["bytes=7000-", None]
    await client.leases.delete("keep")


@pytest.mark.parametrize("what", ["layer", "config", "manifest"])
async def test_wrong_bytes(client: Client, fake: FakeRegistry, what: str) -> None:
    """One clear error, no image, and nothing of the bad blob is kept."""
    image = fresh_image()
    fake.add(image)
    manifest = decode(image.blobs[image.target.digest], Manifest)
    digest = {
        "layer": manifest.layers[0].digest,
        "config": manifest.config.digest,
        "manifest": image.target.digest,
    }[what]
    blob = image.blobs[digest]
    fake.replaced[digest] = blob[:-2] + bytes([blob[-2] ^ 1]) + blob[-1:]
    with pytest.raises(DataLossError, match=digest):
        await pull(client, f"{fake.host}/test/app:latest", config=QUICK)
    assert await client.images.list() == []
    assert await client.content.statuses() == []
    assert digest not in await content_of(client)


async def test_layer_that_unpacks_to_something_else(client: Client, fake: FakeRegistry) -> None:
    """The configuration's diff ID is held against what the layer unpacks to; no snapshot is left."""
    image = fresh_image()
    assert image.image is not None
    lying = image.image
    lying.rootfs.diff_ids = ["sha256:" + "7" * 64]
    raw_config = encode(lying)
    manifest = decode(image.blobs[image.target.digest], Manifest)
    manifest.config.digest, manifest.config.size = digest_of(raw_config), len(raw_config)
    raw = encode(manifest)
    target = decode(encode(image.target), type(image.target))
    target.digest, target.size = digest_of(raw), len(raw)
    fake.add(BuiltImage(target, {**image.blobs, digest_of(raw_config): raw_config, target.digest: raw}, lying))
    with pytest.raises(DataLossError, match="the image says sha256:7777"):
        await pull(client, f"{fake.host}/test/app:latest", config=QUICK)
    assert await snapshots_of(client) == set()
    assert await client.images.list() == []


async def test_collector_keeps_the_image_and_nothing_else(client: Client, fake: FakeRegistry) -> None:
    """All of an image hangs on its name: it survives a collection, and goes with the name."""
    image = fresh_image(layer_count=2)
    index = build_index([images.foreign_platform(), image])
    fake.add(index)
    name = f"{fake.host}/test/app:latest"
    await pull(client, name, config=QUICK)
    await client.leases.create("round")
    await client.leases.delete("round", sync=True)  # a collection
    expected = {index.target.digest, *(digest for digest in image.blobs)}
    assert await content_of(client) == expected
    assert len(await snapshots_of(client)) == 2
    await client.images.delete(name, sync=True)
    assert await content_of(client) == set()
    assert await snapshots_of(client) == set()


async def test_platforms(client: Client, fake: FakeRegistry) -> None:
    """The one that was asked for, or Docker's words; another platform later adds to the same index."""
    fake.add(images.multi_platform())
    name = f"{fake.host}/test/multi:latest"
    foreign = await pull(client, name, config=QUICK, platform=parse_platform("linux/arm/v7"))
    assert foreign.content.image.architecture == "arm"
    own = await pull(client, name, config=QUICK)
    assert own.changed
    assert own.content.image.rootfs == images.busybox().image.rootfs  # type: ignore[union-attr]
    with pytest.raises(NotFoundError) as caught:
        await pull(client, name, config=QUICK, platform=parse_platform("linux/s390x"))
    assert str(caught.value) == "no matching manifest for linux/s390x in the manifest list entries: not found"


async def test_other_client_holds_the_layer(client: Client, fake: FakeRegistry) -> None:
    """While another client of containerd ingests a layer, the pull waits for it."""
    image = fresh_image()
    fake.add(image)
    layer = decode(image.blobs[image.target.digest], Manifest).layers[0]
    async with client.content.writer(ingest_ref(layer), size=layer.size, expected=layer.digest) as writer:
        pulling = asyncio.create_task(pull(client, f"{fake.host}/test/app:latest", config=QUICK))
        await asyncio.sleep(0.5)
        assert not pulling.done()
        await writer.write(image.blobs[layer.digest])
        await writer.commit(size=layer.size, expected=layer.digest)
    assert (await pulling).changed
    assert _blob_requests(fake, layer.digest) == []


async def test_malformed_reference(client: Client) -> None:
    """Found before anything is asked of anybody."""
    with pytest.raises(InvalidArgumentError, match="invalid reference format"):
        await pull(client, "a//b")


async def test_foreign_urls_are_not_followed(client: Client, fake: FakeRegistry) -> None:
    """A layer's `urls` lead nowhere: no request, and so no credentials, to other hosts (CVE-2020-15157)."""
    image = fresh_image()
    async with fake_registry() as elsewhere:
        elsewhere.add(image)
        manifest = decode(image.blobs[image.target.digest], Manifest)
        manifest.layers[0].urls = [f"http://{elsewhere.host}/v2/x/blobs/{manifest.layers[0].digest}"]
        raw = encode(manifest)
        target = decode(encode(image.target), type(image.target))
        target.digest, target.size = digest_of(raw), len(raw)
        fake.add(BuiltImage(target, {**image.blobs, target.digest: raw}, image.image))
        auth = AuthConfig(username="u", password="p")
        await pull(client, f"{fake.host}/test/app:latest", config=QUICK, auth=auth)
        assert elsewhere.requests == []
