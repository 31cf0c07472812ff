# SPDX-License-Identifier: Apache-2.0
"""What every snapshotter must do: a class of tests over the fixture `snapshotter`."""

import os
import stat
import time

import pytest
from support.storage import opened

from orlop.containerd.core.snapshots import Kind, Snapshotter
from orlop.errdefs import (
    AlreadyExistsError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
)

# Without this label the collector of a running daemon takes what no image or container refers to.
ROOT = {"containerd.io/gc.root": "test"}


def write(path: str, text: str) -> None:
    """Make a file with some text."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def read(path: str) -> str:
    """The text of a file."""
    with open(path, encoding="utf-8") as file:
        return file.read()


def layer(snapshotter: Snapshotter, name: str, parent: str = "", **files: str) -> None:
    """Commit a layer that brings files."""
    with opened(snapshotter.prepare(f"{name}-active", parent, ROOT)) as root:
        for file, text in files.items():
            write(f"{root}/{file}", text)
    snapshotter.commit(name, f"{name}-active", ROOT)


class SnapshotterSuite:
    """The contract of `orlop.containerd.core.snapshots.Snapshotter`."""

    def test_lifecycle(self, snapshotter: Snapshotter) -> None:
        layer(snapshotter, "one", a="1", b="1")
        layer(snapshotter, "two", "one", b="2", c="2")
        with opened(snapshotter.prepare("box", "two", ROOT)) as root:
            assert [read(f"{root}/{name}") for name in "abc"] == ["1", "2", "2"]
            os.unlink(f"{root}/a")
            write(f"{root}/b", "3")
        with opened(snapshotter.mounts("box")) as root:
            assert sorted(os.listdir(root)) == ["b", "c"]
            assert read(f"{root}/b") == "3"
        with opened(snapshotter.view("view", "two", ROOT)) as root:
            assert [read(f"{root}/{name}") for name in "abc"] == ["1", "2", "2"]

    def test_views_are_read_only(self, snapshotter: Snapshotter) -> None:
        layer(snapshotter, "base", a="1")
        layer(snapshotter, "upper", "base", b="1")
        for key, parent in (("v0", ""), ("v1", "base"), ("v2", "upper")):
            with opened(snapshotter.view(key, parent, ROOT)) as root, pytest.raises(OSError, match="Read-only"):
                write(f"{root}/new", "x")

    def test_stat(self, snapshotter: Snapshotter) -> None:
        before = time.time_ns() - 10**9
        layer(snapshotter, "base")
        snapshotter.prepare("box", "base", {"colour": "red", **ROOT})
        snapshotter.view("view", "base", ROOT)
        base, box, view = (snapshotter.stat(key) for key in ("base", "box", "view"))
        assert (base.name, base.kind, base.parent) == ("base", Kind.COMMITTED, "")
        assert (box.name, box.kind, box.parent) == ("box", Kind.ACTIVE, "base")
        assert view.kind == Kind.VIEW
        assert box.labels["colour"] == "red"
        assert before < box.created <= box.updated < time.time_ns() + 10**9

    def test_nothing_is_there(self, snapshotter: Snapshotter) -> None:
        for call in (snapshotter.stat, snapshotter.mounts, snapshotter.usage, snapshotter.remove):
            with pytest.raises(NotFoundError):
                call("absent")
        with pytest.raises(NotFoundError):
            snapshotter.prepare("box", "absent")
        with pytest.raises(NotFoundError):
            snapshotter.update("absent", {}, ["labels"])
        with pytest.raises(NotFoundError):
            snapshotter.commit("name", "absent")
        assert list(snapshotter.walk()) == []

    def test_keys_and_names_share_a_space(self, snapshotter: Snapshotter) -> None:
        layer(snapshotter, "taken")
        snapshotter.prepare("box", "taken", ROOT)
        for call in (snapshotter.prepare, snapshotter.view):
            with pytest.raises(AlreadyExistsError):
                call("taken")
            with pytest.raises(AlreadyExistsError):
                call("box")
        with pytest.raises(AlreadyExistsError):
            snapshotter.commit("taken", "box")
        assert snapshotter.stat("box").kind == Kind.ACTIVE

    def test_committing_takes_the_key_away(self, snapshotter: Snapshotter) -> None:
        snapshotter.prepare("key", "", {"was": "here", **ROOT})
        snapshotter.commit("name", "key", {"is": "there", **ROOT})
        with pytest.raises(NotFoundError):
            snapshotter.stat("key")
        labels = snapshotter.stat("name").labels
        assert labels["is"] == "there"
        assert "was" not in labels
        snapshotter.prepare("key", "name", ROOT)

    def test_the_parent_must_be_committed(self, snapshotter: Snapshotter) -> None:
        snapshotter.prepare("box", "", ROOT)
        # containerd 1.6 answers with INVALID_ARGUMENT, later versions with FAILED_PRECONDITION or UNKNOWN.
        with pytest.raises((FailedPreconditionError, InvalidArgumentError)):
            snapshotter.prepare("child", "box")
        with pytest.raises(NotFoundError):
            snapshotter.stat("child")

    def test_only_active_ones_are_committed(self, snapshotter: Snapshotter) -> None:
        layer(snapshotter, "base")
        snapshotter.view("view", "base", ROOT)
        for key in ("view", "base"):
            # containerd's native one looks for the directory of a view, which has none.
            with pytest.raises((FailedPreconditionError, InvalidArgumentError, InternalError)):
                snapshotter.commit("name", key)
            with pytest.raises(NotFoundError):
                snapshotter.stat("name")

    def test_committed_ones_have_no_mounts(self, snapshotter: Snapshotter) -> None:
        layer(snapshotter, "base")
        with pytest.raises((FailedPreconditionError, InvalidArgumentError, NotFoundError)):
            snapshotter.mounts("base")

    def test_parents_stay(self, snapshotter: Snapshotter) -> None:
        layer(snapshotter, "base")
        snapshotter.prepare("box", "base", ROOT)
        with pytest.raises(FailedPreconditionError):
            snapshotter.remove("base")
        snapshotter.remove("box")
        snapshotter.remove("base")
        assert list(snapshotter.walk()) == []

    def test_labels(self, snapshotter: Snapshotter) -> None:
        snapshotter.prepare("box", "", {"a": "1", "b": "2", **ROOT})
        created = snapshotter.stat("box").created
        assert snapshotter.update("box", {"a": "3"}, ["labels.a"]).labels == {"a": "3", "b": "2", **ROOT}
        snapshotter.update("box", {"b": ""}, ["labels.b"])  # an empty value removes
        assert snapshotter.stat("box").labels == {"a": "3", **ROOT}
        info = snapshotter.update("box", {"c": "4", **ROOT}, ["labels"])
        assert info.labels == {"c": "4", **ROOT}
        assert info.created == created < info.updated
        with pytest.raises(InvalidArgumentError):
            snapshotter.update("box", {}, ["parent"])
        with pytest.raises(InvalidArgumentError):
            snapshotter.prepare("large", "", {"k": "v" * 4096})
        with pytest.raises(NotFoundError):
            snapshotter.stat("large")

    def test_walk_filters(self, snapshotter: Snapshotter) -> None:
        layer(snapshotter, "base")
        snapshotter.prepare("red", "base", {"colour": "red", **ROOT})
        snapshotter.view("blue", "base", {"colour": "blue", **ROOT})

        def names(*filters: str) -> list[str]:
            return [info.name for info in snapshotter.walk(filters)]

        assert sorted(names()) == ["base", "blue", "red"]
        assert names("kind==active") == ["red"]
        assert sorted(names("parent==base")) == ["blue", "red"]
        assert names("parent==base,labels.colour==blue") == ["blue"]
        assert sorted(names("name==base", "labels.colour==red")) == ["base", "red"]
        assert sorted(names("labels.colour")) == ["blue", "red"]
        assert names('name~="^r.d$"') == ["red"]
        with pytest.raises((InvalidArgumentError, InternalError)):  # containerd does not translate this one
            names("name=base")

    def test_usage_counts_what_is_its_own(self, snapshotter: Snapshotter) -> None:
        with opened(snapshotter.prepare("base-active", "", ROOT)) as root:
            empty = snapshotter.usage("base-active")
            write(f"{root}/file", "x" * 100_000)
            os.link(f"{root}/file", f"{root}/link")
        usage = snapshotter.usage("base-active")
        assert usage.inodes == empty.inodes + 1
        assert 100_000 <= usage.size - empty.size < 200_000
        snapshotter.commit("base", "base-active", ROOT)
        assert snapshotter.usage("base") == usage

    def test_the_root_directory(self, snapshotter: Snapshotter) -> None:
        with opened(snapshotter.prepare("box", "", ROOT)) as root:
            assert stat.S_IMODE(os.stat(root).st_mode) == 0o755

    def test_many_layers(self, snapshotter: Snapshotter) -> None:
        parent = ""
        for number in range(12):
            layer(snapshotter, f"layer{number}", parent, **{"last": str(number), f"file{number}": "x"})
            parent = f"layer{number}"
        for mounts in (snapshotter.prepare("box", parent, ROOT), snapshotter.view("view", parent, ROOT)):
            with opened(mounts) as root:
                assert read(f"{root}/last") == "11"
                assert len(os.listdir(root)) == 13

    def test_removed_names_hide_nothing(self, snapshotter: Snapshotter) -> None:
        layer(snapshotter, "base", a="1", b="1")
        with opened(snapshotter.prepare("key", "base", ROOT)) as root:
            os.unlink(f"{root}/a")
            os.mkdir(f"{root}/d", 0o1777)
            os.chmod(f"{root}/d", 0o1777)
        snapshotter.commit("upper", "key", ROOT)
        with opened(snapshotter.prepare("box", "upper", ROOT)) as root:
            assert sorted(os.listdir(root)) == ["b", "d"]
            assert stat.S_IMODE(os.stat(f"{root}/d").st_mode) == 0o1777

    def test_a_target_that_is_there_needs_no_unpacking(self, snapshotter: Snapshotter) -> None:
        layer(snapshotter, "sha256:abc")
        with pytest.raises(AlreadyExistsError):
            snapshotter.prepare("extract", "", {"containerd.io/snapshot.ref": "sha256:abc"})
        with pytest.raises(NotFoundError):
            snapshotter.stat("extract")
