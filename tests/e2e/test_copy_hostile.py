# SPDX-License-Identifier: Apache-2.0
"""Containers that fight back while files are copied: the published vulnerabilities of `docker cp`, replayed."""

import contextlib
import io
import lzma
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.e2e import Stack

from orlop.engine.client import Client, EngineError

pytestmark = pytest.mark.root

ROUNDS = 150
_RENAMEAT2, _EXCHANGE = 316, 2

# Exchanges two names as fast as it can, which no program of busybox does.
_EXCHANGER = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
one, other = (os.fsencode(path) for path in sys.argv[1:])
print("started", flush=True)
while libc.syscall(316, -100, one, -100, other, 2) == 0:
    pass
"""


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[Client]:
    connected = Client(stack.host)
    yield connected
    connected.close()


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A directory of the host that no container may reach."""
    directory = tmp_path / "host"
    directory.mkdir(mode=0o711)
    (directory / "f").write_text("secret of the host")
    (directory / "f").chmod(0o604)
    return directory


@pytest.fixture
def container(stack: Stack) -> Iterator[str]:
    """A running container with a directory /w."""
    id_ = stack.docker("run", "-d", "busybox", "sleep", "1000").stdout.strip()
    assert stack.docker("exec", id_, "mkdir", "/w").returncode == 0
    yield id_
    stack.docker("rm", "-f", "-v", id_)


def root_of(stack: Stack, container: str) -> Path:
    pid = stack.docker("inspect", "-f", "{{.State.Pid}}", container).stdout.strip()
    return Path(f"/proc/{pid}/root")


@contextlib.contextmanager
def exchanging(one: Path, other: Path) -> Iterator[None]:
    """Two names are exchanged all the time."""
    command = [sys.executable, "-S", "-c", _EXCHANGER, str(one), str(other)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        try:
            yield
            assert process.poll() is None, "the exchange has failed"
        finally:
            process.send_signal(signal.SIGKILL)


def tar(*members: tuple[str, bytes | None]) -> bytes:
    """A tar of files (name, content) and directories (name, None)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.mode = 0o777
            if content is None:
                info.type = tarfile.DIRTYPE
            info.size = len(content or b"")
            archive.addfile(info, io.BytesIO(content or b""))
    return buffer.getvalue()


def get(client: Client, container: str, path: str) -> bytes:
    """Everything that GET gives; empty for a clean refusal."""
    try:
        response = client.request("GET", f"/containers/{container}/archive", {"path": path})
    except EngineError as error:
        assert error.status in (400, 404), error
        return b""
    return response.read()


def put(client: Client, container: str, path: str, archive: bytes) -> bool:
    """Whether PUT succeeded; otherwise it was a clean refusal."""
    try:
        client.request("PUT", f"/containers/{container}/archive", {"path": path}, archive).read()
    except EngineError as error:
        # 500: a name that vanished between two steps.
        assert error.status in (400, 404, 500), error
        return False
    return True


def untouched(host: Path) -> bool:
    return (
        os.listdir(host) == ["f"]
        and (host / "f").read_text() == "secret of the host"
        and (host.stat().st_mode & 0o777, (host / "f").stat().st_mode & 0o777) == (0o711, 0o604)
    )


class TestSymlinkExchange:
    """CVE-2018-15664, CVE-2021-41089: a directory that is a link to the host's at the wrong moment."""

    @pytest.fixture(params=["absolute", "climbing"])
    def names(self, request: pytest.FixtureRequest, stack: Stack, container: str, host: Path) -> tuple[Path, Path]:
        root = root_of(stack, container)
        real, link = root / "w" / "real", root / "w" / "link"
        real.mkdir()
        (real / "f").write_text("inside")
        link.symlink_to(str(host) if request.param == "absolute" else f"../../../../../../../..{host}")
        return real, link

    def test_reading(self, client: Client, container: str, names: tuple[Path, Path]) -> None:
        seen: set[bool] = set()
        with exchanging(*names):
            for number in range(ROUNDS):
                data = get(client, container, ("/w/real/f", "/w/real/.", "/w/real", "/w")[number % 4])
                assert b"secret of the host" not in data
                seen.add(b"inside" in data)
        assert seen == {True, False}  # the race took place

    def test_writing(self, client: Client, container: str, names: tuple[Path, Path], host: Path) -> None:
        archive = tar(("f", b"written"), ("sub", None), ("sub/g", b"written"))
        done: set[bool] = set()
        with exchanging(*names):
            for number in range(ROUNDS):
                done.add(put(client, container, ("/w/real", "/w/real/sub")[number % 2], archive))
        assert True in done
        assert untouched(host)

    def test_exporting(self, client: Client, container: str, names: tuple[Path, Path]) -> None:
        with exchanging(*names):
            for _ in range(5):
                data = client.request("GET", f"/containers/{container}/export").read()
                assert b"secret of the host" not in data and b"bin/busybox" in data

    def test_links_in_an_archive(self, client: Client, container: str, host: Path) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, target in (("out", str(host)), ("up", "../../../../.." + str(host))):
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.SYMTYPE, target
                archive.addfile(link)
                file = tarfile.TarInfo(f"{name}/f")
                file.size = 3
                archive.addfile(file, io.BytesIO(b"new"))
            for name, target in (("hard", str(host / "f")), ("hard2", "../../../../.." + str(host / "f"))):
                hard = tarfile.TarInfo(name)
                hard.type, hard.linkname = tarfile.LNKTYPE, target
                archive.addfile(hard)
        put(client, container, "/w", buffer.getvalue())
        put(client, container, "/w", tar(("../../../../../../" + str(host) + "/f", b"new")))
        assert untouched(host)


class TestSpecialFiles:
    """What may not be opened."""

    def test_a_file_that_is_a_pipe_at_the_wrong_moment(self, stack: Stack, client: Client, container: str) -> None:
        root = root_of(stack, container)
        (root / "w" / "file").write_text("x")
        os.mkfifo(root / "w" / "pipe")
        before = time.monotonic()
        with exchanging(root / "w" / "file", root / "w" / "pipe"):
            for _ in range(ROUNDS):
                assert get(client, container, "/w/file")
        assert time.monotonic() - before < 60

    def test_a_device_of_the_host_is_not_read(self, stack: Stack, client: Client, container: str) -> None:
        """A device node that a container made (it may) is a name to the daemon."""
        made = stack.docker("exec", container, "mknod", "/w/zero", "c", "1", "5")
        assert made.returncode == 0, made.stderr
        data = get(client, container, "/w/zero")
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            (member,) = archive.getmembers()
        assert (member.type, member.devmajor, member.devminor) == (tarfile.CHRTYPE, 1, 5)

    def test_a_tree_of_great_depth(self, stack: Stack, client: Client, container: str) -> None:
        at = os.open(root_of(stack, container) / "w", os.O_RDONLY)
        for _ in range(3000):
            os.mkdir("dd", dir_fd=at)
            below = os.open("dd", os.O_RDONLY, dir_fd=at)
            os.close(at)
            at = below
        os.close(at)
        data = get(client, container, "/w")
        assert data.count(b"ustar") > 3000
        assert client.get(f"/containers/{container}/json")["State"]["Running"]

    def test_magic_links_lead_nowhere(self, client: Client, container: str) -> None:
        for path in ("/proc/self/root/etc", "/proc/1/root/etc", "/proc/1/cwd", "/proc/thread-self/fd/0"):
            assert get(client, container, path + "/.") == b""


class TestClientsThatLeave:
    """They take nothing with them."""

    def test_in_the_middle_of_an_upload(self, stack: Stack) -> None:
        """The container, which cannot start during the upload, can afterwards."""
        id_ = stack.docker("create", "busybox", "true").stdout.strip()
        head = f"PUT /v1.47/containers/{id_}/archive?path=/tmp HTTP/1.1\r\nHost: x\r\n"
        half = tar(("whole", b"content"), ("half", b"x" * 1000))[:1700]
        for framing, body in (
            ("Transfer-Encoding: chunked", b"%x\r\n" % len(half) + half + b"\r\n"),
            ("Content-Length: 4000", half),
        ):
            with socket.socket(socket.AF_UNIX) as leaving:
                leaving.connect(str(stack.run_dir / "docker.sock"))
                leaving.sendall(f"{head}{framing}\r\n\r\n".encode() + body)
        started = stack.docker("start", "-a", id_, timeout=20)
        assert started.returncode == 0, started.stderr
        assert stack.docker("rm", id_).returncode == 0

    def test_in_the_middle_of_a_download(self, stack: Stack, client: Client, container: str) -> None:
        stack.docker("exec", container, "dd", "if=/dev/zero", "of=/w/big", "bs=1M", "count=40")
        descriptors = Path(f"/proc/{stack.pid('dockerd')}/fd")
        before = len(os.listdir(descriptors))
        for path in ("archive?path=/w", "export") * 3:
            with socket.socket(socket.AF_UNIX) as leaving:
                leaving.connect(str(stack.run_dir / "docker.sock"))
                leaving.sendall(f"GET /containers/{container}/{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                assert b"200 OK" in leaving.recv(1000)
        deadline = time.monotonic() + 10
        while len(os.listdir(descriptors)) > before and time.monotonic() < deadline:
            time.sleep(0.05)  # nothing tells when a server has noticed
        assert len(os.listdir(descriptors)) <= before


class TestKernelFiles:
    """/proc and its like have no contents that could be copied."""

    def test_they_are_left_out(self, client: Client, container: str) -> None:
        with tarfile.open(fileobj=io.BytesIO(get(client, container, "/"))) as archive:
            names = archive.getnames()
        assert {"/proc", "/sys", "/dev/null", "/etc/hosts"} <= set(names)
        assert not any(name.startswith(("/proc/", "/sys/")) for name in names)
        assert get(client, container, "/proc/1/status") == b""


class TestPrograms:
    """CVE-2026-41567, CVE-2019-14271: nothing of a container is run or loaded by the daemon."""

    @pytest.mark.parametrize("compress", ["xz", "gz", "bz2"])
    @pytest.mark.parametrize("verb", ["run", "create"])
    def test_decompression_runs_no_program(self, stack: Stack, client: Client, verb: str, compress: str) -> None:
        id_ = stack.docker(*([verb, "-d"] if verb == "run" else [verb]), "busybox", "sleep", "1000").stdout.strip()
        try:
            hostile = b"#!/bin/sh\ntouch /marker\nexec cat\n"
            programs = [
                (f"{d}/{name}", hostile) for d in ("bin", "usr/bin") for name in ("xz", "unpigz", "gzip", "bzip2")
            ]
            assert put(client, id_, "/", tar(*programs))
            plain = tar(("extracted", b"content"))
            if compress == "xz":
                archive = lzma.compress(plain)
            else:
                import bz2
                import gzip

                archive = gzip.compress(plain) if compress == "gz" else bz2.compress(plain)
            assert put(client, id_, "/tmp", archive)
            assert b"content" in get(client, id_, "/tmp/extracted")
            assert get(client, id_, "/marker") == b""
            assert not os.path.exists("/marker")
        finally:
            stack.docker("rm", "-f", id_)

    def test_names_of_users_are_looked_up_without_libraries(self, stack: Stack, client: Client) -> None:
        id_ = stack.docker("create", "--user", "someone", "busybox", "true").stdout.strip()
        try:
            files = (
                ("etc/passwd", b"root:x:0:0::/:/bin/sh\nsomeone:x:4321:4322::/:/bin/sh\n"),
                ("etc/nsswitch.conf", b"passwd: evil\n"),
                ("lib/libnss_evil.so.2", b"\x7fELF"),
            )
            assert put(client, id_, "/", tar(*files))
            daemon = stack.pid("dockerd")
            query = {"path": "/tmp", "copyUIDGID": "1"}
            client.request("PUT", f"/containers/{id_}/archive", query, tar(("mine", b"x"))).read()
            with tarfile.open(fileobj=io.BytesIO(get(client, id_, "/tmp/mine"))) as archive:
                (member,) = archive.getmembers()
            assert (member.uid, member.gid) == (4321, 4322)
            assert "libnss_evil" not in Path(f"/proc/{daemon}/maps").read_text()
        finally:
            stack.docker("rm", "-f", id_)


class TestMountPoints:
    """CVE-2026-41568, CVE-2026-42306: mount points below a volume that somebody else is writing to."""

    @pytest.mark.parametrize("kind", ["directory", "file"])
    def test_exchanged_by_another_container(
        self, stack: Stack, client: Client, host: Path, tmp_path: Path, kind: str
    ) -> None:
        outer, inner = tmp_path / "outer", tmp_path / "inner"
        outer.mkdir()
        (outer / "real").mkdir()
        (outer / "link").symlink_to(host)
        if kind == "directory":
            inner.mkdir()
            (inner / "f").write_text("inner")
        else:
            inner.write_text("inner")
        # Below the name that is exchanged, so that it has to be made there.
        target = "/outer/real/made/here"
        volumes = ("-v", f"{outer}:/outer", "-v", f"{inner}:{target}")
        id_ = stack.docker("create", *volumes, "busybox", "true").stdout.strip()
        try:
            with exchanging(outer / "real", outer / "link"):
                for number in range(ROUNDS // 3):
                    with contextlib.suppress(EngineError):
                        if number % 2:
                            client.request("HEAD", f"/containers/{id_}/archive", {"path": target}).read()
                        else:
                            client.request(
                                "PUT", f"/containers/{id_}/archive", {"path": "/outer/real"}, tar(("new", b"x"))
                            ).read()
            assert untouched(host)
            assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
        finally:
            stack.docker("rm", "-f", id_)

    def test_a_mount_point_behind_an_absolute_link(self, stack: Stack, client: Client, tmp_path: Path) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            link = tarfile.TarInfo("var/run")
            link.type, link.linkname = tarfile.SYMTYPE, "/run"
            archive.addfile(link)
        base = stack.docker("create", "busybox", "true").stdout.strip()
        assert put(client, base, "/", buffer.getvalue())
        image = stack.docker("commit", base, "linked:1").stdout.strip()
        assert image.startswith("sha256:")
        (tmp_path / "v").mkdir()
        (tmp_path / "v" / "f").write_text("through the link")
        id_ = stack.docker("create", "-v", f"{tmp_path}/v:/var/run/app", "linked:1", "true").stdout.strip()
        try:
            for path in ("/var/run/app/f", "/run/app/f"):
                assert b"through the link" in get(client, id_, path)
            assert put(client, id_, "/var/run/app", tar(("g", b"new")))
            assert (tmp_path / "v" / "g").read_text() == "new"
        finally:
            stack.docker("rm", "-f", id_, base)
            stack.docker("rmi", "linked:1")
