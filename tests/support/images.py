# SPDX-License-Identifier: Apache-2.0
"""The images that tests run, made from what Debian ships, without any registry.

busybox()            busybox:latest, as Docker's official image
layers()             layers:latest: whiteouts, opaque directories, hard links, xattrs, setuid, odd names
debian()             debian:bookworm by debootstrap, some ten thousand files; made once a machine
docker_schema2(i)    the same image with Docker's media types
multi_platform()     an index of busybox for linux/amd64 (and the host) and for linux/arm64
with_zstd(i)         the same image with layers compressed by zstd

archive("busybox")   the path of a tar that `docker load` and `ctr image import` take
"""

import io
import json
import os
import shutil
import stat
import subprocess
import tarfile
from functools import cache
from pathlib import Path

import zstandard

from orlop.codec import decode, encode
from orlop.oci.build import (
    BuiltImage,
    Layer,
    LayerBuilder,
    build_image,
    build_index,
    layer_of,
    write_archive,
)
from orlop.oci.busybox import PATH, busybox_image
from orlop.oci.image import (
    DOCKER_LAYER_GZIP,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    History,
    ImageConfig,
    Manifest,
    Platform,
    digest_of,
)

CACHE = Path("/var/cache/orlop-tests")

LONG_NAME = "n" * 150
LONG_PATH = "/".join(["odd", *("d" * 60 + str(number) for number in range(5)), "file"])
NON_UTF8_NAME = b"odd/latin1-\xe9".decode("utf-8", "surrogateescape")
CAPABILITY = b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
"""security.capability of cap_net_bind_service=ep (revision 2)."""


@cache
def busybox() -> BuiltImage:
    """busybox:latest: the host's static busybox, Cmd sh."""
    return busybox_image()


@cache
def layers() -> BuiltImage:
    """Three layers on top of busybox's that exercise everything which a layer can say.

    In the result: /gone and /tree/inner/below are deleted, /opaque holds only `new`, /replaced is a directory that
    was a file, /changed says `two`, /first and /second are one inode, /setuid is 4755, /owned is 1234:5678's.
    """
    base = [_layer_of_busybox()]
    return build_image(
        [*base, _first_layer(), _second_layer(), _third_layer()],
        ImageConfig(
            env=[PATH, "LAYERS=3"],
            cmd=["sh", "-c", "echo layers"],
            entrypoint=["/bin/env", "--"],
            working_dir="/work/dir",
            user="1000:1000",
            labels={"test.layers": "3", "test.quote": 'a "b" ü'},
            exposed_ports={"80/tcp": {}, "53/udp": {}},
            volumes={"/data": {}},
            stop_signal="SIGINT",
        ),
        created=1_700_000_000,
        history=[
            History(created="2023-11-14T22:13:20Z", created_by="busybox"),
            History(created="2023-11-14T22:13:20Z", created_by="first"),
            History(created="2023-11-14T22:13:20Z", created_by="ENV LAYERS=3", empty_layer=True),
            History(created="2023-11-14T22:13:20Z", created_by="second"),
            History(created="2023-11-14T22:13:20Z", created_by="third", comment="the last"),
        ],
    )


def _layer_of_busybox() -> Layer:
    image = busybox()
    assert image.image is not None
    manifest = decode(image.blobs[image.target.digest], Manifest)
    descriptor = manifest.layers[0]
    return Layer(descriptor.media_type, image.blobs[descriptor.digest], image.image.rootfs.diff_ids[0])


def _first_layer() -> Layer:
    layer = LayerBuilder(mtime=1_600_000_000)
    layer.file("gone", b"to be deleted\n")
    layer.file("changed", b"one\n")
    layer.file("replaced", b"a file\n")
    layer.directory("tree")
    layer.directory("tree/inner")
    layer.file("tree/inner/below", b"below\n")
    layer.file("tree/inner/kept", b"kept\n")
    layer.directory("opaque")
    layer.file("opaque/old", b"old\n")
    layer.directory("opaque/olddir")
    layer.file("opaque/olddir/file", b"old\n")
    layer.file("first", b"linked\n")
    layer.hardlink("second", "first")
    layer.file("setuid", b"#!/bin/sh\nid -u\n", 0o4755)
    layer.file("setgid", b"", 0o2755, 0, 42)
    layer.file("owned", b"owned\n", 0o640, 1234, 5678)
    layer.file("xattr", b"", xattrs={"user.orlop": b"v\xff\x00w", "user.plain": b"plain"})
    layer.file("capable", b"", 0o755, xattrs={"security.capability": CAPABILITY})
    layer.device("fifo", stat.S_IFIFO, 0, 0, 0o600)
    layer.device("null", stat.S_IFCHR, 1, 3, 0o666)
    layer.directory("work")
    layer.directory("work/dir", 0o755, 1000, 1000)
    layer.directory("data", 0o750, 1000, 1000)
    layer.file("data/seed", b"seed\n", 0o644, 1000, 1000)
    return layer.finish(created_by="first")


def _second_layer() -> Layer:
    layer = LayerBuilder(mtime=1_600_000_001)
    layer.whiteout("gone")
    layer.whiteout("tree/inner/below")
    layer.file("changed", b"two\n")
    layer.directory("replaced")
    layer.file("replaced/inside", b"inside\n")
    layer.directory("opaque")
    layer.opaque("opaque")
    layer.file("opaque/new", b"new\n")
    layer.symlink("absolute-link", "/etc/passwd")
    layer.symlink("broken-link", "nowhere")
    return layer.finish(created_by="second")


def _third_layer() -> Layer:
    layer = LayerBuilder(mtime=1_600_000_002)
    layer.directory("odd")
    layer.file("odd/with space", b"space\n")
    layer.file("odd/ünï-日本-🚢", b"unicode\n")
    layer.file("odd/new\nline", b"newline\n")
    layer.file("odd/-dash", b"dash\n")
    layer.file("odd/..dots", b"dots\n")
    layer.file(NON_UTF8_NAME, b"latin1\n")
    layer.file(f"odd/{LONG_NAME}", b"long name\n")
    parts = LONG_PATH.split("/")
    for depth in range(2, len(parts)):
        layer.directory("/".join(parts[:depth]))
    layer.file(LONG_PATH, b"long path\n")
    return layer.finish(created_by="third")


def docker_schema2(image: BuiltImage) -> BuiltImage:
    """The same configuration and layers under a manifest of Docker's schema 2."""
    return _rebuilt(image, docker=True)


def with_zstd(image: BuiltImage) -> BuiltImage:
    """The same image with layers compressed by zstd."""
    return _rebuilt(image, zstd=True)


def _rebuilt(image: BuiltImage, *, docker: bool = False, zstd: bool = False) -> BuiltImage:
    assert image.image is not None
    manifest = decode(image.blobs[image.target.digest], Manifest)
    rebuilt = []
    for descriptor, diff_id in zip(manifest.layers, image.image.rootfs.diff_ids, strict=True):
        blob = image.blobs[descriptor.digest]
        media_type = DOCKER_LAYER_GZIP if docker else OCI_LAYER_GZIP
        if zstd:
            import gzip

            blob = zstandard.compress(gzip.decompress(blob))
            media_type = OCI_LAYER_ZSTD
        rebuilt.append(Layer(media_type, blob, diff_id))
    config = image.image
    return build_image(
        rebuilt,
        config.config,
        platform=config.platform,
        docker=docker,
        created=_seconds(config.created),
        history=config.history,
    )


def _seconds(stamp: str) -> int:
    import calendar
    import time

    return calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ"))


@cache
def multi_platform() -> BuiltImage:
    """An index: busybox for the host, and small images that say they are for linux/arm64/v8 and linux/arm/v7."""
    return build_index([_foreign("arm64", "v8"), _foreign("arm", "v7"), busybox()])


@cache
def foreign_platform() -> BuiltImage:
    """A small image for linux/arm64/v8, to put beside others in an index."""
    return _foreign("arm64", "v8")


def _foreign(architecture: str, variant: str) -> BuiltImage:
    platform = Platform(os="linux", architecture=architecture, variant=variant)
    layer = LayerBuilder()
    layer.file("platform", str(platform).encode())
    return build_image([layer.finish()], ImageConfig(cmd=["/none"]), platform=platform)


@cache
def sized(megabytes: int, layer_count: int = 1) -> BuiltImage:
    """An image of incompressible layers of so many MiB each, on top of nothing, for tests of transfers."""
    import random

    made = []
    for number in range(layer_count):
        layer = LayerBuilder()
        layer.file(f"random{number}", random.Random(number).randbytes(megabytes << 20))
        made.append(layer.finish())
    return build_image(made, ImageConfig(cmd=["/none"]))


def debian_archive() -> Path:
    """debian:bookworm (minbase) as an archive in the cache; the first call runs debootstrap, a minute or two."""
    path = CACHE / "debian-bookworm.tar"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        work = CACHE / f"debootstrap.{os.getpid()}"
        try:
            mirror = os.environ.get("ORLOP_TEST_MIRROR", "http://deb.debian.org/debian")
            subprocess.run(
                ["debootstrap", "--variant=minbase", "bookworm", str(work), mirror],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            shutil.rmtree(work / "var/cache/apt/archives", ignore_errors=True)
            image = image_of_directory(
                work, ImageConfig(env=[PATH], cmd=["bash"]), "debootstrap --variant=minbase"
            )
            _write_whole(path, {"debian:bookworm": image})
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return path


def image_of_directory(root: Path, config: ImageConfig, created_by: str) -> BuiltImage:
    """An image of one layer with everything under a directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in sorted(root.rglob("*")):
            tar.add(entry, str(entry.relative_to(root)), recursive=False)
    return build_image([layer_of(buffer.getvalue(), created_by=created_by)], config)


def debian() -> BuiltImage:
    """debian:bookworm out of its archive."""
    return read_archive(debian_archive())


def read_archive(path: Path) -> BuiltImage:
    """The first image of an OCI archive."""
    with tarfile.open(path) as tar:
        blobs = {
            "sha256:" + member.name.rpartition("/")[2]: _bytes(tar, member)
            for member in tar
            if member.name.startswith("blobs/sha256/") and member.isfile()
        }
        index = json.loads(_bytes(tar, tar.getmember("index.json")))
    from orlop.codec import convert
    from orlop.oci.image import Descriptor, parse_image

    target = convert(index["manifests"][0], Descriptor)
    manifest = decode(blobs[target.digest], Manifest)
    return BuiltImage(target, blobs, parse_image(blobs[manifest.config.digest]))


def _bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


IMAGES = {
    "busybox": ("busybox:latest", busybox),
    "layers": ("layers:latest", layers),
    "multi": ("multi:latest", multi_platform),
    "schema2": ("schema2:latest", lambda: docker_schema2(layers())),
    "zstd": ("zstd:latest", lambda: with_zstd(layers())),
}


def archive(name: str) -> Path:
    """The path of an archive (OCI layout and docker-archive in one) of an image of `IMAGES`, or of debian."""
    if name == "debian":
        return debian_archive()
    reference, make = IMAGES[name]
    image = make()
    path = CACHE / f"{name}-{image.target.digest[7:19]}.tar"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        _write_whole(path, {reference: image})
    return path


def _write_whole(path: Path, images: dict[str, BuiltImage]) -> None:
    """Write beside, then rename: several test runs may do this at the same time."""
    beside = path.with_suffix(f".{os.getpid()}")
    with open(beside, "wb") as file:
        write_archive(images, file)
    os.rename(beside, path)


__all__ = [
    "BuiltImage",
    "archive",
    "busybox",
    "debian",
    "debian_archive",
    "digest_of",
    "docker_schema2",
    "encode",
    "foreign_platform",
    "layers",
    "multi_platform",
    "sized",
    "with_zstd",
]
