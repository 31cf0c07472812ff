# SPDX-License-Identifier: Apache-2.0
"""Trees as tar streams and back: what is written, what is made of it, and what is refused."""

import io
import os
import socket
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop.archive import write
from orlop.archive.extract import BENEATH, extract_all
from orlop.archive.relocate import RelocatingExtractor, Relocation
from orlop.archive.tar import ArchiveError
from orlop.archive.walk import TreeWriter, buffered
from orlop.errdefs import InternalError

pytestmark = pytest.mark.root

_IN_PLACE = Relocation()


def archived(path: Path, name: str) -> bytes:
    """The archive of one object under a name."""
    pinned = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        return b"".join(TreeWriter().one(pinned, os.fsencode(name))) + write.END
    finally:
        os.close(pinned)


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {member.name: member for member in archive.getmembers()}


def unpack(data: bytes, target: Path, relocation: Relocation = _IN_PLACE, **options: object) -> None:
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        extract_all(iter([data]), RelocatingExtractor(fd, relocation, **options))  # type: ignore[arg-type]
    finally:
        os.close(fd)


def tar(*infos: tarfile.TarInfo, content: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info in infos:
            info.size = len(content) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", **fields: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    for key, value in fields.items():
        setattr(made, key, value)
    return made


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """One of everything."""
    tree = tmp_path / "tree"
    (tree / "sub" / "empty").mkdir(parents=True)
    (tree / "file").write_bytes(b"content")
    (tree / "sub" / "set-id").write_bytes(b"x" * 1000)
    (tree / "sub" / "set-id").chmod(0o6751)
    os.chown(tree / "sub" / "set-id", 123, 70_000_000)
    (tree / "link").symlink_to("sub/" + "l" * 200)
    os.link(tree / "file", tree / "sub" / "hard")
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "null", stat.S_IFCHR | 0o620, os.makedev(1, 3))
    (tree / ("n" * 250)).write_bytes(b"")
    (tree / "ü\udcff").write_bytes(b"name in no encoding")
    os.setxattr(tree / "file", "user.note", b"\0value")
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(tree / "sub" / "set-id", "security.capability", capability)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tree / "socket"))
    for path in tree.rglob("*"):
        os.utime(path, (1_600_000_000, 1_500_000_000), follow_symlinks=False)
    (tree / "sub").chmod(0o1750)
    os.utime(tree / "sub", (1_600_000_000, 1_500_000_001))
    return tree


def test_a_tree_comes_back_as_it_was(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    unpack(archived(tree, "tree"), copy)
    found = {path.relative_to(copy / "tree") for path in (copy / "tree").rglob("*")}
    assert found == {path.relative_to(tree) for path in tree.rglob("*")} - {Path("socket")}
    for path in found:
        one, other = os.lstat(tree / path), os.lstat(copy / "tree" / path)
        for field in ("st_mode", "st_uid", "st_gid", "st_size", "st_nlink", "st_rdev", "st_mtime"):
            if field != "st_size" or not stat.S_ISDIR(one.st_mode):
                assert getattr(one, field) == getattr(other, field), (path, field)
        if not stat.S_ISLNK(one.st_mode):
            names = os.listxattr(tree / path)
            assert {n: os.getxattr(copy / "tree" / path, n) for n in names} == {
                n: os.getxattr(tree / path, n) for n in names
            }
    assert (copy / "tree" / "file").samefile(copy / "tree" / "sub" / "hard")
    assert os.readlink(copy / "tree" / "link") == "sub/" + "l" * 200


@pytest.mark.parametrize(
    ("name", "first"), [("tree", "tree"), (".", "."), ("/", ""), ("other/name", "other/name")]
)
def test_names(tree: Path, name: str, first: str) -> None:
    data = archived(tree, name)
    assert data[:100].rstrip(b"\0") == (b"/" if name == "/" else name.encode() + b"/")
    names = [member.lstrip("/") for member in members(data)]
    lead = first + "/" if first else ""
    assert {f"{lead}file", f"{lead}sub/empty"} <= set(names)


def test_a_single_file(tree: Path) -> None:
    (member,) = members(archived(tree / "file", "renamed")).values()
    assert (member.name, member.size, member.mtime) == ("renamed", 7, 1_500_000_000)
    (member,) = members(archived(tree / "link", "link")).values()
    assert member.issym()


def test_pieces_are_gathered() -> None:
    pieces = list(buffered([b"a" * 10] * 10 + [b"b" * 100] + [b"c"], 50))
    assert b"".join(pieces) == b"a" * 100 + b"b" * 100 + b"c"
    assert [len(piece) for piece in pieces] == [50, 50, 100, 1]


def test_a_file_that_becomes_shorter(tmp_path: Path) -> None:
    """The header has promised its size: the rest is zeros, and the next member is where it should be."""
    big = tmp_path / "d" / "big"
    big.parent.mkdir()
    big.write_bytes(b"x" * (3 << 20))
    (tmp_path / "d" / "z").write_bytes(b"after")
    pinned = os.open(big.parent, os.O_PATH)

    def written() -> Iterator[bytes]:
        for number, piece in enumerate(TreeWriter().one(pinned, b"d")):
            if number == 2:
                os.truncate(big, 1 << 20)
            yield piece

    data = b"".join(written()) + write.END
    os.close(pinned)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        first, after = archive.extractfile("d/big"), archive.extractfile("d/z")
        assert first is not None and after is not None
        content = first.read()
        assert content == b"x" * (1 << 20) + bytes(2 << 20)
        assert after.read() == b"after"


class TestRelocation:
    """Members somewhere else than the archive says."""

    def test_another_name(self, tree: Path, tmp_path: Path) -> None:
        unpack(archived(tree, "tree"), tmp_path, Relocation(lead=b"a/b", strip=1))
        assert (tmp_path / "a" / "b" / "file").samefile(tmp_path / "a" / "b" / "sub" / "hard")

    def test_the_top_stays(self, tree: Path, tmp_path: Path) -> None:
        target = tmp_path / "there"
        target.mkdir(mode=0o700)
        unpack(archived(tree, "."), tmp_path, Relocation(lead=b"there"))
        assert stat.S_IMODE(target.stat().st_mode) == 0o700
        assert (target / "sub" / "hard").read_bytes() == b"content"

    def test_an_owner_for_all(self, tree: Path, tmp_path: Path) -> None:
        unpack(archived(tree, "."), tmp_path, Relocation(lead=b"x", owner=(7, 8)))
        assert {(os.lstat(p).st_uid, os.lstat(p).st_gid) for p in (tmp_path / "x").rglob("*")} == {(7, 8)}

    def test_kinds_are_kept(self, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        (tmp_path / "f").write_text("old")
        (tmp_path / "l").symlink_to("d")
        keep = Relocation(keep_kinds=True)
        with pytest.raises(ArchiveError, match='cannot overwrite directory "d" with non-directory "d"'):
            unpack(tar(info("d")), tmp_path, keep)
        for name in ("f", "l"):
            with pytest.raises(ArchiveError, match=f'cannot overwrite non-directory "{name}" with directory'):
                unpack(tar(info(name, tarfile.DIRTYPE)), tmp_path, keep)
        unpack(tar(info("f"), info("l"), content=b"new"), tmp_path, keep)
        assert (tmp_path / "f").read_text() == "new" and not (tmp_path / "l").is_symlink()
        unpack(tar(info("d")), tmp_path)  # without keep_kinds it is replaced
        assert (tmp_path / "d").is_file()

    def test_nobody_climbs_out(self, tmp_path: Path) -> None:
        inner, outer = tmp_path / "in", tmp_path / "out"
        inner.mkdir()
        outer.mkdir()
        (outer / "victim").write_text("v")
        unpack(tar(info("../../out/new"), info("/abs/new"), content=b"x"), inner)
        assert (inner / "out" / "new").exists() and (inner / "abs" / "new").exists()
        link = [info("l", tarfile.SYMTYPE, str(outer)), info("l/new")]
        unpack(tar(*link), inner)  # as for one whose root it is: the link leads nowhere, so its target is made
        assert os.listdir(outer) == ["victim"]
        (inner / "l2").symlink_to(outer)
        with pytest.raises(ArchiveError, match="failed to make"):
            unpack(tar(info("l2/new")), inner, resolve=BENEATH)
        for target in (str(outer / "victim"), "../out/victim", "l2/victim"):
            with pytest.raises(ArchiveError, match="is a hard link to"):
                unpack(tar(info("h", tarfile.LNKTYPE, target)), inner)
        assert os.listdir(outer) == ["victim"] and (outer / "victim").stat().st_nlink == 1

    def test_what_is_no_root_may_not_give_away(self, tmp_path: Path) -> None:
        member = info("f", uid=4242, gid=4243, mode=0o4755)
        unpack(tar(member), tmp_path, own=False)
        status = (tmp_path / "f").stat()
        assert (status.st_uid, status.st_gid) == (os.getuid(), os.getgid())

    def test_a_full_path_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises((ArchiveError, InternalError), match="File name too long"):
            unpack(tar(info("d/" * 3000 + "f")), tmp_path)
