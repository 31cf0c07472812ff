# SPDX-License-Identifier: Apache-2.0
"""Images and users from strangers, and who may look at what the daemon keeps."""

from __future__ import annotations

import io
import json
import os
import re
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import images
from support.containerd import Daemon, run, wait_until
from support.containerd_state import assert_settled, report_of, shims

from orlop.containerd.client import Client, typeurl
from orlop.containerd.client import archive as client_archive
from orlop.containerd.client.archive import ImportedImage, import_archive
from orlop.containerd.client.unpack import to_proto
from orlop.ctr.users import resolve_user
from orlop.errdefs import DataLossError, InvalidArgumentError, OrlopError
from orlop.oci.build import LayerBuilder, build_image, write_archive
from orlop.oci.image import OCI_INDEX, OCI_MANIFEST, ImageConfig, digest_of

pytestmark = pytest.mark.root

NOBODY = 65534


def blob(document: object) -> bytes:
    return json.dumps(document).encode()


def descriptor(data: bytes, media_type: str, **fields: object) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **fields}


def index(*manifests: object) -> bytes:
    return blob({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(manifests)})


def archive(top: bytes, *blobs: bytes, **more: bytes) -> bytes:
    """An OCI layout as a tar."""
    buffer = io.BytesIO()
    members = {f"blobs/sha256/{digest_of(data)[7:]}": data for data in blobs}
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in {**members, "index.json": top, **more}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


async def take(daemon: Daemon, data: bytes, reference: str = "") -> list[ImportedImage]:
    """Import an archive under a reference; without one it is to fail."""

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 1 << 18):
            yield data[start : start + (1 << 18)]

    async with Client(daemon.address, daemon.namespace) as client:

        async def name(image: ImportedImage) -> None:
            assert reference, f"{image.target.digest} is to have no name"
            await client.images.create(reference, to_proto(image.target))

        return await import_archive(client, chunks(), name)


def parts() -> Mapping[str, bytes]:
    """Manifest, configuration and layer of an image that is as it should be."""
    image = images.busybox()
    manifest = image.blobs[image.target.digest]
    names = json.loads(manifest)
    return {
        "manifest": manifest,
        "config": image.blobs[names["config"]["digest"]],
        "layer": image.blobs[names["layers"][0]["digest"]],
    }


def changed(**fields: object) -> bytes:
    """The manifest, with fields of its layer changed."""
    document = json.loads(parts()["manifest"])
    document["layers"][0].update(fields)
    return blob(document)


def refused_archives() -> Iterator[object]:
    good = parts()
    rest = (good["config"], good["layer"])

    def one(manifest: bytes, media_type: str = OCI_MANIFEST, **fields: object) -> bytes:
        return archive(index(descriptor(manifest, media_type, **fields)), manifest, *rest)

    yield pytest.param(
        one(blob({**json.loads(good["manifest"]), "manifests": [descriptor(b"x", OCI_MANIFEST)]})),
        "ambiguous",
        id="both",
    )
    yield pytest.param(one(good["manifest"], OCI_INDEX), "says it is|ambiguous", id="a-manifest-called-index")
    yield pytest.param(one(changed(size=-1)), "negative size", id="negative")
    yield pytest.param(one(changed(size=1 << 70)), "size|expected|range|malformed", id="beyond-64-bits")
    yield pytest.param(one(changed(digest="sha256:../../../../etc/passwd")), "invalid checksum", id="a-path")
    yield pytest.param(
        one(changed(digest="sha256:" + "0" * 64)), "not found|lacks", id="a-layer-that-is-not-there"
    )
    yield pytest.param(
        archive(index(descriptor(good["manifest"], OCI_MANIFEST)), good["manifest"], good["config"]),
        "not found|lacks",
        id="a-layer-that-was-left-out",
    )
    yield pytest.param(archive(b" " * (5 << 20)), "more than 4194304", id="a-long-index")
    yield pytest.param(archive(b"[" * (1 << 20)), "index.json", id="a-deep-index")
    yield pytest.param(archive(index(descriptor(b"[" * 500_000, OCI_INDEX)), b"[" * 500_000), "", id="deep-json")
    yield pytest.param(
        archive(index(*[descriptor(b"none", OCI_MANIFEST)] * 10_000)), "lacks", id="many-of-nothing"
    )
    yield pytest.param(
        archive(b"", **{"manifest.json": b"[]"})[: 512 * 3], "index.json|empty|ends|malformed", id="an-empty-index"
    )


@pytest.mark.parametrize(("data", "message"), list(refused_archives()))
async def test_refused_images(orlop: Daemon, data: bytes, message: str) -> None:
    """One clear line, in a short time; no image, and nothing that keeps what came."""
    start = time.monotonic()
    with pytest.raises(OrlopError) as caught:
        await take(orlop, data)
    assert re.search(message, str(caught.value)), caught.value
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 15
    assert_settled(orlop)
    wait_until(lambda: not any(report_of(orlop).counts.values()))


def nest(levels: int, width: int, innermost: dict[str, object]) -> tuple[bytes, list[bytes]]:
    """Indexes in an index, `width` times the same in each: the top, and the documents below it."""
    documents: list[bytes] = []
    item = innermost
    for _ in range(levels):
        documents.append(index(*[item] * width))
        item = descriptor(documents[-1], OCI_INDEX)
    return index(item), documents


async def test_indexes_too_deep(orlop: Daemon) -> None:
    top, documents = nest(50, 1, descriptor(parts()["manifest"], OCI_MANIFEST))
    with pytest.raises(InvalidArgumentError, match="nested deeper than 3 levels"):
        await take(orlop, archive(top, *documents, *parts().values()))


async def test_indexes_of_the_same_again_and_again(orlop: Daemon) -> None:
    """A thousand times a thousand times the same, and the last is not there: each is looked for once."""
    top, documents = nest(2, 1000, descriptor(b"not there", OCI_MANIFEST))
    start = time.monotonic()
    (image,) = await take(orlop, archive(top, *documents), "again:1")
    assert image.content is None
    assert time.monotonic() - start < 15
    assert ["again:1: sha256:" in str(fault) for fault in report_of(orlop).faults] == [True]
    assert time.monotonic() - start < 20


async def test_an_archive_of_too_many_members(orlop: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_archive, "MEMBERS_MAX", 100)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(101):
            info = tarfile.TarInfo(f"link{number}")
            info.type, info.linkname = tarfile.SYMTYPE, "x"
            tar.addfile(info)
    with pytest.raises(InvalidArgumentError, match="more than 100 members"):
        await take(orlop, buffer.getvalue())


async def test_a_blob_that_is_not_its_name(orlop: Daemon) -> None:
    data = archive(index(descriptor(b"good", OCI_MANIFEST)), b"good").replace(b"good", b"evil")
    with pytest.raises((DataLossError, InvalidArgumentError)):
        await take(orlop, data)


# Who may look.


def test_nobody_else_gets_in(orlop: Daemon) -> None:
    """CVE-2021-41103, CVE-2024-25621: bundles, snapshots and sockets are out of another user's reach."""
    orlop.ctr("images", "import", str(images.archive("busybox"))).ok()
    orlop.ctr(
        "run", "-d", "--runtime", "io.containerd.orlop.v2", "docker.io/library/busybox:latest", "c", "sleep", "100"
    ).ok()
    os.chmod(orlop.base, 0o755)
    task = f"{orlop.state}/io.containerd.runtime.v2.task/{orlop.namespace}/c"
    inside = [
        f"{orlop.root}/metadata.db",
        f"{orlop.root}/io.containerd.content.v1.content/blobs",
        f"{orlop.root}/io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs/bin",
        f"{task}/rootfs/bin",
        f"{task}/config.json",
        f"{orlop.state}/s",
    ]
    assert all(os.path.exists(path) for path in inside)
    code = (
        "import os, sys\nos.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "for path in sys.argv[1:]:\n"
        "    try: os.stat(path)\n    except PermissionError: continue\n    sys.exit(path)\n"
    )
    subprocess.run([sys.executable, "-c", code, *inside], check=True)
    for directory in (orlop.root, orlop.state, f"{orlop.state}/s"):
        assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
    for path in (orlop.address, orlop.address + ".ttrpc"):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    # CVE-2020-15257: no socket is reached by network namespace alone.
    names = os.listdir(f"{orlop.state}/s")
    sockets = Path("/proc/net/unix").read_text(encoding="ascii", errors="replace")
    assert len(names) == 2  # the shim's own and, at this level of the log, that for debugging
    for name in names:
        assert stat.S_IMODE(os.stat(f"{orlop.state}/s/{name}").st_mode) & 0o077 == 0
        assert f"{orlop.state}/s/{name}" in sockets
    assert not re.search(r"@\S*(containerd|orlop)", sockets)
    orlop.ctr("tasks", "rm", "-f", "c").ok()


async def test_failed_execs_leave_nothing(orlop: Daemon) -> None:
    """CVE-2022-23471: execs at a terminal that cannot start, again and again."""
    orlop.ctr("images", "import", str(images.archive("busybox"))).ok()
    image = "docker.io/library/busybox:latest"
    orlop.ctr("run", "-d", "--runtime", "io.containerd.orlop.v2", image, "c", "sleep", "100").ok()
    assert orlop.process is not None
    (shim,) = shims(orlop)
    process = typeurl.pack_json(
        typeurl.PROCESS, b'{"args": ["/none"], "cwd": "/", "terminal": true, "user": {"uid": 0, "gid": 0}}'
    )

    def open_files() -> list[int]:
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in (orlop.process.pid, shim)]  # type: ignore[union-attr]

    async with Client(orlop.address, orlop.namespace) as client:
        counts = []
        for number in range(60):
            await client.tasks.exec("c", f"e{number}", process, terminal=True)
            with pytest.raises(OrlopError, match="none"):
                await client.tasks.start("c", f"e{number}")
            await client.tasks.delete_process("c", f"e{number}")
            counts.append(open_files())
    assert counts[-1] == counts[9]
    orlop.ctr("tasks", "rm", "-f", "c").ok()


def test_labels_of_an_image_that_act(orlop: Daemon, tmp_path: Path) -> None:
    """CVE-2026-53488: what an image says of itself never tells containerd what to do."""
    layer = LayerBuilder()
    layer.file("file", b"")
    labels = {"containerd.io/restart.loguri": "binary:///bin/id", "containerd.io/gc.root": "1", "plain": "yes"}
    image = build_image([layer.finish()], ImageConfig(cmd=["/none"], labels=labels))
    with open(tmp_path / "image.tar", "wb") as file:
        write_archive({"acts:1": image}, file)
    program = [sys.executable, "-P", "-m", "orlop.ctr.main", "-a", orlop.address, "-n", orlop.namespace]
    run([*program, "images", "import", f"{tmp_path}/image.tar"]).ok()
    run([*program, "containers", "create", "docker.io/library/acts:1", "c"]).ok()
    shown = json.loads(run([*program, "containers", "info", "c"]).ok())["Labels"]
    del shown["io.containerd.image.config.stop-signal"]  # ctr's own
    assert shown == {"plain": "yes"}
    run([*program, "containers", "rm", "c"]).ok()


# Users.


@contextmanager
def rootfs(path: Path) -> Iterator[str]:
    yield str(path)


@pytest.mark.parametrize("user", ["2147483648", "4294967296", "99999999999999999999", "1:2147483648", "9" * 5000])
def test_users_beyond_the_range(tmp_path: Path, user: str) -> None:
    """CVE-2024-40635, CVE-2026-46680: never root, never looked up as a name."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(f"{user.partition(':')[0]}:x:0:0::/:/bin/sh\n", encoding="ascii")
    with pytest.raises(InvalidArgumentError, match="expected 0 to 2147483647"):
        resolve_user(user, lambda: rootfs(tmp_path))


def test_a_number_is_no_name(tmp_path: Path) -> None:
    """CVE-2016-3697."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("1000:x:0:0::/:/bin/sh\n", encoding="ascii")
    assert resolve_user("1000", lambda: rootfs(tmp_path)).uid == 1000


@pytest.mark.parametrize("user", ["\uff11", "\u00b2", "+1", "-1", " 1", "0x0"])
def test_odd_digits(tmp_path: Path, user: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n", encoding="ascii")
    with pytest.raises(InvalidArgumentError, match="no such user"):
        resolve_user(user, lambda: rootfs(tmp_path))


@pytest.mark.parametrize("kind", ["fifo", "device", "long", "directory"])
def test_user_databases_without_end(tmp_path: Path, kind: str) -> None:
    """CVE-2026-47262: bounded in memory and time."""
    (tmp_path / "etc").mkdir()
    path = tmp_path / "etc/passwd"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    elif kind == "long":
        with open(path, "wb") as file:
            os.truncate(file.fileno(), 1 << 30)
    else:
        path.mkdir()
    start = time.monotonic()
    with pytest.raises(InvalidArgumentError, match="/etc/passwd"):
        resolve_user("somebody", lambda: rootfs(tmp_path))
    assert time.monotonic() - start < 1
