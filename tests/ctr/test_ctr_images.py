# SPDX-License-Identifier: Apache-2.0
"""Images by orlop-ctr beyond the plain ones: platforms, conversion, archives, checkpoints, TLS."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import images
from support.containerd import Daemon, Result, run, wait_until
from support.registry import Registry, registry, running_registry

from orlop.codec import decode
from orlop.oci import apparmor
from orlop.oci.image import (
    DOCKER_MANIFEST,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Index,
    Manifest,
)

__all__ = ["registry"]

pytestmark = pytest.mark.root

IMAGE = "docker.io/library/busybox:latest"


class Ctr:
    """orlop-ctr on an orlop-containerd."""

    def __init__(self) -> None:
        self.daemon = Daemon("orlop").start()
        self.command = [sys.executable, "-P", "-m", "orlop.ctr.main", "-a", self.daemon.address]
        self.command += ["-n", self.daemon.namespace]

    def __call__(self, *words: str) -> Result:
        return run([*self.command, *words], stdin=subprocess.DEVNULL, timeout=120)

    def blobs(self) -> set[str]:
        return set(self("content", "ls", "-q").ok().split())

    def document(self, name: str) -> dict[str, object]:
        """The manifest or index of an image."""
        row = next(line.split() for line in self("images", "ls").ok().splitlines() if line.startswith(f"{name} "))
        found: dict[str, object] = json.loads(self("content", "get", row[2]).ok())
        return found


@pytest.fixture(scope="module")
def ctr() -> Iterator[Ctr]:
    made = Ctr()
    made("images", "import", images.archive("busybox")).ok()
    yield made
    names = made("images", "ls", "-q").ok().split()
    made("images", "rm", "--sync", *names).ok()
    assert made.blobs() == set()
    made.daemon.remove()


def test_platforms_of_a_pull(ctr: Ctr, registry: Registry) -> None:
    image = images.multi_platform()
    name = registry.push(image, "ctr/multi:1")
    index = decode(image.blobs[image.target.digest], Index)
    parts = [decode(image.blobs[each.digest], Manifest) for each in index.manifests]
    layers = {layer.digest for part in parts for layer in part.layers}
    configs = {part.config.digest for part in parts}
    ctr("content", "fetch", "--plain-http", "--metadata-only", name).ok()
    assert configs <= ctr.blobs() and not (layers - {busybox_layer()}) & ctr.blobs()
    ctr("images", "pull", "--plain-http", "--skip-metadata", "--platform", "linux/arm64", "--sync-fs", name).ok()
    assert len(layers & ctr.blobs()) < len(layers)
    ctr("images", "pull", "--plain-http", "--all-platforms", "--http-dump", name).ok()
    assert layers <= ctr.blobs()
    ctr("images", "rm", "--sync", name).ok()


def busybox_layer() -> str:
    image = images.busybox()
    return decode(image.blobs[image.target.digest], Manifest).layers[0].digest


def test_convert(ctr: Ctr, tmp_path: Path) -> None:
    digest = ctr("images", "convert", "--uncompress", "--oci", IMAGE, "example.com/plain:1").ok().strip()
    made = decode(ctr("content", "get", digest).ok().encode(), Manifest)
    assert made.media_type == OCI_MANIFEST
    assert [layer.media_type for layer in made.layers] == [OCI_LAYER]
    config = json.loads(ctr("content", "get", made.config.digest).ok())
    assert [layer.digest for layer in made.layers] == config["rootfs"]["diff_ids"]
    assert ctr("run", "--rm", "example.com/plain:1", "plain", "echo", "runs").ok() == "runs\n"
    # Away with the original: what was converted stands by itself.
    ctr("images", "export", str(tmp_path / "plain.tar"), "example.com/plain:1").ok()
    with tarfile.open(tmp_path / "plain.tar") as tar:
        assert f"blobs/{made.layers[0].digest.replace(':', '/')}" in tar.getnames()
    ctr("images", "rm", "--sync", "example.com/plain:1").ok()
    assert made.layers[0].digest not in ctr.blobs()


def test_file_systems(ctr: Ctr, registry: Registry, tmp_path: Path) -> None:
    """Layers as EROFS: what the kernel mounts is what the layers say, deletions as overlayfs has them."""
    name = registry.push(images.layers(), "ctr/layers:1")
    ctr("images", "pull", "--plain-http", name).ok()
    digest = ctr("images", "convert", "--erofs", "raw", "--oci", name, "example.com/erofs:1").ok().strip()
    again = ctr("images", "convert", "--erofs", "raw", "--oci", name, "example.com/erofs:2").ok().strip()
    assert again == digest
    made = decode(ctr("content", "get", digest).ok().encode(), Manifest)
    assert {layer.media_type for layer in made.layers} == {"application/vnd.erofs.layer.v1"}
    config = json.loads(ctr("content", "get", made.config.digest).ok())
    assert config["rootfs"]["diff_ids"] == [layer.digest for layer in made.layers]
    assert config["os.features"] == ["erofs"]

    words = ("--erofs", "zstd", "--erofs-compressors", "lz4hc,9", "--erofs-mkfs-options=-Eforce-inode-extended")
    digest = ctr("images", "convert", *words, name, "example.com/erofs:3").ok().strip()
    packed = decode(ctr("content", "get", digest).ok().encode(), Manifest)
    assert {layer.media_type for layer in packed.layers} == {"application/vnd.erofs.layer.v1+zstd"}
    assert "expected raw or zstd" in ctr("images", "convert", "--erofs", "x", name, "example.com/x:1").err
    assert (
        "mkfs.erofs: " in ctr("images", "convert", "--erofs=raw", "--erofs-compressors=x", name, "a.com/x:1").err
    )

    cache = tmp_path / "cache"
    done = ctr("images", "build-erofs-cache", "--dmverity", "--compressors", "lz4", name, str(cache))
    assert done.ok() == f"{cache}\n"
    source = decode(images.layers().blobs[images.layers().target.digest], Manifest)
    diff_ids = json.loads(images.layers().blobs[source.config.digest])["rootfs"]["diff_ids"]
    blobs = [
        cache / "sha256" / hex[:2] / f"{hex}.erofs" for _, _, hex in (each.partition(":") for each in diff_ids)
    ]
    assert {path for path in cache.rglob("*") if path.is_file()} == {
        *blobs, *(path.with_name(f"{path.name}.dmverity") for path in blobs)
    }  # fmt: skip
    for path in blobs:
        told = json.loads(path.with_name(f"{path.name}.dmverity").read_text())
        words = ("verify", str(path), str(path), told["roothash"], f"--hash-offset={told['hashoffset']}")
        subprocess.run(["veritysetup", *words], check=True, capture_output=True)
    tree = _mounted(blobs, tmp_path)
    assert tree == ctr("run", "--rm", "--user", "0", "--cwd", "/", name, "tree", "sh", "-c", _LISTING).ok()
    assert (
        "tree/inner/kept " in tree and "below" not in tree and tree.endswith("two\n") and "opaque/old" not in tree
    )
    ctr("images", "rm", "--sync", name, *(f"example.com/erofs:{number}" for number in (1, 2, 3))).ok()


# Not /tree itself: a layer that does not bring a directory cannot tell its time.
_PATHS = "tree/inner/* opaque replaced changed setuid owned first second"
_LISTING = f"find {_PATHS} -exec stat -c '%n %f %u:%g %Y' {{}} + | sort; cat changed"


def _mounted(blobs: list[Path], directory: Path) -> str:
    """What a listing of file systems shows that are mounted over each other, the first at the bottom."""
    places = [directory / f"lower{number}" for number in range(len(blobs))]
    for place in (*places, directory / "all"):
        place.mkdir()
    lines = [f"mount -t erofs -o loop,ro {blob} {place}" for blob, place in zip(blobs, places, strict=True)]
    lower = ":".join(map(str, reversed(places)))
    lines += [f"mount -t overlay -o ro,lowerdir={lower} none {directory}/all", f"cd {directory}/all", _LISTING]
    words = ["unshare", "--mount", "sh", "-ec", "\n".join(lines)]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def test_convert_to_zstd_and_back(ctr: Ctr) -> None:
    def layer(name: str) -> dict[str, Any]:
        (found,) = ctr.document(name)["layers"]  # type: ignore[misc]
        return found  # type: ignore[no-any-return]

    before = layer(IMAGE)
    ctr("images", "convert", "--zstd", "--oci", IMAGE, "example.com/zstd:1").ok()
    made = layer("example.com/zstd:1")
    assert made["mediaType"] == OCI_LAYER_ZSTD and made["digest"] in ctr.blobs()
    assert ctr("run", "--rm", "example.com/zstd:1", "zstd", "echo", "runs").ok() == "runs\n"
    ctr("images", "convert", "--gzip", "example.com/zstd:1", "example.com/gzip:1").ok()
    again = layer("example.com/gzip:1")
    assert again["mediaType"] == OCI_LAYER_GZIP
    ctr("images", "convert", "--uncompress", "--oci", IMAGE, "example.com/plain:1").ok()
    ctr("images", "convert", "--uncompress", "example.com/gzip:1", "example.com/plain:2").ok()
    assert layer("example.com/plain:1") == layer("example.com/plain:2") != before
    assert "exclude each other" in ctr("images", "convert", "--zstd", "--gzip", IMAGE, "example.com/x:1").err
    names = ("zstd:1", "gzip:1", "plain:1", "plain:2")
    ctr("images", "rm", "--sync", *(f"example.com/{name}" for name in names)).ok()


def test_names_of_an_archive(ctr: Ctr, tmp_path: Path) -> None:
    archive, digest = images.archive("busybox"), images.busybox().target.digest
    words = ["images", "import", "--no-unpack", "--digests", "--base-name", "docker.io/library/busybox"]
    assert set(ctr(*words, archive).ok().split()) >= {f"{IMAGE}:", f"docker.io/library/busybox@{digest}:"}
    done = ctr(*words, "--skip-digest-for-named", "--index-name", "example.com/index:1", archive)
    assert "@" not in done.ok() and "example.com/index:1" in done.out
    assert ctr.document("example.com/index:1")["manifests"]
    assert ctr("images", "import", "--base-name", "docker.io/library/busy", archive).ok() == ""
    assert "incompatible" in ctr("images", "import", "--no-unpack", "--discard-unpacked-layers", archive).err
    ctr("images", "rm", f"docker.io/library/busybox@{digest}", "example.com/index:1").ok()
    path = str(tmp_path / "bare.tar")
    ctr("images", "export", "--skip-manifest-json", path, IMAGE).ok()
    with tarfile.open(path) as tar:
        assert "manifest.json" not in tar.getnames()


@pytest.mark.long
def test_compressing_and_discarding(ctr: Ctr, tmp_path: Path) -> None:
    """An archive of `docker save` with plain layers; afterwards only the snapshots hold them."""
    plain = ctr("images", "convert", "--uncompress", IMAGE, "example.com/plain:2").ok().strip()
    path = str(tmp_path / "oci.tar")
    ctr("images", "export", path, "example.com/plain:2").ok()
    with tarfile.open(path) as tar, tarfile.open(tmp_path / "docker.tar", "w") as out:
        for member in tar:
            if member.name not in ("index.json", "oci-layout"):
                out.addfile(member, tar.extractfile(member))
    ctr("images", "rm", "--sync", "example.com/plain:2").ok()
    ctr("images", "import", "--compress-blobs", str(tmp_path / "docker.tar")).ok()
    made = ctr.document("example.com/plain:2")
    assert made["mediaType"] == DOCKER_MANIFEST
    (layer,) = made["layers"]  # type: ignore[misc]
    assert layer["mediaType"].endswith("tar.gzip") and layer["digest"] in ctr.blobs()
    assert plain not in ctr.blobs()
    ctr("images", "rm", "--sync", "example.com/plain:2").ok()
    ctr("images", "import", "--compress-blobs", "--discard-unpacked-layers", str(tmp_path / "docker.tar")).ok()
    ctr("content", "prune", "references", "--dry").ok()
    ctr("leases", "create", "--id", "collect").ok()
    ctr("leases", "rm", "--sync", "collect").ok()
    assert layer["digest"] not in ctr.blobs()
    assert ctr("run", "--rm", "example.com/plain:2", "gone", "echo", "unpacked").ok() == "unpacked\n"
    ctr("images", "rm", "--sync", "example.com/plain:2").ok()


def test_tag_wants_references(ctr: Ctr) -> None:
    assert "invalid reference format" in ctr("images", "tag", IMAGE, "No Such/Name").err
    ctr("images", "tag", "--skip-reference-check", IMAGE, "No_Such/Name").ok()
    ctr("images", "rm", "No_Such/Name").ok()


def test_checkpoint_of_a_container(ctr: Ctr) -> None:
    """The writable layer, the image and the spec, as an image of their own; CRIU is not asked."""
    flags = ("--runtime", "io.containerd.orlop.v2", "-d", "--null-io", "--env", "WORD=kept")
    ctr("run", *flags, IMAGE, "box", "sh", "-c", "echo new > /made; exec sleep 1000").ok()
    ctr("tasks", "exec", "--exec-id", "w", "box", "sh", "-c", "until test -s /made; do sleep 0.1; done").ok()
    ctr("containers", "checkpoint", "--rw", "--image", "box", "example.com/box:1").ok()
    ctr("tasks", "rm", "-f", "box")
    ctr("containers", "rm", "box").ok()
    assert "was made without --task" in ctr("containers", "restore", "--live", "box", "example.com/box:1").err
    assert ctr("containers", "rm", "box").ok() == ""
    words = ["containers", "restore", "--rw", "box", "example.com/box:1"]
    restoring = subprocess.Popen([*ctr.command, *words], stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: "RUNNING" in ctr("tasks", "ls").ok(), timeout=60)
        inside = ctr("tasks", "exec", "--exec-id", "r", "box", "sh", "-c", "cat /made; echo $WORD").ok()
        assert inside == "new\nkept\n"
        ctr("tasks", "kill", "-s", "KILL", "box").ok()
        assert restoring.wait(60) == 137
    finally:
        restoring.kill()
        restoring.wait()
    ctr("containers", "rm", "box").ok()
    assert "no image" not in ctr("containers", "checkpoint", "none", "example.com/none:1").err
    ctr("images", "rm", "--sync", "example.com/box:1").ok()


def test_install(ctr: Ctr, tmp_path: Path) -> None:
    done = ctr("install", "--path", str(tmp_path / "opt"), IMAGE)
    assert done.status in (0, 1)  # busybox has links that lead out of its bin
    assert (tmp_path / "opt/bin/busybox").stat().st_mode & 0o111
    again = ctr("install", "--path", str(tmp_path / "opt"), IMAGE)
    assert again.status == 1 and "use --replace" in again.err
    # Without --path it is the daemon's own directory, from which it takes runtimes and shims.
    listed = ctr("plugins", "ls", "-d", "id==opt").ok()
    (exported,) = re.findall(r"path +(\S+)", listed)
    ctr("install", IMAGE)
    assert os.access(f"{exported}/bin/busybox", os.X_OK)


def test_client_certificates(ctr: Ctr, tmp_path: Path) -> None:
    """A registry that lets in only who has a certificate."""
    with running_registry(tls=True, mutual=True) as running:
        name = running.push(images.busybox(), "tls/box:1")
        assert running.ca is not None
        files = {"--tlscacert": "ca.crt", "--tlscert": "client.crt", "--tlskey": "client.key"}
        flags = [word for flag, file in files.items() for word in (flag, str(running.ca.parent / file))]
        assert "tls" in ctr("images", "pull", *flags[:2], name).err
        assert "expected both" in ctr("images", "pull", *flags[:4], name).err
        done = ctr("images", "pull", "--http-dump", "--http-trace", *flags, name)
        assert done.ok() == f"{name}: {images.busybox().target.digest}\n"
        assert "GET /v2/ HTTP/1.1\n" in done.err and "HTTP/1.1 200 OK" in done.err and "connected" in done.err
        ctr("images", "push", "--skip-verify", *flags[2:], name.replace("box:1", "box:2"), name).ok()
        ctr("images", "rm", "--sync", name).ok()


@pytest.mark.skipif(os.path.exists(apparmor.PROFILES), reason="the kernel runs AppArmor")
def test_a_profile_where_there_is_no_apparmor(ctr: Ctr) -> None:
    done = ctr("run", "--rm", "--apparmor-default-profile", "mine", IMAGE, "confined", "true")
    assert done.status == 1 and "mine cannot be loaded: the kernel does not run AppArmor" in done.err
    assert "confined" not in ctr("containers", "ls", "-q").ok()
    assert "confined" not in ctr("snapshots", "ls").ok()
