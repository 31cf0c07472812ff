# SPDX-License-Identifier: Apache-2.0
"""What a path of a container refers to, how it is described, and which changes are shown."""

import os
import stat
from pathlib import Path

import pytest

from orlop.dockerd.containers.changes import ADDED, DELETED, MODIFIED, Change, changes, without_mount_points
from orlop.dockerd.containers.path_stat import absolute, describe, evaluate, find, go_mode


@pytest.fixture
def root(tmp_path: Path):  # type: ignore[no-untyped-def]
    (tmp_path / "dir" / "sub").mkdir(parents=True)
    (tmp_path / "dir" / "file").write_text("x")
    (tmp_path / "abs").symlink_to("/dir")
    (tmp_path / "up").symlink_to("../../../../dir/sub")
    (tmp_path / "dir" / "rel").symlink_to("sub")
    (tmp_path / "dangling").symlink_to("/dir/../no/such")
    (tmp_path / "loop").symlink_to("loop")
    fd = os.open(tmp_path, os.O_PATH)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("path", "expected"),
    [("", "/"), ("/", "/"), (".", "/."), ("a/../b", "/b"), ("//a//b/", "/a/b/"), ("/a/.", "/a/."), ("../..", "/")],
)
def test_absolute(path: str, expected: str) -> None:
    assert absolute(path) == expected


@pytest.mark.parametrize(
    ("path", "name", "kind", "target"),
    [
        ("/dir", "dir", stat.S_IFDIR, ""),
        ("dir/file", "file", stat.S_IFREG, ""),
        ("/abs", "abs", stat.S_IFLNK, "/dir"),
        ("/abs/", "abs", stat.S_IFDIR, ""),
        ("/abs/.", ".", stat.S_IFDIR, ""),
        ("/abs/rel", "rel", stat.S_IFLNK, "/dir/sub"),
        ("/up", "up", stat.S_IFLNK, "/dir/sub"),
        ("/dangling", "dangling", stat.S_IFLNK, "/no/such"),
        ("/../../dir/file", "file", stat.S_IFREG, ""),
        ("/", "/", stat.S_IFDIR, ""),
    ],
)
def test_find_and_describe(root: int, path: str, name: str, kind: int, target: str) -> None:
    found = find(root, path)
    try:
        shown = describe(root, found, path)
        assert stat.S_IFMT(os.fstat(found.pinned).st_mode) == kind
    finally:
        os.close(found.pinned)
    assert (shown["name"], shown["linkTarget"]) == (name, target)
    assert set(shown) == {"name", "size", "mode", "mtime", "linkTarget"}


@pytest.mark.parametrize(
    ("path", "error"),
    [("/no", FileNotFoundError), ("/dir/file/", NotADirectoryError), ("/dir/file/x", NotADirectoryError),
     ("/dangling/", FileNotFoundError), ("/loop/x", OSError)],
)  # fmt: skip
def test_what_cannot_be_found(root: int, path: str, error: type[OSError]) -> None:
    with pytest.raises(error):
        find(root, path)


def test_the_time_of_an_object(root: int, tmp_path: Path) -> None:
    for moment, text in ((0, "1970-01-01T00:00:00Z"), (1_600_000_000_500_000_000, "2020-09-13T12:26:40.5Z")):
        os.utime(tmp_path / "dir" / "file", ns=(moment, moment))
        found = find(root, "/dir/file")
        assert describe(root, found, "/dir/file")["mtime"] == text
        os.close(found.pinned)


def test_a_loop_of_links_ends(root: int) -> None:
    with pytest.raises(OSError, match="too many links"):
        evaluate(root, "/loop")


def test_modes_are_gos() -> None:
    assert go_mode(stat.S_IFDIR | 0o1777) == 1 << 31 | 1 << 20 | 0o777
    assert go_mode(stat.S_IFLNK | 0o777) == 1 << 27 | 0o777
    assert go_mode(stat.S_IFREG | 0o6755) == 1 << 23 | 1 << 22 | 0o755
    assert go_mode(stat.S_IFCHR | 0o600) == 1 << 26 | 1 << 21 | 0o600


def test_changes(tmp_path: Path) -> None:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    for tree in (lower, upper):
        (tree / "same" / "deep").mkdir(parents=True)
        (tree / "changed" / "deep").mkdir(parents=True)
        (tree / "gone" / "deep").mkdir(parents=True)
        for name in ("same/deep/f", "changed/deep/f", "kind"):
            (tree / name).write_text("x")
            os.utime(tree / name, (1, 1))
    (upper / "changed" / "deep" / "f").write_text("other")
    (upper / "changed" / "new").mkdir()
    (upper / "changed" / "new" / "f").write_text("")
    (upper / "gone" / "deep").rmdir()
    (upper / "gone").rmdir()
    (upper / "kind").unlink()
    (upper / "kind").mkdir()
    one, other = os.open(lower, os.O_RDONLY), os.open(upper, os.O_RDONLY)
    try:
        found = set(changes(one, other, None))
    finally:
        os.close(one)
        os.close(other)
    assert found == {
        Change("/changed", MODIFIED),
        Change("/changed/deep", MODIFIED),
        Change("/changed/deep/f", MODIFIED),
        Change("/changed/new", ADDED),
        Change("/changed/new/f", ADDED),
        Change("/gone", DELETED),
        Change("/kind", MODIFIED),
    }


def test_mount_points_are_hidden() -> None:
    made = [
        Change("/dev", ADDED),
        Change("/dev/console", ADDED),
        Change("/proc", ADDED),
        Change("/etc", MODIFIED),
        Change("/etc/hosts", ADDED),
    ]
    assert without_mount_points(made) == []
    assert set(without_mount_points([*made, Change("/etc/own", ADDED)])) == {
        Change("/etc", MODIFIED),
        Change("/etc/own", ADDED),
    }
    changed = [Change("/etc", MODIFIED), Change("/etc/hosts", MODIFIED)]
    assert without_mount_points(changed) == changed
