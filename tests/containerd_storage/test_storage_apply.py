# SPDX-License-Identifier: Apache-2.0
"""Applying layers: what they may hold, what they may not reach."""

import gzip
import os
import stat
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from support.layers import Layer

from orlop.archive.extract import clean
from orlop.archive.remove import remove_tree
from orlop.archive.tar import BLOCK, Stream, TarReader
from orlop.containerd.archive.apply import OVERLAY_OPAQUE, USER_OVERLAY_OPAQUE, apply_layer
from orlop.containerd.archive.compression import LayerSource
from orlop.errdefs import InvalidArgumentError, OrlopError, ResourceExhaustedError
from orlop.unix import mount

pytestmark = pytest.mark.root


class Target:
    """A directory to apply layers to, beside one that must not change."""

    def __init__(self, base: Path) -> None:
        self.root = base / "root"
        self.root.mkdir()
        self.outside = base / "outside"
        self.outside.mkdir(mode=0o711)
        self.secret = self.outside / "secret"
        self.secret.write_text("secret")
        self.secret.chmod(0o600)
        self._before = self._outside()

    def apply(self, layer: Layer | bytes, opaque: str = "", lower: tuple[Path, ...] = ()) -> None:
        """Apply a layer."""
        data = layer if isinstance(layer, bytes) else layer.bytes()
        fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (self.root, *lower)]
        try:
            chunks = (data[start : start + 1000] for start in range(0, len(data), 1000))
            apply_layer(chunks, fds[0], opaque=opaque, lower=fds[1:])
        finally:
            for fd in fds:
                os.close(fd)

    def names(self) -> list[str]:
        """Everything in the root."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*"))

    def _outside(self) -> list[object]:
        found: list[object] = []
        for path in (self.outside, *sorted(self.outside.rglob("*"))):
            status = path.lstat()
            found.append(
                (str(path), status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_nlink)
            )
        return found

    def assert_outside_is_untouched(self) -> None:
        """Nothing outside the root has changed."""
        assert self._outside() == self._before
        assert self.secret.read_text() == "secret"


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    """A target; whatever the test did, outside of it nothing has changed."""
    target = Target(tmp_path)
    yield target
    target.assert_outside_is_untouched()


class TestEscapes:
    """No name of a layer reaches out of the root (CVE-2014-9357, CVE-2021-32760, CVE-2025-47290 and kin)."""

    @pytest.mark.parametrize(
        "name", ["../../outside/new", "/../outside/new", "a/../../outside/new", "/etc/../../new"]
    )
    def test_dots_stop_at_the_root(self, target: Target, name: str) -> None:
        target.apply(Layer().add(name, data=b"x"))
        assert target.names()[-1].endswith("new")

    @pytest.mark.parametrize("link", ["/", "..", "../..", "{outside}", "../outside"])
    def test_through_a_link_to_a_directory(self, target: Target, link: str) -> None:
        layer = Layer().link("link", link.format(outside=target.outside)).add("link/secret", data=b"changed")
        target.apply(layer)
        assert (target.root / "link").is_symlink()

    def test_through_a_chain_of_links(self, target: Target) -> None:
        layer = Layer().directory("a").link("a/b", "..").link("c", "a/b/../../outside").add("c/secret", data=b"x")
        target.apply(layer)

    def test_through_a_relative_link_in_a_lower_directory(self, target: Target) -> None:
        os.symlink("../outside", target.root / "existing")
        target.apply(Layer().add("existing/secret", data=b"x").directory("existing/sub"))

    def test_a_file_over_a_link(self, target: Target) -> None:
        target.apply(Layer().link("file", str(target.secret)).add("file", data=b"mine", mode=0o777))
        assert (target.root / "file").read_text() == "mine"
        assert not (target.root / "file").is_symlink()

    def test_a_directory_over_a_link(self, target: Target) -> None:
        target.apply(Layer().link("d", str(target.outside)).directory("d", mode=0o777).add("d/new"))
        assert not (target.root / "d").is_symlink()
        assert target.names() == ["d", "d/new"]

    def test_a_directory_swapped_for_a_link(self, target: Target) -> None:
        layer = Layer().directory("d").add("d/one").link("d", str(target.outside)).add("d/secret", data=b"x")
        target.apply(layer)
        assert (target.root / "d").is_symlink()

    def test_a_parent_swapped_for_a_link(self, target: Target) -> None:
        layer = Layer().directory("a").directory("a/b").add("a/b/one").link("a", "../outside").add("a/b/two")
        target.apply(layer)

    def test_directory_times_through_a_link(self, target: Target) -> None:
        layer = Layer().directory("d", mtime=1).link("d", str(target.outside))
        target.apply(layer)

    def test_a_hard_link_to_the_outside(self, target: Target) -> None:
        for name in ("../outside/secret", str(target.secret), "link/secret"):
            layer = Layer().link("link", str(target.outside)).hardlink("stolen", name)
            with pytest.raises(InvalidArgumentError, match="which is not there"):
                target.apply(layer)
        assert not (target.root / "stolen").exists()

    def test_the_mode_of_a_hard_link_to_a_link(self, target: Target) -> None:
        layer = Layer().link("link", str(target.secret)).hardlink("hard", "link", mode=0o777, uid=7, mtime=9)
        target.apply(layer)
        assert (target.root / "hard").is_symlink()

    def test_deletions_through_links(self, target: Target) -> None:
        os.symlink("../outside", target.root / "up")
        target.apply(Layer().add("up/.wh.secret").add("up/.wh..wh..opq"))

    def test_deletions_of_links(self, target: Target) -> None:
        os.symlink(target.outside, target.root / "link")
        target.apply(Layer().add(".wh.link"))
        assert target.names() == []

    @pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh.."])
    def test_deletions_of_nothing_and_of_the_root(self, target: Target, name: str) -> None:
        with pytest.raises(InvalidArgumentError, match="names no file"):
            target.apply(Layer().add(name))

    def test_xattrs_through_links(self, target: Target) -> None:
        layer = Layer().add(
            "link", tarfile.SYMTYPE, linkname=str(target.secret), pax_headers={"SCHILY.xattr.trusted.a": "b"}
        )
        target.apply(layer)
        assert os.listxattr(target.secret) == []
        assert os.getxattr(target.root / "link", "trusted.a", follow_symlinks=False) == b"b"

    def test_marks_of_overlayfs_are_not_taken(self, target: Target) -> None:
        headers = {f"SCHILY.xattr.{name}": "/etc" for name in ("trusted.overlay.redirect", "user.overlay.opaque")}
        target.apply(Layer().directory("d", pax_headers=headers), opaque=OVERLAY_OPAQUE)
        assert os.listxattr(target.root / "d") == []

    def test_a_file_is_no_parent(self, target: Target) -> None:
        with pytest.raises(InvalidArgumentError, match='failed to make "file/child": Not a directory'):
            target.apply(Layer().add("file").add("file/child"))

    def test_links_in_a_circle(self, target: Target) -> None:
        with pytest.raises(InvalidArgumentError, match="Too many levels"):
            target.apply(Layer().link("a", "b").link("b", "a").add("a/x"))

    def test_a_hard_link_to_itself(self, target: Target) -> None:
        with pytest.raises(InvalidArgumentError):
            target.apply(Layer().add("a", data=b"x").hardlink("a", "a"))
        assert (target.root / "a").read_text() == "x"


class TestMembers:
    """Every kind of member with all its attributes."""

    def test_attributes(self, target: Target) -> None:
        pax = {"mtime": "1234567890.123456789", "SCHILY.xattr.user.note": "text"}
        target.apply(Layer().add("file", data=b"abc", mode=0o6755, uid=12, gid=34, pax_headers=pax))
        status = (target.root / "file").stat()
        assert stat.S_IMODE(status.st_mode) == 0o6755
        assert (status.st_uid, status.st_gid, status.st_size) == (12, 34, 3)
        assert status.st_mtime_ns == status.st_atime_ns == 1234567890_123456789
        assert os.getxattr(target.root / "file", "user.note") == b"text"

    def test_capabilities(self, target: Target) -> None:
        value = b"\x01\x00\x00\x02\x00\x04" + bytes(14)
        header = {"SCHILY.xattr.security.capability": value.decode("latin-1")}
        layer = Layer().add("file", mode=0o755, uid=5, pax_headers=header)
        target.apply(layer)
        assert os.getxattr(target.root / "file", "security.capability") == value

    def test_directories_keep_their_times(self, target: Target) -> None:
        target.apply(
            Layer().directory("d", mode=0o1777, mtime=5).add("d/file").directory("d/e", mtime=6).add("d/e/x")
        )
        assert stat.S_IMODE((target.root / "d").stat().st_mode) == 0o1777
        assert [(target.root / name).stat().st_mtime for name in ("d", "d/e")] == [5, 6]

    def test_links(self, target: Target) -> None:
        target.apply(
            Layer().add("file", data=b"x").hardlink("hard", "./file").link("soft", "a/b").link("up", "/../x")
        )
        assert (target.root / "hard").stat().st_ino == (target.root / "file").stat().st_ino
        assert [os.readlink(target.root / name) for name in ("soft", "up")] == ["a/b", "/../x"]

    def test_devices_and_fifos(self, target: Target) -> None:
        layer = Layer().add("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666)
        layer.add("disk", tarfile.BLKTYPE, devmajor=259, devminor=70000, mode=0o660, gid=6)
        target.apply(layer.add("fifo", tarfile.FIFOTYPE, mode=0o622))
        null, disk, fifo = ((target.root / name).lstat() for name in ("null", "disk", "fifo"))
        assert (stat.S_IFMT(null.st_mode), null.st_rdev) == (stat.S_IFCHR, os.makedev(1, 3))
        assert (stat.S_IFMT(disk.st_mode), disk.st_rdev, disk.st_gid) == (stat.S_IFBLK, os.makedev(259, 70000), 6)
        assert (stat.S_ISFIFO(fifo.st_mode), stat.S_IMODE(fifo.st_mode)) == (True, 0o622)

    @pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
    def test_long_and_odd_names(self, target: Target, format: int) -> None:
        long = "/".join(["x" * 60] * 20)
        names = ["ümläut", "n" * 255, long, "with\nnewline", "trailing.", ".hidden", "..twodots", "-dash", " "]
        layer = Layer(format)
        for name in names:
            layer.add(name, data=name.encode())
        layer.link("link", "t" * 300)
        target.apply(layer)
        for name in names:
            assert (target.root / name).read_bytes() == name.encode()
        assert os.readlink(target.root / "link") == "t" * 300

    def test_names_that_are_not_utf8(self, target: Target) -> None:
        layer = Layer(tarfile.GNU_FORMAT)
        layer._tar.encoding, layer._tar.errors = "utf-8", "surrogateescape"
        target.apply(layer.add("latin1-\udce9", data=b"x"))
        assert os.listdir(os.fsencode(target.root)) == [b"latin1-\xe9"]

    def test_large_numbers(self, target: Target) -> None:
        target.apply(Layer(tarfile.GNU_FORMAT).add("gnu", uid=2**31, gid=2**22, mtime=2**33))
        target.apply(Layer().add("pax", uid=2**31, gid=2**22, mtime=2**33))
        for name in ("gnu", "pax"):
            status = (target.root / name).stat()
            assert (status.st_uid, status.st_gid, status.st_mtime) == (2**31, 2**22, 2**33)

    def test_times_before_the_epoch(self, target: Target) -> None:
        target.apply(Layer().add("old", pax_headers={"mtime": "-5.5"}))
        assert (target.root / "old").stat().st_mtime == 0

    def test_missing_parents_are_made(self, target: Target) -> None:
        target.apply(Layer().add("a/b/c", data=b"x"))
        assert stat.S_IMODE((target.root / "a/b").stat().st_mode) == 0o755

    def test_parents_are_as_they_are_below(self, target: Target, tmp_path: Path) -> None:
        lower = tmp_path / "lower"
        (lower / "a/b").mkdir(parents=True)
        os.chmod(lower / "a/b", 0o1770)
        os.chown(lower / "a/b", 7, 8)
        os.setxattr(lower / "a/b", "user.note", b"x")
        os.utime(lower / "a/b", ns=(5, 7))
        target.apply(Layer().add("a/b/c"), opaque=OVERLAY_OPAQUE, lower=(lower,))
        status = (target.root / "a/b").stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o1770, 7, 8)
        assert status.st_mtime_ns == 7
        assert os.getxattr(target.root / "a/b", "user.note") == b"x"

    def test_through_links_inside(self, target: Target) -> None:
        target.apply(
            Layer().directory("usr").directory("usr/lib").link("lib", "usr/lib").add("lib/file", data=b"x")
        )
        target.apply(Layer().link("dangling", "/made/later").add("dangling/file", data=b"y"))
        assert (target.root / "usr/lib/file").read_text() == "x"
        assert (target.root / "made/later/file").read_text() == "y"

    def test_members_replace_each_other(self, target: Target) -> None:
        target.apply(Layer().directory("d").add("d/x").add("f", data=b"1").link("l", "f").add("same", data=b"1"))
        target.apply(Layer().add("d", data=b"file").directory("f").add("l", data=b"2").add("same", data=b"2"))
        assert (target.root / "d").read_text() == "file"
        assert (target.root / "f").is_dir()
        assert [(target.root / name).read_text() for name in ("l", "same")] == ["2", "2"]

    def test_a_directory_is_merged(self, target: Target) -> None:
        target.apply(Layer().directory("d").add("d/one"))
        target.apply(Layer().directory("d", mode=0o700).add("d/two"))
        assert target.names() == ["d", "d/one", "d/two"]
        assert stat.S_IMODE((target.root / "d").stat().st_mode) == 0o700

    def test_the_root_keeps_its_attributes(self, target: Target) -> None:
        target.root.chmod(0o755)
        target.apply(Layer().directory("./", mode=0o700).directory(".", mode=0o700).directory("/", mode=0o700))
        assert stat.S_IMODE(target.root.stat().st_mode) == 0o755

    def test_many_directories(self, target: Target) -> None:
        layer = Layer()
        for number in range(300):
            layer.directory(f"d{number}", mtime=number).add(f"d{number}/file")
        for number in range(300):
            layer.add(f"d{number}/again")
        target.apply(layer)
        assert len(target.names()) == 900
        assert (target.root / "d7").stat().st_mtime == 7


class TestDeletions:
    """Whiteouts."""

    def fill(self, target: Target) -> None:
        target.apply(Layer().directory("d").add("d/a").add("d/b").directory("d/e").add("d/e/f").add("g"))

    def test_names_are_removed(self, target: Target) -> None:
        self.fill(target)
        target.apply(Layer().add("d/.wh.a").add("d/.wh.e").add(".wh.g").add(".wh.absent").add("absent/.wh.x"))
        assert target.names() == ["absent", "d", "d/b"]

    def test_an_opaque_directory(self, target: Target) -> None:
        self.fill(target)
        target.apply(Layer().directory("d/e").add("d/e/new").add("d/.wh..wh..opq").add("d/later"))
        assert target.names() == ["d", "d/e", "d/e/new", "d/later", "g"]

    def test_what_the_layer_brings_stays(self, target: Target) -> None:
        self.fill(target)
        target.apply(Layer().add("d/a", data=b"new").add("d/.wh.a").directory("d/e").add("d/e/n").add("d/.wh.e"))
        assert (target.root / "d/a").read_text() == "new"
        assert target.names() == ["d", "d/a", "d/b", "d/e", "d/e/n", "g"]

    @pytest.mark.parametrize("mark", [OVERLAY_OPAQUE, USER_OVERLAY_OPAQUE])
    def test_an_overlay_gets_marks(self, target: Target, mark: str) -> None:
        layer = Layer().directory("d").add("d/.wh.a", uid=3).directory("o").add("o/.wh..wh..opq").add("o/new")
        target.apply(layer.add("kept", data=b"x").add(".wh.kept"), opaque=mark)
        deleted = (target.root / "d/a").lstat()
        assert (stat.S_IFMT(deleted.st_mode), deleted.st_rdev, deleted.st_uid) == (stat.S_IFCHR, 0, 3)
        assert os.listxattr(target.root / "o") == [mark]
        assert os.getxattr(target.root / "o", mark) == b"y"
        assert (target.root / "kept").read_text() == "x"

    @pytest.mark.parametrize("first", [True, False])
    def test_a_deleted_directory_made_anew_shows_nothing_old(
        self, target: Target, tmp_path: Path, first: bool
    ) -> None:
        lower = tmp_path / "lower"
        (lower / "d").mkdir(parents=True)
        (lower / "d/old").touch()
        layer = Layer()
        if first:
            layer.add(".wh.d")
        layer.directory("d").add("d/new")
        if not first:
            layer.add(".wh.d")
        target.apply(layer, opaque=OVERLAY_OPAQUE, lower=(lower,))
        options = (f"lowerdir={target.root}:{lower}",)
        fd = mount.detached_mount("overlay", "overlay", options)
        try:
            assert os.listdir(f"/proc/self/fd/{fd}/d") == ["new"]
        finally:
            os.close(fd)


class TestMalformed:
    """Archives that are none, or lie."""

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"\x01" * 512, "bad number"),
            (b"1" * 512, "checksum"),
            (b"x" * 100, "unexpected end"),
            (Layer().add("f", data=b"x" * 2000).bytes()[:1500], "unexpected end"),
            (Layer().add("f", pax_headers={"SCHILY.xattr.user.x": "y" * (1 << 21)}).bytes(), "too long"),
            (Layer().add("f", b"Z").bytes(), "unknown type"),
            (Layer().add("f", uid=2**32 - 1).bytes(), "owner of"),
            (Layer().add("f", gid=2**40).bytes(), "owner of"),
            (Layer(tarfile.GNU_FORMAT).add("f", tarfile.CHRTYPE, devmajor=2**40).bytes(), '"f"'),
        ],
    )
    def test_one_clear_line(self, target: Target, data: bytes, message: str) -> None:
        with pytest.raises(InvalidArgumentError, match=f"^invalid layer: .*{message}") as caught:
            target.apply(data)
        assert "\n" not in str(caught.value)

    def test_an_archive_without_its_end(self, target: Target) -> None:
        target.apply(Layer().add("f", data=b"x" * 512).bytes()[:1024])
        assert (target.root / "f").stat().st_size == 512

    def test_negative_sizes(self, target: Target) -> None:
        block = bytearray(Layer(tarfile.GNU_FORMAT).add("f").bytes()[:BLOCK])
        block[124:136] = b"\xff" * 12
        block[148:156] = b"        "
        block[148:156] = b"%06o\0 " % sum(block)
        with pytest.raises(InvalidArgumentError, match="negative size"):
            target.apply(bytes(block))

    def test_random_bytes_are_refused(self, target: Target) -> None:
        valid = (
            Layer().add("file", data=b"x" * 600, pax_headers={"SCHILY.xattr.user.a": "b"}).directory("d").bytes()
        )
        for position in range(0, 3 * BLOCK, 7):
            broken = bytearray(valid)
            broken[position] ^= 0xFF
            try:
                target.apply(bytes(broken))
            except OrlopError as error:
                assert "\n" not in str(error)


class TestSparse:
    """Files with holes, as GNU tar stores them."""

    def expected(self, target: Target) -> None:
        data = (target.root / "sparse").read_bytes()
        assert len(data) == 1 << 20
        assert data[4096:4101] == b"first"
        assert data[524288:524294] == b"second"
        assert data.strip(b"\0").startswith(b"first")
        assert (target.root / "sparse").stat().st_blocks * 512 < 1 << 19
        assert (target.root / "after").read_text() == "after"

    @pytest.mark.parametrize("format", ["gnu", "posix:0.0", "posix:0.1", "posix:1.0"])
    def test_formats(self, target: Target, tmp_path: Path, format: str) -> None:
        import subprocess

        source = tmp_path / "source"
        source.mkdir()
        with (source / "sparse").open("wb") as file:
            file.truncate(1 << 20)
            file.seek(4096)
            file.write(b"first" + bytes(4091))
            file.seek(524288)
            file.write(b"second")
        (source / "after").write_text("after")
        kind, _, version = format.partition(":")
        command = ["tar", "-C", str(source), f"--format={kind}", "--sparse", "-cf", "-", "sparse", "after"]
        if version:
            command.insert(1, f"--sparse-version={version}")
        target.apply(subprocess.run(command, check=True, capture_output=True).stdout)
        self.expected(target)


class TestSource:
    """Decompression: detected, verified, bounded."""

    def source(self, tmp_path: Path, data: bytes) -> tuple[bytes, LayerSource]:
        path = tmp_path / "blob"
        path.write_bytes(data)
        fd = os.open(path, os.O_RDONLY)
        try:
            with LayerSource(fd) as source:
                return b"".join(source), source
        finally:
            os.close(fd)

    def test_formats(self, tmp_path: Path) -> None:
        plain = bytes(range(256)) * 10_000
        half = len(plain) // 2
        for data in (
            plain,
            gzip.compress(plain),
            gzip.compress(plain[:half]) + gzip.compress(plain[half:]),
            gzip.compress(plain) + bytes(512),
            zstandard.compress(plain),
            zstandard.compress(plain[:half]) + zstandard.compress(plain[half:]),
        ):
            found, source = self.source(tmp_path, data)
            assert found == plain
            assert source.size == len(plain)

    def test_damage(self, tmp_path: Path) -> None:
        broken = bytearray(gzip.compress(os.urandom(300_000)))
        broken[len(broken) // 2] ^= 0xFF
        for data in (bytes(broken), zstandard.compress(b"x" * 1000)[:4] + b"\xff" * 1000):
            with pytest.raises(InvalidArgumentError, match="invalid layer"):
                self.source(tmp_path, data)

    def test_a_cut_gzip(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidArgumentError, match="unexpected end of the gzip stream"):
            self.source(tmp_path, gzip.compress(os.urandom(300_000))[:-4])

    def test_giving_up_ends_the_thread(self, tmp_path: Path) -> None:
        path = tmp_path / "bomb"
        path.write_bytes(gzip.compress(bytes(200 << 20), 1))  # CVE-2017-14992: memory stays bounded
        before = threading.active_count()
        with path.open("rb") as file, LayerSource(file.fileno()) as source:
            first = next(iter(source))
        assert len(first) <= 1 << 20
        assert source.size < 20 << 20
        assert threading.active_count() == before


class TestDepth:
    """Trees that are deeper than a path is long."""

    def make(self, root: Path, levels: int) -> None:
        here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        for _ in range(levels):
            os.mkdir("d", dir_fd=here)
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
            below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
            os.close(here)
            here = below
        os.close(here)

    def test_removal(self, tmp_path: Path) -> None:
        root = tmp_path / "deep"
        root.mkdir()
        os.symlink(tmp_path, root / "link")
        self.make(root, 3000)
        remove_tree(str(root))
        assert list(tmp_path.iterdir()) == []

    def test_a_layer_that_replaces_it(self, target: Target) -> None:
        (target.root / "deep").mkdir()
        self.make(target.root / "deep", 1200)
        target.apply(Layer().add("deep", data=b"x"))
        assert target.names() == ["deep"]

    def test_only_directories(self, target: Target) -> None:
        os.symlink(target.outside, target.root / "link")
        with pytest.raises(NotADirectoryError):
            remove_tree(str(target.root / "link"))


class TestFullDisk:
    """A disk that is full is one clear error."""

    def test_no_space(self, tmp_path: Path) -> None:
        fd = mount.detached_mount("tmpfs", "tmpfs", ("size=256k",))
        try:
            root = os.open(f"/proc/self/fd/{fd}/.", os.O_RDONLY | os.O_DIRECTORY)
            try:
                data = Layer().add("small").add("big", data=bytes(1 << 20)).bytes()
                with pytest.raises(ResourceExhaustedError, match='failed to make "big": No space left on device'):
                    apply_layer(iter([data]), root)
            finally:
                os.close(root)
        finally:
            os.close(fd)


def test_clean() -> None:
    cases = {
        b"a/b": b"a/b",
        b"./a/b/": b"a/b",
        b"/a//b/./c": b"a/b/c",
        b"a/../b": b"b",
        b"../../x": b"x",
        b"/": b"",
        b".": b"",
        b"..": b"",
        b"a/..": b"",
        b".hidden/..x": b".hidden/..x",
        b"...": b"...",
    }
    assert {name: clean(name) for name in cases} == cases


def test_old_sparse_maps_are_checked() -> None:
    header = bytearray(Layer(tarfile.GNU_FORMAT).add("f", b"S", data=b"").bytes()[:BLOCK])
    header[386:398] = b"77777777777\0"
    header[398:410] = b"00000000010\0"
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(InvalidArgumentError, match="sparse map"):
        list(TarReader(Stream(iter([bytes(header)]))))
