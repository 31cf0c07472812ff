# SPDX-License-Identifier: Apache-2.0
"""`orlop-containerd check`: it finds what is damaged, tells it from what is only left over, and mends it."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable

import pytest
from support import images
from support.containerd import Daemon, Result, run

from orlop.codec import decode
from orlop.oci.image import Manifest, chain_ids

pytestmark = pytest.mark.root

IMAGE = "docker.io/library/layers:latest"
CONTENT = "io.containerd.content.v1.content"
SNAPSHOTS = "io.containerd.snapshotter.v1.overlayfs/snapshots"


def check(daemon: Daemon, *flags: str) -> Result:
    """Run the command."""
    module = [sys.executable, "-P", "-m", "orlop.containerd.main"]
    return run([*module, "--root", daemon.root, "--state", daemon.state, "check", *flags])


@pytest.fixture
def stopped(orlop: Daemon) -> Daemon:
    """A daemon that has an image and a container of it, and is stopped."""
    orlop.ctr("images", "import", str(images.archive("layers"))).ok()
    orlop.ctr("containers", "create", IMAGE, "c").ok()
    orlop.stop()
    return orlop


def layer_path(daemon: Daemon) -> str:
    """The blob of the image's lowest layer."""
    image = images.layers()
    layer = decode(image.blobs[image.target.digest], Manifest).layers[0]
    return f"{daemon.root}/{CONTENT}/blobs/sha256/{layer.digest.partition(':')[2]}"


def edit(daemon: Daemon, statement: str) -> None:
    """Change the metadata behind the daemon's back."""
    with sqlite3.connect(f"{daemon.root}/metadata.db") as db:
        assert db.execute(statement).rowcount
    db.close()


def test_a_whole_store(orlop: Daemon) -> None:
    assert check(orlop).status == 0
    orlop.ctr("images", "import", str(images.archive("layers"))).ok()
    orlop.ctr("run", "-d", IMAGE, "c", "sleep", "1000").ok()
    running = check(orlop)
    assert running.out.endswith("1 containers, 0 leases, 1 tasks: 0 faults, 0 leftovers\n")
    assert (running.status, running.out.count("\n")) == (0, 1)
    orlop.ctr("tasks", "rm", "-f", "c").ok()
    orlop.stop()
    before = os.stat(f"{orlop.root}/metadata.db").st_mtime_ns
    assert check(orlop).status == 0
    assert os.stat(f"{orlop.root}/metadata.db").st_mtime_ns == before  # it only looks


def flip(daemon: Daemon) -> None:
    path = layer_path(daemon)
    os.chmod(path, 0o600)
    with open(path, "r+b") as file:
        file.seek(100)
        file.write(b"\xff\xfe\xfd\xfc")


def cut(daemon: Daemon) -> None:
    os.truncate(layer_path(daemon), 100)


def lose(daemon: Daemon) -> None:
    os.unlink(layer_path(daemon))


def lose_a_directory(daemon: Daemon) -> None:
    shutil.rmtree(f"{daemon.root}/{SNAPSHOTS}/1")


def lose_a_record(daemon: Daemon) -> None:
    name = os.path.basename(layer_path(daemon))
    edit(daemon, f"DELETE FROM blobs WHERE digest = 'sha256:{name}'")


def lose_a_snapshot(daemon: Daemon) -> None:
    edit(daemon, "DELETE FROM snapshots WHERE key = 'c'")


def open_the_root(daemon: Daemon) -> None:
    os.chmod(daemon.root, 0o755)


def misname_a_parent(daemon: Daemon) -> None:
    edit(daemon, "UPDATE snapshots SET parent = number WHERE key = 'c'")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (flip, "its digest is sha256:"),
        (cut, "has 100 bytes, its record says"),
        (lose, "its file is not there"),
        (lose_a_directory, "snapshots/1/fs is not there"),
        (lose_a_record, "layers:latest: sha256:"),
        (lose_a_snapshot, "its snapshot overlayfs/c is not there"),
        (open_the_root, "mode 0755 lets others in"),
        (misname_a_parent, "is no committed snapshot before it"),
    ],
)
def test_damage_is_found(stopped: Daemon, damage: Callable[[Daemon], None], told: str) -> None:
    damage(stopped)
    result = check(stopped)
    assert result.status == 1
    assert told in result.out
    assert all(line.startswith(("fault: ", "leftover: ")) for line in result.out.splitlines()[:-1])


@pytest.mark.parametrize("damage", [flip, cut, lose])
def test_repaired_content_is_fetched_again(stopped: Daemon, damage: Callable[[Daemon], None]) -> None:
    damage(stopped)
    repaired = check(stopped, "--repair")
    assert "removed blob sha256:" in repaired.out
    assert repaired.status == 1  # the image is not whole yet
    stopped.start()
    stopped.ctr("images", "import", str(images.archive("layers"))).ok()
    assert check(stopped).status == 0


def test_repaired_snapshots_are_unpacked_again(stopped: Daemon) -> None:
    image = images.layers().image
    assert image is not None
    shutil.rmtree(f"{stopped.root}/{SNAPSHOTS}/2")
    kept = check(stopped, "--repair")
    assert (kept.status, "container c uses it" in kept.out) == (1, True)
    stopped.start()
    stopped.ctr("containers", "rm", "c").ok()
    stopped.stop()
    assert check(stopped, "--repair").status == 0
    # What stood on the snapshot went with it, what it stands on did not (a daemon that runs collects it soon).
    chains = chain_ids(image.rootfs.diff_ids)
    with contextlib.closing(sqlite3.connect(f"{stopped.root}/metadata.db")) as db:
        left = {key for (key,) in db.execute("SELECT key FROM snapshots")}
    assert [chain in left for chain in chains] == [True] + [False] * (len(chains) - 1)
    stopped.start()
    stopped.ctr("images", "import", str(images.archive("layers"))).ok()
    assert stopped.ctr("run", "--rm", IMAGE, "again", "echo", "here").ok() == "here\n"
    assert check(stopped).status == 0


def test_leftovers_are_no_faults(stopped: Daemon) -> None:
    stray = f"{stopped.root}/{CONTENT}/blobs/sha256/{'0' * 64}"
    for path in (stray, f"{stopped.root}/{CONTENT}/ingest/99", f"{stopped.root}/{CONTENT}/trash/x"):
        with open(path, "w", encoding="ascii") as file:
            file.write("left")
    os.makedirs(f"{stopped.root}/{SNAPSHOTS}/new-77/fs")
    os.makedirs(f"{stopped.state}/io.containerd.runtime.v2.task/{stopped.namespace}/gone/rootfs")
    result = check(stopped)
    assert result.status == 0
    assert result.out.count("leftover: ") == 6
    assert "0 faults, 6 leftovers" in result.out
    stopped.start()
    stopped.stop()
    assert "0 faults, 0 leftovers" in check(stopped).out
    assert not glob.glob(f"{stopped.root}/{CONTENT}/trash/*")


def test_a_running_daemon_is_not_repaired(orlop: Daemon) -> None:
    orlop.ctr("images", "import", str(images.archive("layers"))).ok()
    cut(orlop)
    result = check(orlop, "--repair")
    assert (result.status, "in use by a running containerd" in result.err) == (1, True)


def test_a_torn_blob_is_dropped_at_the_start(stopped: Daemon) -> None:
    """What a power cut may leave: the daemon does not serve it, and takes it again."""
    cut(stopped)
    stopped.start()
    name = os.path.basename(layer_path(stopped))
    assert name not in stopped.ctr("content", "ls", "-q").ok()
    stopped.ctr("images", "import", str(images.archive("layers"))).ok()
    assert check(stopped).status == 0


def test_no_store(tmp_path: object) -> None:
    module = [sys.executable, "-P", "-m", "orlop.containerd.main"]
    result = run([*module, "--root", f"{tmp_path}/none", "--state", "/tmp/none", "check"])
    assert (result.status, result.err) == (
        1,
        f"orlop-containerd: root {tmp_path}/none: there is no metadata.db\n",
    )
