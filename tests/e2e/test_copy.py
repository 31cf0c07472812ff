# SPDX-License-Identifier: Apache-2.0
"""`docker cp`, export, import, diff and commit by the real docker CLI and by ours, against the whole stack."""

import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.e2e import Cli, Stack

pytestmark = pytest.mark.root

Made = Callable[..., str]


@pytest.fixture
def container(cli: Cli) -> Iterator[Made]:
    """Makes containers, running (`run`) or not (`create`), that are removed at the end."""
    made: list[str] = []

    def make(verb: str, *arguments: str) -> str:
        flags = ["-d"] if verb == "run" else []
        result = cli(verb, *flags, *arguments)
        assert result.returncode == 0, result.stderr
        made.append(result.stdout.strip())
        return made[-1]

    yield make
    if made:
        assert cli("rm", "-f", "-v", *made).returncode == 0


@pytest.fixture(params=["run", "create"])
def either(request: pytest.FixtureRequest, container: Made) -> str:
    """A container that runs, then one that never ran."""
    return container(request.param, "busybox", "sleep", "1000")


def ok(cli: Cli, *arguments: str, input: str | None = None) -> str:
    result = cli(*arguments, input=input)
    assert result.returncode == 0, f"{arguments}: {result.stderr}"
    return result.stdout


def fails(cli: Cli, *arguments: str) -> str:
    result = cli(*arguments)
    assert result.returncode == 1, f"{arguments}: {result.returncode} {result.stdout} {result.stderr}"
    return result.stderr


def read(cli: Cli, container: str, path: str) -> str:
    """A file's content, by way of `cp -`."""
    data = subprocess.run(
        [cli.program, "cp", f"{container}:{path}", "-"],
        capture_output=True,
        check=True,
        env=cli._stack.environment(),
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        (member,) = archive.getmembers()
        file = archive.extractfile(member)
        assert file is not None
        return file.read().decode()


class TestFiles:
    """Single files."""

    def test_in_and_out(self, cli: Cli, either: str, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_text("content\n")
        source.chmod(0o640)
        os.utime(source, (1_600_000_000, 1_600_000_000))
        ok(cli, "cp", str(source), f"{either}:/tmp")
        ok(cli, "cp", str(source), f"{either}:/tmp/renamed")
        ok(cli, "cp", f"{either}:/tmp/source", str(tmp_path / "back"))
        ok(cli, "cp", f"{either}:/tmp/renamed", str(tmp_path))
        for name in ("back", "renamed"):
            status = (tmp_path / name).stat()
            assert (tmp_path / name).read_text() == "content\n"
            assert (status.st_mode & 0o777, status.st_mtime) == (0o640, 1_600_000_000)

    def test_over_an_existing_file(self, cli: Cli, either: str, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("old")
        (tmp_path / "b").write_text("new")
        ok(cli, "cp", str(tmp_path / "a"), f"{either}:/tmp/x")
        ok(cli, "cp", str(tmp_path / "b"), f"{either}:/tmp/x")
        assert read(cli, either, "/tmp/x") == "new"

    def test_what_is_not_there(self, cli: Cli, either: str, tmp_path: Path) -> None:
        assert "Could not find the file /nosuch in container" in fails(
            cli, "cp", f"{either}:/nosuch", str(tmp_path)
        )
        (tmp_path / "f").write_text("x")
        error = fails(cli, "cp", str(tmp_path / "f"), f"{either}:/no/such/place")
        assert "Could not find the file /no/such in container" in error
        assert "No such container: nosuch" in fails(cli, "cp", "nosuch:/etc", str(tmp_path))
        assert "no such file or directory" in fails(cli, "cp", str(tmp_path / "nosuch"), f"{either}:/tmp")
        assert "no such directory" in fails(cli, "cp", str(tmp_path / "f"), f"{either}:/tmp/dir/")

    def test_kinds_are_kept(self, cli: Cli, either: str, tmp_path: Path) -> None:
        (tmp_path / "tree").mkdir()
        (tmp_path / "f").write_text("x")
        ok(cli, "cp", str(tmp_path / "f"), f"{either}:/tmp/f")
        assert "cannot copy directory" in fails(cli, "cp", str(tmp_path / "tree"), f"{either}:/tmp/f")
        ok(cli, "cp", str(tmp_path / "tree"), f"{either}:/home/f")
        error = fails(cli, "cp", str(tmp_path / "f"), f"{either}:/home")
        assert "cannot overwrite directory" in error

    def test_owners(self, cli: Cli, container: Made, tmp_path: Path) -> None:
        (tmp_path / "f").write_text("x")
        os.chown(tmp_path / "f", 1234, 2345)
        id_ = container("run", "--user", "33:44", "busybox", "sleep", "1000")
        ok(cli, "cp", str(tmp_path / "f"), f"{id_}:/tmp/kept")
        ok(cli, "cp", "-a", str(tmp_path / "f"), f"{id_}:/tmp/given")
        assert ok(cli, "exec", id_, "stat", "-c", "%u:%g", "/tmp/kept", "/tmp/given") == "1234:2345\n33:44\n"


class TestTrees:
    """Directories, links and special files."""

    def test_in_and_out(self, cli: Cli, either: str, tmp_path: Path) -> None:
        tree = tmp_path / "tree"
        (tree / "deep" / "er").mkdir(parents=True)
        (tree / "deep" / "er" / "file").write_text("x" * 100_000)
        (tree / ("n" * 150)).write_text("long name")
        (tree / "ü").symlink_to("deep/er/file")
        os.link(tree / "deep" / "er" / "file", tree / "hard")
        os.mkfifo(tree / "fifo", 0o600)
        ok(cli, "cp", str(tree), f"{either}:/tmp")  # exists: below it
        ok(cli, "cp", str(tree), f"{either}:/tmp/new")  # does not: as it
        ok(cli, "cp", f"{tree}/.", f"{either}:/home")  # what is in it
        for number, source in enumerate(("/tmp/tree", "/tmp/new", "/home/.")):
            target = tmp_path / f"back{number}"
            ok(cli, "cp", f"{either}:{source}", str(target))
            assert sorted(os.listdir(target)) == sorted(["deep", "fifo", "hard", "n" * 150, "ü"])
            assert (target / "deep" / "er" / "file").read_text() == "x" * 100_000
            assert os.readlink(target / "ü") == "deep/er/file"
            assert (target / "hard").samefile(target / "deep" / "er" / "file")
        existing = tmp_path / "existing"
        existing.mkdir()
        ok(cli, "cp", f"{either}:/tmp/tree", str(existing))
        assert os.listdir(existing) == ["tree"]

    def test_links(self, cli: Cli, either: str, tmp_path: Path) -> None:
        (tmp_path / "target").write_text("content")
        (tmp_path / "link").symlink_to("target")
        ok(cli, "cp", str(tmp_path / "link"), f"{either}:/tmp")
        ok(cli, "cp", "-L", str(tmp_path / "link"), f"{either}:/tmp/followed")
        ok(cli, "cp", str(tmp_path / "target"), f"{either}:/tmp")
        assert read(cli, either, "/tmp/followed") == "content"
        ok(cli, "cp", f"{either}:/tmp/link", str(tmp_path / "as-link"))
        assert os.readlink(tmp_path / "as-link") == "target"
        ok(cli, "cp", "-L", f"{either}:/tmp/link", str(tmp_path / "as-file"))
        assert (tmp_path / "as-file").read_text() == "content" and not (tmp_path / "as-file").is_symlink()
        # A link as the destination is followed.
        (tmp_path / "other").write_text("through the link")
        ok(cli, "cp", str(tmp_path / "other"), f"{either}:/tmp/link")
        assert read(cli, either, "/tmp/target") == "through the link"

    def test_standard_streams(self, cli: Cli, either: str, tmp_path: Path) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            info = tarfile.TarInfo("from/stdin")
            info.size = 5
            archive.addfile(info, io.BytesIO(b"hello"))
        environment = cli._stack.environment()
        subprocess.run(
            [cli.program, "cp", "-", f"{either}:/tmp"], input=buffer.getvalue(), check=True, env=environment
        )
        assert read(cli, either, "/tmp/from/stdin") == "hello"
        output = subprocess.run(
            [cli.program, "cp", f"{either}:/tmp/from/.", "-"], capture_output=True, check=True, env=environment
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(output)) as archive:
            assert sorted(archive.getnames()) == [".", "./stdin"]
        assert "must be a directory" in fails(cli, "cp", "-", f"{either}:/tmp/from/stdin")

    def test_wrong_arguments(self, cli: Cli, either: str) -> None:
        assert "must specify at least one container source" in fails(cli, "cp", "/a", "/b")
        assert "copying between containers is not supported" in fails(cli, "cp", f"{either}:/a", f"{either}:/b")


class TestMounts:
    """Volumes, binds and read-only places."""

    def test_a_volume_of_a_container_that_never_ran(self, cli: Cli, container: Made, tmp_path: Path) -> None:
        (tmp_path / "f").write_text("in the volume")
        writer = container("create", "-v", "cp-volume:/data/deep", "busybox", "true")
        try:
            ok(cli, "cp", str(tmp_path / "f"), f"{writer}:/data/deep")
            assert ok(cli, "run", "--rm", "-v", "cp-volume:/v", "busybox", "cat", "/v/f") == "in the volume"
            assert read(cli, writer, "/data/deep/f") == "in the volume"
            ok(cli, "rm", writer)
            again = container("run", "-v", "cp-volume:/data/deep:ro", "busybox", "sleep", "1000")
            assert read(cli, again, "/data/deep/f") == "in the volume"
            error = fails(cli, "cp", str(tmp_path / "f"), f"{again}:/data/deep/g")
            assert "mounted volume is marked read-only" in error
        finally:
            cli("rm", "-f", *cli("ps", "-aq").stdout.split())
            cli("volume", "rm", "cp-volume")

    def test_binds(self, cli: Cli, container: Made, tmp_path: Path) -> None:
        shared = tmp_path / "shared"
        shared.mkdir()
        (tmp_path / "f").write_text("bound")
        for verb in ("run", "create"):
            id_ = container(verb, "-v", f"{shared}:/mnt/here", "busybox", "sleep", "1000")
            ok(cli, "cp", str(tmp_path / "f"), f"{id_}:/mnt/here/{verb}")
            assert (shared / verb).read_text() == "bound"

    @pytest.mark.parametrize("verb", ["run", "create"])
    def test_a_read_only_root(self, cli: Cli, container: Made, tmp_path: Path, verb: str) -> None:
        (tmp_path / "f").write_text("x")
        id_ = container(verb, "--read-only", "-v", "/data", "busybox", "sleep", "1000")
        assert "container rootfs is marked read-only" in fails(cli, "cp", str(tmp_path / "f"), f"{id_}:/tmp")
        ok(cli, "cp", str(tmp_path / "f"), f"{id_}:/data")
        assert read(cli, id_, "/data/f") == "x"

    def test_the_files_of_the_daemon(self, cli: Cli, container: Made) -> None:
        id_ = container("run", "--hostname", "somebody", "busybox", "sleep", "1000")
        running = read(cli, id_, "/etc/hosts")
        assert "somebody" in running
        ok(cli, "kill", id_)
        ok(cli, "wait", id_)
        assert read(cli, id_, "/etc/hosts") == running
        assert read(cli, id_, "/etc/hostname") == "somebody\n"


class TestWholeContainers:
    """export, import, diff, commit."""

    def test_export_and_import(self, cli: Cli, container: Made, tmp_path: Path) -> None:
        id_ = container(
            "run", "-v", "/data", "busybox", "sh", "-c", "echo own >/file; echo v >/data/v; sleep 1000"
        )
        read(cli, id_, "/file")
        ok(cli, "export", "-o", str(tmp_path / "running.tar"), id_)
        ok(cli, "kill", id_)
        ok(cli, "wait", id_)
        ok(cli, "export", "-o", str(tmp_path / "stopped.tar"), id_)
        for name in ("running.tar", "stopped.tar"):
            with tarfile.open(tmp_path / name) as archive:
                names = archive.getnames()
                assert {"bin/busybox", "file", "data"} <= set(names)
                assert not any(member.startswith(("data/", "proc/", "./", "/")) for member in names)
                file = archive.extractfile("file")
                assert file is not None and file.read() == b"own\n"
        try:
            imported = ok(cli, "import", "-c", 'CMD ["cat", "/file"]', str(tmp_path / "stopped.tar"), "imported:1")
            assert imported.startswith("sha256:")
            assert ok(cli, "run", "--rm", "imported:1") == "own\n"
        finally:
            cli("rmi", "imported:1")

    def test_diff(self, cli: Cli, container: Made, tmp_path: Path) -> None:
        id_ = container(
            "run", "busybox", "sh", "-c", "mkdir -p /new/dir; echo >/new/dir/f; rm /bin/awk; sleep 1000"
        )
        ok(cli, "exec", id_, "sh", "-c", "until [ ! -e /bin/awk ]; do :; done")
        expected = ["A /new", "A /new/dir", "A /new/dir/f", "C /bin", "D /bin/awk"]
        assert sorted(ok(cli, "diff", id_).splitlines()) == expected
        ok(cli, "kill", id_)
        ok(cli, "wait", id_)
        assert sorted(ok(cli, "diff", id_).splitlines()) == expected
        assert "No such container" in fails(cli, "diff", "nosuch")

    def test_commit(self, cli: Cli, container: Made) -> None:
        id_ = container("run", "busybox", "sh", "-c", "echo kept >/kept; sleep 1000")
        read(cli, id_, "/kept")
        try:
            made = ok(cli, "commit", "-m", "why", "-a", "who", "-c", "ENV A=b", id_, "committed:1").strip()
            assert made.startswith("sha256:")
            assert ok(cli, "run", "--rm", "committed:1", "sh", "-c", "cat /kept; echo $A") == "kept\nb\n"
            (shown,) = json.loads(ok(cli, "inspect", "committed:1"))
            assert (shown["Comment"], shown["Author"]) == ("why", "who")
        finally:
            cli("rmi", "committed:1")


def test_nothing_is_left_behind(cli: Cli, stack: Stack, container: Made, tmp_path: Path) -> None:
    """After copying, the daemon has the descriptors, threads and mounts that it had before."""
    id_ = container("create", "-v", "/data", "busybox", "sleep", "1000")
    (tmp_path / "f").write_text("x")
    pid = stack.pid("dockerd")

    def once() -> None:
        ok(cli, "cp", str(tmp_path / "f"), f"{id_}:/data")
        ok(cli, "cp", f"{id_}:/data", str(tmp_path / "out"))
        fails(cli, "cp", f"{id_}:/nosuch", str(tmp_path))
        ok(cli, "diff", id_)

    def state() -> tuple[int, int]:
        return len(os.listdir(f"/proc/{pid}/fd")), len(stack.mounts())

    once()
    before = state()
    for _ in range(3):
        once()
    deadline = time.monotonic() + 10
    while state() > before and time.monotonic() < deadline:
        time.sleep(0.05)  # connections that the daemon has not closed yet
    assert state() <= before
