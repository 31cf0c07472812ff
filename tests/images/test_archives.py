# SPDX-License-Identifier: Apache-2.0
"""Archives of images into containerd and back, with the archives of other tools."""

import asyncio
import bz2
import gzip
import io
import json
import lzma
import subprocess
import tarfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import zstandard
from support import images
from support.containerd import Daemon
from support.image_daemons import client, containerd_daemon, content_of, fresh_image, snapshots_of

from orlop.codec import decode
from orlop.containerd.client import Client
from orlop.containerd.client.archive import ImportedImage, import_archive
from orlop.containerd.client.export import ExportedImage, export_archive
from orlop.containerd.client.tarstream import TarReader, decompressed
from orlop.containerd.client.unpack import to_proto
from orlop.errdefs import DataLossError, InvalidArgumentError, OrlopError
from orlop.oci.build import BuiltImage, write_archive
from orlop.oci.image import Manifest, chain_ids

__all__ = ["client", "containerd_daemon"]

root = pytest.mark.root


async def _chunks(data: bytes, size: int = 70_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def _import(client: Client, data: bytes, size: int = 70_000) -> list[ImportedImage]:
    async def name(image: ImportedImage) -> None:
        if image.name:
            await client.images.create(image.name, to_proto(image.target))

    return await import_archive(client, _chunks(data, size), name)


def _archive(**named: BuiltImage) -> bytes:
    output = io.BytesIO()
    write_archive({f"{name}:latest": image for name, image in named.items()}, output)
    return output.getvalue()


def _tar(members: dict[str, bytes | str]) -> bytes:
    """A tar of files (bytes) and symbolic links (text)."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        for path, data in members.items():
            info = tarfile.TarInfo(path)
            if isinstance(data, str):
                info.type, info.linkname = tarfile.SYMTYPE, data
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return output.getvalue()


def _legacy(image: BuiltImage, **changes: object) -> dict[str, bytes | str]:
    """The members of an archive as Docker wrote it before version 25: no index.json, layers uncompressed."""
    assert image.image is not None
    manifest = decode(image.blobs[image.target.digest], Manifest)
    config = manifest.config.digest.removeprefix("sha256:") + ".json"
    members: dict[str, bytes | str] = {config: image.blobs[manifest.config.digest], "repositories": b"{}"}
    paths = []
    for number, layer in enumerate(manifest.layers):
        members[f"{number:064x}/VERSION"] = b"1.0"
        members[f"{number:064x}/layer.tar"] = gzip.decompress(image.blobs[layer.digest])
        paths.append(f"{number:064x}/layer.tar")
    item = {"Config": config, "RepoTags": ["docker.io/library/legacy:v1"], "Layers": paths, **changes}
    members["manifest.json"] = json.dumps([item]).encode()
    return members


@root
async def test_layout_with_several_images(client: Client) -> None:
    """Names, unpacked layers and everything below a name, the foreign platforms of an index too."""
    first, second = fresh_image(layer_count=2), images.multi_platform()
    imported = await _import(client, _archive(one=first, two=second))
    assert [image.name for image in imported] == ["docker.io/library/one:latest", "docker.io/library/two:latest"]
    assert await content_of(client) == {*first.blobs, *second.blobs}
    chains = [*chain_ids(first.image.rootfs.diff_ids), *chain_ids(images.busybox().image.rootfs.diff_ids)]  # type: ignore[union-attr]
    assert await snapshots_of(client) == set(chains)
    for image in await client.images.list():
        await client.images.delete(image.name, sync=True)
    assert await content_of(client) == set()


@root
async def test_archive_of_old_docker(client: Client) -> None:
    """Without index.json: a manifest is written for it."""
    image = fresh_image(layer_count=2)
    (imported,) = await _import(client, _tar(_legacy(image)))
    assert imported.name == "docker.io/library/legacy:v1"
    assert imported.content is not None
    assert imported.content.image == image.image
    assert len(await snapshots_of(client)) == 2


@root
async def test_links_between_layers_of_old_docker(client: Client) -> None:
    """The same layer twice is a link in old archives."""
    image = fresh_image(layer_count=1)
    members = _legacy(image)
    members[f"{7:064x}/layer.tar"] = f"../{0:064x}/layer.tar"
    item = json.loads(members["manifest.json"])
    item[0]["Layers"] = [f"{7:064x}/layer.tar"]
    members["manifest.json"] = json.dumps(item).encode()
    (imported,) = await _import(client, _tar(members))
    assert imported.content is not None
    members[f"{7:064x}/layer.tar"] = f"../{7:064x}/layer.tar"
    with pytest.raises(InvalidArgumentError, match="archive lacks"):
        await _import(client, _tar(members))


@root
async def test_archive_of_skopeo(client: Client, tmp_path: Path) -> None:
    """skopeo's docker-archive of an image."""
    source = images.archive("layers")
    path = tmp_path / "skopeo.tar"
    command = ["skopeo", "copy", "-q", f"oci-archive:{source}:latest", f"docker-archive:{path}:layers:skopeo"]
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0
    (imported,) = await _import(client, path.read_bytes())
    assert imported.name == "docker.io/library/layers:skopeo"
    assert imported.content is not None
    assert imported.content.config_descriptor.digest == _config_digest(images.layers())


def _config_digest(image: BuiltImage) -> str:
    return decode(image.blobs[image.target.digest], Manifest).config.digest


@root
@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
async def test_compressed_archive(client: Client, compress: Callable[[bytes], bytes]) -> None:
    """By its first bytes, as Docker does it; however it is cut into pieces."""
    data = compress(_archive(one=fresh_image(50)))
    assert await _import(client, data, 999)


@root
async def test_import_twice(client: Client) -> None:
    """What is there already is no error."""
    data = _archive(one=fresh_image())
    await _import(client, data)
    await client.images.delete("docker.io/library/one:latest")
    assert await _import(client, data)


@root
async def test_content_that_another_namespace_has(client: Client, containerd_daemon: Daemon) -> None:
    """containerd shares blobs between namespaces: a writer finds them whole."""
    data = _archive(one=fresh_image(), two=images.layers())
    await _import(client, data)
    async with Client(containerd_daemon.address, client.namespace + "-b") as other:
        assert len(await _import(other, data)) == 2
        assert await content_of(other) == await content_of(client)
        for image in await other.images.list():
            await other.images.delete(image.name, sync=True)


def _without(data: bytes, digest: str) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as source, tarfile.open(fileobj=output, mode="w") as tar:
        for member in source:
            if not member.name.endswith(digest.removeprefix("sha256:")):
                tar.addfile(member, source.extractfile(member))
    return output.getvalue()


async def _statuses_at_last(client: Client) -> list[object]:
    """The ingests that stay: the daemon ends one of a client that has left when it next looks at it."""
    deadline = time.monotonic() + 10
    while left := list(await client.content.statuses()):
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(0.05)
    return left


@root
async def test_malformed_archives(client: Client) -> None:
    """One clear line each, and nothing is named."""
    image = fresh_image(50)
    good = _archive(one=image)
    # An image of its own: content that is in the store already is not read again.
    other = fresh_image(50)
    layer = decode(other.blobs[other.target.digest], Manifest).layers[0].digest
    flipped = bytearray(_archive(one=other))
    flipped[flipped.find(other.blobs[layer]) + 100] ^= 1
    cases: list[tuple[bytes, type[OrlopError], str]] = [
        (b"", InvalidArgumentError, "neither index.json nor manifest.json"),
        (b"no tar at all" * 100, InvalidArgumentError, "not a tar"),
        (good[:2000], InvalidArgumentError, "archive ends"),
        (gzip.compress(good)[:5000], InvalidArgumentError, "archive ends|invalid archive"),
        (gzip.compress(good)[:4000] + b"x" * 5000, InvalidArgumentError, "archive ends|invalid archive"),
        (_tar({"hello": b"x"}), InvalidArgumentError, "neither index.json nor manifest.json"),
        (_tar({"index.json": b"{"}), InvalidArgumentError, "invalid"),
        (_without(good, image.target.digest), InvalidArgumentError, "archive lacks sha256"),
        (bytes(flipped), DataLossError, layer),
        (_tar(_legacy(image, Layers=[])), InvalidArgumentError, "layers length mismatch"),
        (_tar(_legacy(image, Config="../../etc/passwd")), InvalidArgumentError, "archive lacks"),
        (_tar(_legacy(image, Config=7)), InvalidArgumentError, "manifest.json: .*Config"),
    ]
    for data, kind, message in cases:
        with pytest.raises(kind, match=message):
            await _import(client, data)
        assert await client.images.list() == []
        assert await _statuses_at_last(client) == []


@root
async def test_export_is_read_by_all(client: Client, containerd_daemon: Daemon, tmp_path: Path) -> None:
    """By ourselves, by skopeo in both formats, and by ctr."""
    image = fresh_image(layer_count=2)
    (imported,) = await _import(client, _archive(one=image))
    assert imported.content is not None
    names = [("one:latest", "docker.io/library/one:latest"), ("two:v2", "docker.io/library/two:v2")]
    pieces = [piece async for piece in export_archive(client, [ExportedImage(names, imported.content)])]
    path = tmp_path / "exported.tar"
    path.write_bytes(b"".join(pieces))
    for transport in (f"docker-archive:{path}:one:latest", f"oci-archive:{path}:v2"):
        shown = await asyncio.create_subprocess_exec(
            "skopeo", "inspect", "--raw", transport, stdout=subprocess.PIPE
        )
        out, _ = await shown.communicate()
        assert shown.returncode == 0
        assert len(json.loads(out)["layers"]) == 2
    await asyncio.to_thread(lambda: containerd_daemon.ctr("images", "import", "--all-platforms", str(path)).ok())
    listed = await asyncio.to_thread(lambda: containerd_daemon.ctr("images", "ls", "-q").ok())
    assert set(listed.split()) == {"docker.io/library/one:latest", "docker.io/library/two:v2"}
    await asyncio.to_thread(lambda: containerd_daemon.ctr("images", "rm", "--sync", *listed.split()).ok())


async def test_reader_knows_the_formats_of_tar() -> None:
    """Long names and large numbers in pax, GNU and ustar; member data may be left unread."""
    long_path = "d" * 120 + "/" + "f" * 130
    for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        output = io.BytesIO()
        with tarfile.open(fileobj=output, mode="w", format=format) as tar:
            for path, data in ((long_path, b"x" * 1000), ("./short", b"y" * 512), ("empty", b"")):
                info = tarfile.TarInfo(path)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            link = tarfile.TarInfo("link")
            link.type, link.linkname = tarfile.SYMTYPE, "t" * 150
            tar.addfile(link)
        reader = TarReader(_chunks(output.getvalue(), 313))
        seen = []
        async for member in reader.members():
            data = await reader.whole(1 << 20) if member.path == "short" else None
            seen.append((member.path, member.kind, member.size, member.target, data))
        assert seen == [
            (long_path, "file", 1000, "", None),
            ("short", "file", 512, "", b"y" * 512),
            ("empty", "file", 0, "", None),
            ("link", "link", 0, "t" * 150, None),
        ]


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
async def test_bombs_are_expanded_in_pieces(compress: Callable[[bytes], bytes]) -> None:
    """A little input never becomes much memory at once (CVE-2017-14992)."""
    bomb = compress(bytes(64 << 20))
    total = largest = 0
    async for piece in decompressed(_chunks(bomb, 1 << 20)):
        total += len(piece)
        largest = max(largest, len(piece))
    assert total == 64 << 20
    assert largest <= 8 << 20


async def test_gzip_members_one_after_another() -> None:
    """As pigz and bgzip write them, with padding after them."""
    data = gzip.compress(b"one") + gzip.compress(b"two") + bytes(100)
    assert b"".join([piece async for piece in decompressed(_chunks(data, 7))]) == b"onetwo"
