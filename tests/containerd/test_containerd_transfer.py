# SPDX-License-Identifier: Apache-2.0
"""The Transfer and Streaming services: what ctr of containerd 2 and newer asks the daemon to carry out."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from support import images
from support.containerd import Daemon
from support.containerd_state import assert_settled
from support.fake_registry import FakeRegistry, fake_registry
from support.registry import Registry, registry, running_registry

from orlop.api import transfer_types_pb2 as pb
from orlop.api.images_pb2 import Image
from orlop.api.types_pb2 import Platform
from orlop.codec import decode, encode
from orlop.containerd.client import Client, typeurl
from orlop.containerd.client.streams import Stream, receive_bytes, send_bytes
from orlop.containerd.plugins.transfer.names import Name, names_of_member, names_of_target
from orlop.errdefs import (
    AlreadyExistsError,
    DataLossError,
    InvalidArgumentError,
    NotFoundError,
    NotImplementedByUsError,
    OrlopError,
    UnauthorizedError,
)
from orlop.oci.image import (
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    chain_ids,
    digest_of,
    parse_image,
)

__all__ = ["registry"]

pytestmark = pytest.mark.root

AMD64, ARM = Platform(os="linux", architecture="amd64"), Platform(os="linux", architecture="arm", variant="v7")
UNPACK = pb.UnpackConfiguration(platform=AMD64, snapshotter="overlayfs")
NAMED = "io.containerd.image.name"
SHORT = "org.opencontainers.image.ref.name"


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    """A daemon for tests that remove what they make."""
    daemon = Daemon("orlop").start()
    yield daemon
    daemon.remove()


@pytest.fixture
async def client(shared: Daemon) -> AsyncIterator[Client]:
    """A client in the tests' namespace; afterwards nothing is left in it."""
    async with Client(shared.address, shared.namespace) as client:
        yield client
        for image in await client.images.list():
            await client.images.delete(image.name)
        await client.leases.create("collect")
        await client.leases.delete("collect", sync=True)
        assert await _blobs(client) == set()
        assert await client.leases.list() == []
        assert await client.content.statuses() == []


async def _blobs(client: Client) -> set[str]:
    return {info.digest async for info in client.content.list()}


def _remote(name: str, **resolver: object) -> pb.OCIRegistry:
    return pb.OCIRegistry(reference=name, resolver=pb.RegistryResolver(default_scheme="http", **resolver))


async def _pulled(client: Client, reference: str, **store: object) -> list[pb.Progress]:
    told: list[pb.Progress] = []
    fields = {"name": reference, "platforms": [AMD64], "unpacks": [UNPACK], **store}
    await client.transfer.transfer(_remote(reference), pb.ImageStore(**fields), told.append)
    return told


def _parts(index: Index) -> dict[str, Manifest]:
    blobs = images.multi_platform().blobs
    return {
        str(child.platform): decode(blobs[child.digest], Manifest) for child in index.manifests if child.platform
    }


async def test_pull(client: Client, registry: Registry) -> None:
    image = images.multi_platform()
    name = registry.push(image, "transfer/multi:1")
    told = await _pulled(client, name, labels={"a": "b"}, all_metadata=True)
    found = await client.images.get(name)
    assert (found.target.digest, dict(found.labels)) == (image.target.digest, {"a": "b"})
    parts = _parts(decode(image.blobs[image.target.digest], Index))
    layers = {layer.digest: key for key, part in parts.items() for layer in part.layers}
    present = await _blobs(client)
    assert {layers[digest] for digest in present & set(layers)} == {"linux/amd64"}
    assert {part.config.digest for part in parts.values()} <= present
    config = parse_image(image.blobs[parts["linux/amd64"].config.digest])
    await client.snapshots("overlayfs").stat(chain_ids(config.rootfs.diff_ids)[-1])
    events = {(item.event, item.name) for item in told}
    assert {("saved", name), ("fetching image content", name)} <= events
    layer = f"layer-{parts['linux/amd64'].layers[0].digest}"
    assert {("waiting", layer), ("complete", layer), ("extracting", layer), ("extracted", layer)} <= events
    (parent,) = next(item for item in told if item.name == layer).parents
    assert parent.startswith("manifest-sha256:")
    assert [item.event for item in told if not item.name][-1] == f"Completed pull from OCI Registry ({name})"
    again = await _pulled(client, name, all_metadata=True)
    assert ("already exists", layer) in {(item.event, item.name) for item in again}


@pytest.mark.parametrize(
    ("store", "expected"),
    [
        ({"platforms": [ARM], "unpacks": []}, {"linux/arm/v7"}),
        ({"platforms": []}, {"linux/amd64", "linux/arm/v7", "linux/arm64/v8"}),
        ({"platforms": [ARM, AMD64], "manifest_limit": 1}, {"linux/arm/v7"}),
    ],
    ids=["another", "all", "limit"],
)
async def test_pull_platforms(
    client: Client, registry: Registry, store: dict[str, object], expected: set[str]
) -> None:
    image = images.multi_platform()
    name = registry.push(image, "transfer/multi:1")
    await _pulled(client, name, **store)
    parts = _parts(decode(image.blobs[image.target.digest], Index))
    present = await _blobs(client)
    assert {key for key, part in parts.items() if part.layers[0].digest in present} == expected
    # Without their metadata, nothing of the others is here.
    assert {key for key, part in parts.items() if part.config.digest in present} == expected


async def test_pull_what_is_not_there(client: Client, registry: Registry) -> None:
    name = registry.push(images.multi_platform(), "transfer/multi:1")
    with pytest.raises(NotFoundError, match="no match for platform in manifest"):
        await _pulled(client, name, platforms=[Platform(os="linux", architecture="s390x")])
    with pytest.raises(NotFoundError, match="manifest unknown"):
        await _pulled(client, f"{registry.host}/transfer/none:1")
    with pytest.raises(NotFoundError, match="no image name found"):
        await _pulled(client, name, name="")
    with pytest.raises(InvalidArgumentError, match="invalid reference format"):
        await _pulled(client, "a b")


def _index(*children: Descriptor) -> tuple[Descriptor, bytes]:
    raw = encode(Index(media_type=OCI_INDEX, manifests=list(children)))
    return Descriptor(media_type=OCI_INDEX, digest=digest_of(raw), size=len(raw)), raw


def _served(fake: FakeRegistry, *children: Descriptor) -> Descriptor:
    """An index of those, which the registry has."""
    descriptor, raw = _index(*children)
    fake.blobs[descriptor.digest], fake.types[descriptor.digest] = raw, OCI_INDEX
    fake.tags["hostile"] = descriptor.digest
    return descriptor


async def test_hostile_indexes(client: Client) -> None:
    """Each is one clear error, before much is fetched: too deep, too many, and the same again and again."""
    async with fake_registry() as fake:
        image = images.busybox()
        fake.add(image)
        name = f"{fake.host}/hostile/x:hostile"
        target = image.target
        for _ in range(6):
            target = _served(fake, target)
        with pytest.raises(InvalidArgumentError, match="nested deeper than"):
            await _pulled(client, name, platforms=[])
        _served(
            fake,
            *(
                Descriptor(media_type=OCI_MANIFEST, digest=digest_of(b"%d" % number), size=100)
                for number in range(1500)
            ),
        )
        fake.requests.clear()
        with pytest.raises(InvalidArgumentError, match="more than 1000 manifests"):
            await _pulled(client, name, platforms=[])
        assert len(fake.requests) < 10
        _served(fake, *[image.target] * 10_000)
        fake.requests.clear()
        await _pulled(client, name, platforms=[])
        assert len(fake.requests) < 10
        # What a document says of its size and its media type is held against what comes.
        lying = Descriptor(media_type=OCI_MANIFEST, digest=image.target.digest, size=image.target.size + 1)
        _served(fake, lying)
        await client.images.delete(name, sync=True)
        with pytest.raises((DataLossError, InvalidArgumentError)):
            await _pulled(client, name, platforms=[])


async def test_push_and_credentials(client: Client, registry: Registry) -> None:
    name = registry.push(images.multi_platform(), "transfer/multi:1")
    await _pulled(client, name, platforms=[])
    with running_registry(user=("someone", "secret")) as private:
        target = f"{private.host}/pushed/multi:2"
        with pytest.raises(UnauthorizedError):
            await client.transfer.transfer(pb.ImageStore(name=name), _remote(target))
        told: list[pb.Progress] = []
        answer = pb.AuthResponse(authType=pb.CREDENTIALS, username="someone", secret="secret")
        for source, destination in (
            (pb.ImageStore(name=name), None),
            (None, pb.ImageStore(name="pulled-again", platforms=[AMD64])),
        ):
            async with client.transfer.stream() as stream:
                asked = asyncio.ensure_future(stream.receive())
                remote = _remote(target, auth_stream=stream.id)
                work = asyncio.ensure_future(
                    client.transfer.transfer(source or remote, destination or remote, told.append)
                )
                request = typeurl.unpack(await asked or AnyMessage(), pb.AuthRequest)
                assert (request.host, request.reference) == (private.host, target)
                await stream.send(typeurl.pack(answer))
                await work
        pushed = {item.event for item in told}
        assert {"pushing content", "complete", "pushed content", "saved"} <= pushed
    assert (await client.images.get("pulled-again")).target.digest == images.multi_platform().target.digest


async def test_directory_of_hosts(client: Client, tmp_path: Path) -> None:
    """`host_dir`: authorities and certificates of a registry that lets in nobody without one, both ways."""
    with running_registry(tls=True, mutual=True) as running:
        assert running.ca is not None
        place = tmp_path / running.host
        place.mkdir()
        for file in ("ca.crt", "client.crt", "client.key"):
            shutil.copy(running.ca.parent / file, place)
        (place / "hosts.toml").write_text('ca="ca.crt"\nclient=[["client.crt", "client.key"]]\n')
        name = running.push(images.busybox(), "hosts/box:1")
        resolver = pb.RegistryResolver(host_dir=str(tmp_path))
        store = pb.ImageStore(name=name, platforms=[AMD64], unpacks=[UNPACK])
        with pytest.raises(OrlopError):
            await client.transfer.transfer(pb.OCIRegistry(reference=name), store)
        await client.transfer.transfer(pb.OCIRegistry(reference=name, resolver=resolver), store)
        assert (await client.images.get(name)).target.digest == images.busybox().target.digest
        other = name.replace("box:1", "box:2")
        await client.transfer.transfer(
            pb.ImageStore(name=name), pb.OCIRegistry(reference=other, resolver=resolver)
        )
        await client.images.delete(name)
        again = pb.ImageStore(name=other, platforms=[AMD64])
        await client.transfer.transfer(pb.OCIRegistry(reference=other, resolver=resolver), again)


async def test_tag(client: Client, registry: Registry) -> None:
    name = registry.push(images.busybox(), "transfer/busybox:1")
    await _pulled(client, name)
    await client.transfer.transfer(pb.ImageStore(name=name), pb.ImageStore(name="other", labels={"a": "b"}))
    await client.transfer.transfer(pb.ImageStore(name=name), pb.ImageStore(name="other", labels={"c": "d"}))
    other = await client.images.get("other")
    assert (other.target.digest, dict(other.labels)) == (images.busybox().target.digest, {"c": "d"})
    with pytest.raises(NotFoundError):
        await client.transfer.transfer(pb.ImageStore(name="none"), pb.ImageStore(name="other"))


async def _exported(client: Client, *names: str, **options: object) -> bytes:
    store = pb.ImageStore(extra_references=[pb.ImageReference(name=name) for name in names])
    return await _collected(client, store, **options)


async def _collected(client: Client, store: pb.ImageStore, **options: object) -> bytes:
    async with client.transfer.stream() as stream:
        archive = pb.ImageExportStream(stream=stream.id, **options)
        work = asyncio.ensure_future(client.transfer.transfer(store, archive))
        data = b"".join([piece async for piece in receive_bytes(stream)])
        await work
    return data


async def _imported(client: Client, data: bytes, store: pb.ImageStore, piece: int = 100_000) -> list[pb.Progress]:
    async def source() -> AsyncIterator[bytes]:
        for start in range(0, len(data), piece):
            yield data[start : start + piece]

    told: list[pb.Progress] = []
    async with client.transfer.stream() as stream:
        archive = pb.ImageImportStream(stream=stream.id)
        work = asyncio.ensure_future(client.transfer.transfer(archive, store, told.append))
        sending = asyncio.ensure_future(send_bytes(stream, source()))
        try:
            await work
        finally:
            sending.cancel()
    return told


def _members(archive: bytes) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {name.removeprefix("blobs/sha256/") for name in tar.getnames()}


async def test_export_and_import(client: Client, registry: Registry) -> None:
    image = images.multi_platform()
    name = registry.push(image, "transfer/multi:1")
    await _pulled(client, name, platforms=[])
    await client.transfer.transfer(pb.ImageStore(name=name), pb.ImageStore(name="unqualified"))
    whole = await _exported(client, name, all_platforms=True)
    digests = {digest.removeprefix("sha256:") for digest in image.blobs}
    assert _members(whole) == digests | {"index.json", "manifest.json", "oci-layout"}
    arm = await _exported(client, "unqualified", name, platforms=[ARM], skip_compatibility_manifest=True)
    parts = _parts(decode(image.blobs[image.target.digest], Index))
    assert {key for key, part in parts.items() if part.layers[0].digest[7:] in _members(arm)} == {"linux/arm/v7"}
    assert "manifest.json" not in _members(arm)
    for listed in await client.images.list():
        await client.images.delete(listed.name, sync=True)
    prefix = pb.ImageReference(name="import", is_prefix=True, allow_overwrite=True)
    store = pb.ImageStore(name="the-index", extra_references=[prefix], unpacks=[UNPACK])
    told = await _imported(client, whole, store)
    assert {item.name for item in told if item.event == "saved"} == {"the-index", name}
    assert (await client.images.get(name)).target.digest == image.target.digest
    assert len([info async for info in client.snapshots("overlayfs").list()]) == 1
    # An extra name goes with the main one. Of an index with another platform's manifest only, nothing is unpacked.
    await client.images.delete("the-index", sync=True)
    assert await client.images.list() == []
    await _imported(client, arm, pb.ImageStore(extra_references=[prefix], unpacks=[UNPACK]))
    assert (await client.images.get(name)).target.digest == image.target.digest


async def test_import_of_dockers_archive(client: Client) -> None:
    with open(images.archive("busybox"), "rb") as file:
        data = file.read()
    base = pb.ImageReference(name="elsewhere.io/x", is_prefix=True, add_digest=True, skip_named_digest=True)
    await _imported(client, data, pb.ImageStore(extra_references=[base]))
    assert [image.name for image in await client.images.list()] == [
        f"elsewhere.io/x@{images.busybox().target.digest}"
    ]


@pytest.mark.parametrize("damage", ["cut", "changed", "garbage"])
async def test_import_of_a_damaged_archive(client: Client, damage: str) -> None:
    with open(images.archive("busybox"), "rb") as file:
        data = bytearray(file.read())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "changed":
        layer = decode(images.busybox().blobs[images.busybox().target.digest], Manifest).layers[0].digest
        at = data.index(images.busybox().blobs[layer][5000:5100])
        data[at] ^= 1
    else:
        data = bytearray(os.urandom(300_000))
    prefix = pb.ImageReference(name="import", is_prefix=True, allow_overwrite=True)
    with pytest.raises((InvalidArgumentError, DataLossError)):
        await _imported(client, bytes(data), pb.ImageStore(extra_references=[prefix]))
    assert await client.images.list() == []


async def test_import_that_its_client_gives_up(client: Client) -> None:
    async with client.transfer.stream() as stream:
        archive = pb.ImageImportStream(stream=stream.id)
        work = asyncio.ensure_future(client.transfer.transfer(archive, pb.ImageStore(name="x")))
        assert await stream.receive() is not None  # the window
        await stream.send(typeurl.pack(pb.Data(data=b"\0" * 10)))
    with pytest.raises(OrlopError, match="ends early"):
        await work


async def test_echo_and_windows(client: Client) -> None:
    """Bytes come as they were sent, and nobody sends more than was asked for."""
    data = os.urandom(5 << 20)

    async def source() -> AsyncIterator[bytes]:
        yield data[:1]
        yield data[1:]

    async with client.transfer.stream() as there, client.transfer.stream() as back:
        work = asyncio.ensure_future(
            client.transfer.transfer(pb.ImageImportStream(stream=there.id), pb.ImageExportStream(stream=back.id))
        )
        sending = asyncio.ensure_future(send_bytes(there, source()))
        await back.send(typeurl.pack(pb.WindowUpdate(update=1000)))
        first = typeurl.unpack(await back.receive() or AnyMessage(), pb.Data).data
        second = typeurl.unpack(await back.receive() or AnyMessage(), pb.Data).data
        assert (first, len(first) + len(second)) == (data[:1], 1000)
        rest = b"".join([piece async for piece in receive_bytes(back)])
        assert first + second + rest == data
        await asyncio.gather(work, sending)


async def test_bad_streams(client: Client) -> None:
    with pytest.raises(NotFoundError, match='stream "none" not found'):
        await client.transfer.transfer(pb.ImageImportStream(stream="none"), pb.ImageStore(name="x"))
    async with client.transfer.stream("taken"):
        with pytest.raises(AlreadyExistsError):
            async with client.transfer.stream("taken"):
                pass
        other = client.with_namespace("elsewhere")
        with pytest.raises(NotFoundError):
            await other.transfer.transfer(pb.ImageImportStream(stream="taken"), pb.ImageStore(name="x"))
    async with client.transfer.stream() as stream:
        archive = pb.ImageImportStream(stream=stream.id)
        work = asyncio.ensure_future(client.transfer.transfer(archive, pb.ImageStore(name="x")))
        await stream.send(typeurl.pack(Empty()))
        with pytest.raises(InvalidArgumentError, match=r"expected a containerd.types.transfer.Data"):
            await work


async def test_what_is_no_transfer(client: Client) -> None:
    for source, destination in (
        (Image(name="x"), pb.ImageStore(name="x")),
        (_remote("127.0.0.1:1/x:1"), _remote("127.0.0.1:1/y:1")),
        (pb.ImageExportStream(stream="x"), pb.ImageStore(name="x")),
    ):
        with pytest.raises(NotImplementedByUsError, match="method Transfer not implemented for"):
            await client.transfer.transfer(source, destination)


async def test_export_by_prefix(client: Client, registry: Registry) -> None:
    image = images.multi_platform()
    name = registry.push(image, "transfer/multi:1")
    await _pulled(client, name, platforms=[], unpacks=[])
    for other in ("reg.io/a/b:1", "reg.io/a:2", "reg.io/ab:3"):
        await client.transfer.transfer(pb.ImageStore(name=name), pb.ImageStore(name=other))
    prefix = [pb.ImageReference(name="reg.io/a", is_prefix=True)]
    archive = await _collected(client, pb.ImageStore(extra_references=prefix), all_platforms=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        file = tar.extractfile("index.json")
        assert file is not None
        index = decode(file.read(), Index)
    assert [each.annotations[NAMED] for each in index.manifests] == ["reg.io/a/b:1", "reg.io/a:2"]
    nothing = pb.ImageStore(extra_references=[pb.ImageReference(name="reg.io/c", is_prefix=True)])
    async with client.transfer.stream() as stream:
        with pytest.raises(NotFoundError, match=r"no image has a name that begins with reg\.io/c"):
            await client.transfer.transfer(nothing, pb.ImageExportStream(stream=stream.id))


async def test_requests_of_a_transfer(client: Client, registry: Registry) -> None:
    """`http_debug`: a client is shown what is said to the registry, without its credentials."""
    name = registry.push(images.multi_platform(), "transfer/multi:1")
    for mode, shown in ((pb.DEBUG, "GET /v2/"), (pb.TRACE, "connected"), (pb.BOTH, "GET /v2/")):
        async with client.transfer.stream() as stream:
            reading = asyncio.create_task(_all_of(stream))
            source = _remote(name, http_debug=mode, logs_stream=stream.id)
            await client.transfer.transfer(source, pb.ImageStore(name=name, platforms=[AMD64]))
            assert shown in (await reading).decode()
    # Without a stream they go to the daemon's log.
    await client.transfer.transfer(_remote(name, http_debug=pb.DEBUG), pb.ImageStore(name=name, platforms=[AMD64]))


async def _all_of(stream: Stream) -> bytes:
    return b"".join([data async for data in receive_bytes(stream)])


@pytest.mark.parametrize("point", ["content.commit.after_rename", "snapshot.commit.after_update"])
async def test_daemon_that_dies_during_a_pull(registry: Registry, point: str) -> None:
    """After the restart nothing of the transfer is left but what a repetition takes up."""
    name = registry.push(images.layers(), "transfer/layers:1")
    daemon = Daemon("orlop").start(environment={"ORLOP_FAILPOINTS": f"{point}=kill:2"})
    try:
        async with Client(daemon.address, daemon.namespace) as client:
            with pytest.raises(OrlopError):
                await _pulled(client, name)
        assert daemon.process is not None
        daemon.process.wait(20)
        daemon.start()
        async with Client(daemon.address, daemon.namespace) as client:
            assert await client.images.list() == []
            await _pulled(client, name)
            assert (await client.images.get(name)).target.digest == images.layers().target.digest
            for lease in await client.leases.list():  # the first transfer's: it would expire in a day
                await client.leases.delete(lease.id, sync=True)
        assert_settled(daemon)
    finally:
        daemon.remove()


def _store(*references: pb.ImageReference, name: str = "") -> pb.ImageStore:
    return pb.ImageStore(name=name, labels={"a": "b"}, extra_references=references)


def test_names_of_a_target() -> None:
    labels = {"a": "b"}
    assert names_of_target(_store(name="n"), "sha256:0") == [Name("n", labels)]
    plain, prefix = pb.ImageReference(name="p"), pb.ImageReference(name="q", is_prefix=True)
    digest = pb.ImageReference(name="d", is_prefix=True, add_digest=True)
    found = names_of_target(_store(plain, prefix, digest), "sha256:0")
    assert found == [Name("p", labels), Name("d@sha256:0", labels)]
    _, extra = names_of_target(_store(plain, name="n"), "sha256:0")
    assert extra.labels["containerd.io/gc.bref.image"] == "n"
    assert "containerd.io/gc.expire" in extra.labels


@pytest.mark.parametrize(
    ("reference", "annotations", "expected"),
    [
        ({}, {SHORT: "1.0"}, ["base/x:1.0"]),
        ({}, {SHORT: "base/x:2"}, ["base/x:2"]),
        ({}, {SHORT: "base/xy:2"}, []),
        ({}, {NAMED: "docker.io/other:1"}, []),
        ({}, {NAMED: "base/x@sha256:1"}, ["base/x@sha256:1"]),
        ({}, {NAMED: "1.0"}, []),
        ({}, {}, []),
        ({"allow_overwrite": True}, {NAMED: "docker.io/other:1", SHORT: "1"}, ["docker.io/other:1"]),
        ({"add_digest": True}, {}, ["base/x@sha256:0"]),
        ({"add_digest": True}, {SHORT: "1"}, ["base/x:1", "base/x@sha256:0"]),
        ({"add_digest": True, "skip_named_digest": True}, {SHORT: "1"}, ["base/x:1"]),
        ({"is_prefix": False}, {SHORT: "1"}, []),
    ],
)
def test_names_of_a_member(reference: dict[str, bool], annotations: dict[str, str], expected: list[str]) -> None:
    message = pb.ImageReference(**{"name": "base/x", "is_prefix": True, **reference})
    found = names_of_member(_store(message), annotations, "sha256:0")
    assert [name.name for name in found] == expected
