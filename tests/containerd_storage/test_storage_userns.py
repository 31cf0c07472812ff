# SPDX-License-Identifier: Apache-2.0
"""Layers where ids and attributes are others: a daemon in a user namespace, snapshots with mapped ids."""

import os
import shutil
import stat
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from support import in_user_namespace
from support.containerd import Daemon
from support.layers import Layer, RemoteLayers, tree_of
from support.snapshotter_suite import ROOT
from support.storage import LocalStorage, digest_of, opened, put

from orlop.containerd.core.diff import Descriptor
from orlop.containerd.core.idmaps import GID_LABEL, UID_LABEL, kernel_maps_layers
from orlop.containerd.core.mount import Mount
from orlop.containerd.core.namespaces import Scope
from orlop.containerd.plugins.snapshots_overlay import UPPER_LABEL
from orlop.containerd.storage import Settings

pytestmark = pytest.mark.root

TAR = "application/vnd.oci.image.layer.v1.tar"
_NAMESPACE = (sys.executable, "-P", in_user_namespace.__file__)


@pytest.fixture(scope="module", params=["orlop", pytest.param("original", marks=pytest.mark.original)])
def rootless(request: pytest.FixtureRequest) -> Iterator[RemoteLayers]:
    """The Diff service of a daemon in a user namespace."""
    daemon = Daemon(request.param).start(by=_NAMESPACE)
    try:
        with grpc.insecure_channel(f"unix:{daemon.address}") as channel:
            yield RemoteLayers(channel, Scope("rootless"))
    finally:
        daemon.remove()


def apply(remote: RemoteLayers, layer: Layer, mounts: list[Mount]) -> None:
    """Apply a layer that is not in the store yet."""
    data = layer.bytes()
    put(remote.content, data, ROOT)
    remote.apply(Descriptor(TAR, digest_of(data), len(data)), mounts)


def test_layers_in_a_user_namespace(rootless: RemoteLayers) -> None:
    """Deletions and directories that hide others are seen, though nobody may write trusted.overlay.*."""
    below = Layer().directory("d").add("d/old").directory("o").add("o/old").add("gone").directory("anew")
    below.add("anew/old").add("null", tarfile.CHRTYPE, devmajor=1, devminor=3)
    apply(rootless, below, rootless.snapshots.prepare("unpacking", "", ROOT))
    rootless.snapshots.commit("below", "unpacking", ROOT)
    above = Layer().add(".wh.gone").directory("d").add("d/new").directory("o").add("o/.wh..wh..opq").add("o/new")
    above.add(".wh.anew").directory("anew").add("anew/new")
    mounts = rootless.snapshots.prepare("above", "below", ROOT)
    assert "userxattr" in mounts[0].options
    apply(rootless, above, mounts)
    with opened(mounts) as root:
        found = sorted(name for name in tree_of(root))
        assert found == ["/anew", "/anew/new", "/d", "/d/new", "/d/old", "/o", "/o/new"]
        os.unlink(f"{root}/d/old")
        shutil.rmtree(f"{root}/o")
        os.mkdir(f"{root}/o")
    view = rootless.snapshots.view("below-view", "below", ROOT)
    layer = rootless.compare(view, mounts, TAR)
    again = rootless.snapshots.prepare("again", "below", ROOT)
    rootless.apply(layer, again)
    with opened(again) as root:
        found = sorted(tree_of(root))
        assert found == ["/anew", "/anew/new", "/d", "/d/new", "/o"]
        assert os.listxattr(f"{root}/anew") == []


def test_options_of_overlays() -> None:
    local = LocalStorage(Settings(overlay_options=("userxattr", "index=on"), overlay_upper_label=True))
    try:
        snapshots = local.storage.snapshotters["overlayfs"].bind(Scope("options"))
        snapshots.prepare("new", "")
        snapshots.commit("base", "new")
        (mount,) = snapshots.prepare("box", "base")
        assert mount.options[-2:] == ("userxattr", "index=on")
        assert snapshots.stat("box").labels == {UPPER_LABEL: mount.option("upperdir")}
        assert [info.labels for info in snapshots.walk([f'labels."{UPPER_LABEL}"!=""'])] != []
        assert snapshots.update("box", {"a": "b"}, ["labels.a"]).labels["a"] == "b"
    finally:
        local.remove()


_MAPPED = {UID_LABEL: "0:100000:65536", GID_LABEL: "0:200000:65536", **ROOT}
_needs_mapping = pytest.mark.skipif(not kernel_maps_layers(), reason="overlays of mapped layers need Linux 6.13")


class Mapped:
    """A snapshot with mapped ids over two files of root's and of user 5's."""

    def __init__(self, channel: grpc.Channel, scope: Scope) -> None:
        self.remote = RemoteLayers(channel, scope)
        below = Layer().add("root").add("five", uid=5, gid=6).directory("d").add("d/old")
        apply(self.remote, below, self.remote.snapshots.prepare("unpacking", "", ROOT))
        self.remote.snapshots.commit("base", "unpacking", ROOT)

    def prepare(self, key: str) -> list[Mount]:
        """A mapped snapshot over them."""
        return self.remote.snapshots.prepare(key, "base", _MAPPED)


@pytest.fixture(scope="module")
def mapping_daemon() -> Iterator[grpc.Channel]:
    """A daemon of ours: containerd 1.6 maps no ids."""
    daemon = Daemon().start()
    try:
        with grpc.insecure_channel(f"unix:{daemon.address}") as channel:
            yield channel
    finally:
        daemon.remove()


@pytest.fixture
def mapped(mapping_daemon: grpc.Channel, scope: Scope) -> Mapped:
    """In a namespace of its own."""
    return Mapped(mapping_daemon, scope)


def _upper(mounts: list[Mount]) -> str:
    upper = mounts[0].option("upperdir")
    assert upper is not None
    return upper


def _owners(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_uid, status.st_gid


@_needs_mapping
def test_a_layer_applied_to_mapped_ids(mapped: Mapped) -> None:
    """On the disk what is the snapshot's own has the ids outside."""
    mounts = mapped.prepare("box")
    layer = Layer().add("d/new", uid=7, gid=8).add(".wh.five").directory("o", mode=0o700).add("o/.wh..wh..opq")
    apply(mapped.remote, layer.link("soft", "d").hardlink("hard", "d/new", uid=7, gid=8), mounts)
    upper = _upper(mounts)
    owners = {name: _owners(f"{upper}/{name}") for name in ("", "d", "d/new", "hard", "o", "five", "soft")}
    root, seven = (100_000, 200_000), (100_007, 200_008)
    wanted = {"": root, "d": root, "o": root, "five": root, "soft": root, "d/new": seven, "hard": seven}
    assert owners == wanted
    assert stat.S_ISCHR(os.lstat(f"{upper}/five").st_mode)
    assert os.getxattr(f"{upper}/o", "trusted.overlay.opaque") == b"y"


@_needs_mapping
def test_a_layer_of_mapped_ids(mapped: Mapped) -> None:
    """It has the ids inside, and nothing that is as it was below."""
    mounts = mapped.prepare("box")
    apply(mapped.remote, Layer().add("own", uid=7, gid=8), mounts)
    upper = Path(_upper(mounts))
    (upper / "by-hand").write_text("x")  # as a process of the container does
    os.chown(upper / "by-hand", 100_009, 200_010)
    layer = mapped.remote.compare(mapped.remote.snapshots.view("view", "base", ROOT), mounts, TAR)
    mapped_view = mapped.remote.snapshots.view("mapped-view", "base", _MAPPED)
    assert mapped.remote.compare(mapped_view, mounts, TAR).digest == layer.digest
    plain = mapped.remote.snapshots.prepare("plain", "base", ROOT)
    mapped.remote.apply(layer, plain)
    found = {name: _owners(f"{_upper(plain)}/{name}") for name in os.listdir(_upper(plain))}
    assert found == {"own": (7, 8), "by-hand": (9, 10)}


@_needs_mapping
def test_ids_that_nobody_has_inside(mapped: Mapped) -> None:
    with pytest.raises(grpc.RpcError, match='"far"'):
        apply(mapped.remote, Layer().add("far", uid=70_000), mapped.prepare("box"))
    mounts = mapped.prepare("half")
    options = tuple(option for option in mounts[0].options if not option.startswith("gidmap="))
    with pytest.raises(grpc.RpcError, match="expected both uidmap and gidmap"):
        apply(mapped.remote, Layer().add("x"), [mounts[0]._replace(options=options)])
