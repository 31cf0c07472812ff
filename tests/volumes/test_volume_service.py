# SPDX-License-Identifier: Apache-2.0
"""Volumes of the local driver: rows, directories, mounts, and content copied from an image."""

import os
import sqlite3
import stat
import threading
from contextlib import suppress

import pytest

from orlop.dockerd.spec.mountpoint import MountPoint
from orlop.dockerd.spec.mounts import parse_bind, parse_mount
from orlop.dockerd.volumes import VolumeService, init_schema
from orlop.engine.types import Mount, VolumeOptions
from orlop.errdefs import (
    ConflictError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
)

root_only = [pytest.mark.root, pytest.mark.skipif(os.getuid() != 0, reason="needs root")]


class World:
    """A service on a directory and database of its own, and what containers refer to."""

    def __init__(self, path):
        self.path = path
        self.users = {}
        self.connection = sqlite3.connect(path / "db", isolation_level=None, check_same_thread=False)
        init_schema(self.connection)
        self.service = self.restart()

    def restart(self):
        return VolumeService(self.path / "volumes", lambda: self.connection, lambda name: self.users.get(name, []))


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.connection.close()


def test_create_inspect_list_remove(world):
    volume = world.service.create("data", labels={"a": "b"})
    assert os.path.isdir(volume.mountpoint) and volume.mountpoint.endswith("/volumes/data/_data")
    shown = volume.inspect()
    assert list(shown) == ["CreatedAt", "Driver", "Labels", "Mountpoint", "Name", "Options", "Scope"]
    assert shown["Labels"] == {"a": "b"} and shown["Options"] is None and shown["Driver"] == "local"
    assert world.service.create("data", labels={"other": "x"}) == volume
    assert world.restart().get("data") == volume
    world.service.create("alpha")
    assert [one.name for one in world.service.list()] == ["alpha", "data"]
    world.service.remove("data")
    with pytest.raises(NotFoundError, match=r"^get data: no such volume$"):
        world.service.get("data")
    with pytest.raises(NotFoundError, match=r"^get data: no such volume$"):
        world.service.remove("data")
    world.service.remove("data", force=True)
    assert os.listdir(world.path / "volumes") == ["alpha"]


def test_an_anonymous_volume(world):
    volume = world.service.create()
    assert len(volume.name) == 64 and volume.anonymous
    assert volume.labels == {"com.docker.volume.anonymous": ""}


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "a b", "ä1", "x" * 250, "-a"])
def test_names_that_are_refused(world, name):
    with pytest.raises(InvalidArgumentError, match=r"invalid characters for a local volume name, only|too long"):
        world.service.create(name)
    assert os.listdir(world.path / "volumes") == []


def test_a_name_of_one_letter(world):
    with pytest.raises(InvalidArgumentError, match=r"^create a: volume name is too short"):
        world.service.create("a")


@pytest.mark.parametrize(("options", "message"), [
    ({"foo": "1"}, 'invalid option: "foo"'),
    ({"type": "tmpfs"}, 'missing required option: "device"'),
    ({"o": "bind", "device": "/x"}, 'missing required option: "type"'),
    ({"size": "10m"}, "quota size requested but no quota support"),
])  # fmt: skip
def test_options_that_are_refused(world, options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        world.service.create("data", options=options)
    assert world.service.list() == []


def test_another_driver(world):
    with pytest.raises(NotFoundError, match='error looking up volume plugin nfs: plugin "nfs" not found'):
        world.service.create("data", driver="nfs")


def test_a_volume_in_use_stays(world):
    world.service.create("data")
    world.users["data"] = ["c1", "c2"]
    with pytest.raises(ConflictError, match=r"^remove data: volume is in use - \[c1, c2\]$"):
        world.service.remove("data", force=True)


def test_resolving_mount_points(world):
    point = world.service.resolve(parse_bind("data:/d:ro"), "c")
    assert (point.name, point.driver, point.mode, point.rw) == ("data", "local", "ro", False)
    assert point.source == world.service.get("data").mountpoint
    assert world.service.resolve(parse_bind("data:/d"), "c").mode == "z"
    anonymous = world.service.resolve(parse_mount(Mount(type="volume", target="/x")), "c")
    assert len(anonymous.name) == 64 and anonymous.anonymous
    labelled = Mount(type="volume", source="l", target="/x", volume_options=VolumeOptions(labels={"k": "v"}))
    with pytest.raises(InvalidArgumentError, match="too short"):
        world.service.resolve(parse_mount(labelled), "c")
    labelled.source = "labelled"
    world.service.resolve(parse_mount(labelled), "c")
    assert world.service.get("labelled").labels == {"k": "v"}
    bind = MountPoint(type="bind", source="/a", destination="/b")
    assert world.service.resolve(bind, "c") is bind


def test_threads_that_create_and_remove_the_same(world):
    failures = []

    def work():
        for _ in range(20):
            try:
                world.service.create("data")
                world.service.remove("data", force=True)
            except Exception as error:
                failures.append(error)
                raise

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and world.service._locks == {}


def test_what_a_crash_left_is_settled(world):
    world.service.create("kept")
    world.service.create("lost-directory")
    os.rmdir(world.path / "volumes" / "lost-directory" / "_data")
    os.makedirs(world.path / "volumes" / "lost-row" / "_data")
    os.makedirs(world.path / "volumes" / ".removed-old" / "_data")
    os.makedirs(world.path / "volumes" / "kept" / ".copied-" / "half")
    service = world.restart()
    service.reconcile()
    assert [volume.name for volume in service.list()] == ["kept", "lost-directory", "lost-row"]
    assert all(os.path.isdir(volume.mountpoint) for volume in service.list())
    assert sorted(os.listdir(world.path / "volumes" / "kept")) == ["_data"]
    assert ".removed-old" not in os.listdir(world.path / "volumes")


def test_disk_usage_counts_inodes(world):
    data = world.service.create("data").mountpoint
    with open(f"{data}/a", "w") as file:
        file.write("x" * 1000)
    os.link(f"{data}/a", f"{data}/b")
    os.symlink("/etc/passwd", f"{data}/c")
    assert world.service.disk_usage("data") == 1000 + len("/etc/passwd")


def image(path):
    """A root filesystem with one of everything in /srv/data."""
    data = path / "rootfs" / "srv" / "data"
    (data / "sub" / "deep").mkdir(parents=True)
    (data / "file").write_bytes(b"content" * 5000)
    os.chmod(data / "file", 0o4750)
    os.link(data / "file", data / "sub" / "hard")
    os.symlink("/srv/data/file", data / "soft")
    os.mkfifo(data / "pipe", 0o640)
    if os.getuid() == 0:
        os.chown(data / "file", 1000, 1001)
        os.chown(data / "soft", 3, 4, follow_symlinks=False)
        os.mknod(data / "null", 0o20666, os.makedev(1, 3))
        os.chown(data, 7, 8)
    with suppress(OSError):  # tmpfs has none before Linux 6.6
        os.setxattr(data / "file", "user.colour", b"blue")
    os.chmod(data / "sub", 0o1777)
    os.utime(data / "sub" / "deep", (1000, 2000))
    os.utime(data / "file", (1000, 3000))
    os.chmod(data, 0o711)
    return path / "rootfs"


def open_root(path):
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


def test_copy_up_keeps_everything(world, tmp_path):
    root = open_root(image(tmp_path))
    mountpoint = world.service.create("data").mountpoint
    try:
        assert world.service.copy_up("data", root, "/srv/data")
        assert not world.service.copy_up("data", root, "/srv/data")
        assert not world.service.copy_up("data", root, "/no/such/place")
    finally:
        os.close(root)
    source = f"{tmp_path}/rootfs/srv/data"
    for name in (".", "file", "sub", "sub/hard", "sub/deep", "soft", "pipe", "null"):
        if name == "null" and os.getuid() != 0:
            continue
        want, have = os.lstat(f"{source}/{name}"), os.lstat(f"{mountpoint}/{name}")
        assert (want.st_mode, want.st_uid, want.st_gid, want.st_rdev) == (
            have.st_mode, have.st_uid, have.st_gid, have.st_rdev,
        ), name  # fmt: skip
        assert want.st_mtime_ns == have.st_mtime_ns, name
    assert os.readlink(f"{mountpoint}/soft") == "/srv/data/file"
    assert os.path.samefile(f"{mountpoint}/file", f"{mountpoint}/sub/hard")
    assert not os.path.samefile(f"{mountpoint}/file", f"{source}/file")
    assert os.listxattr(f"{mountpoint}/file") == os.listxattr(f"{source}/file")
    with open(f"{mountpoint}/file", "rb") as file:
        assert file.read() == b"content" * 5000
    assert sorted(os.listdir(os.path.dirname(mountpoint))) == ["_data"]


def test_copy_up_into_content_does_nothing(world, tmp_path):
    mountpoint = world.service.create("data").mountpoint
    with open(f"{mountpoint}/mine", "w"):
        pass
    root = open_root(image(tmp_path))
    try:
        assert not world.service.copy_up("data", root, "/srv/data")
    finally:
        os.close(root)
    assert os.listdir(mountpoint) == ["mine"]


def test_copy_up_into_a_shared_volume_keeps_its_directory(world, tmp_path):
    mountpoint = world.service.create("data").mountpoint
    world.users["data"] = ["c1", "c2"]
    before = os.stat(mountpoint).st_ino
    root = open_root(image(tmp_path))
    try:
        assert world.service.copy_up("data", root, "/srv/data")
    finally:
        os.close(root)
    assert os.stat(mountpoint).st_ino == before and stat.S_IMODE(os.stat(mountpoint).st_mode) == 0o711


def test_an_image_path_does_not_lead_out_of_the_image(world, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("s")
    rootfs = tmp_path / "rootfs"
    rootfs.mkdir()
    os.symlink(outside, rootfs / "link")
    os.symlink("/file", rootfs / "tofile")
    (rootfs / "file").write_text("")
    mountpoint = world.service.create("data").mountpoint
    root = open_root(rootfs)
    try:
        for destination in ("/link", "/../../../../../outside", "../outside"):
            assert not world.service.copy_up("data", root, destination)
        with pytest.raises(InvalidArgumentError, match="over existing file, file exists /tofile"):
            world.service.copy_up("data", root, "/tofile")
    finally:
        os.close(root)
    assert os.listdir(mountpoint) == []


class TestMounts:
    pytestmark = root_only

    def test_a_bind_with_options_is_counted_by_container(self, world, tmp_path):
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "seen").write_text("")
        options = {"type": "none", "o": "bind,ro", "device": str(tmp_path / "there")}
        world.service.create("data", options=options)
        path = world.service.mount("data", "c1")
        try:
            assert os.listdir(path) == ["seen"]
            with pytest.raises(OSError, match="Read-only"):
                os.mkdir(f"{path}/new")
            world.restart().mount("data", "c2")
            with pytest.raises(ConflictError, match=r"in use - \[c1, c2\]"):
                world.service.remove("data")
            world.service.unmount("data", "c1")
            assert os.listdir(path) == ["seen"]
        finally:
            for container in ("c1", "c2"):
                world.service.unmount("data", container)
        assert os.listdir(path) == []
        world.service.remove("data")
        assert os.listdir(tmp_path / "there") == ["seen"]

    def part(self, world, subpath, container="c"):
        options = VolumeOptions(subpath=subpath)
        point = parse_mount(Mount(type="volume", source="data", target="/x", volume_options=options))
        return world.service.resolve(point, container)

    def test_a_subpath_is_bound_where_nobody_can_exchange_it(self, world):
        data = world.service.create("data").mountpoint
        os.makedirs(f"{data}/a/b")
        with open(f"{data}/a/b/seen", "w"):
            pass
        os.symlink("a", f"{data}/link")
        point = self.part(world, "link/b")
        assert not point.copy_data and not point.source.startswith(data)
        world.users["data"] = ["c"]
        for _ in range(2):
            world.service.mount("data", "c")
            world.restart().mount("data", "c")
            try:
                os.rename(f"{data}/a", f"{data}/moved")
                os.symlink("/etc", f"{data}/a")
                assert os.listdir(point.source) == ["seen"]
            finally:
                world.service.unmount("data", "c")
            os.unlink(f"{data}/a")
            os.rename(f"{data}/moved", f"{data}/a")
        assert os.listdir(world.path / "volumes" / ".subpaths") == []
        world.users.clear()
        world.service.reconcile()
        assert world.service._store.subpaths("data") == []
        world.service.remove("data")

    def test_a_file_as_subpath(self, world):
        data = world.service.create("data").mountpoint
        with open(f"{data}/file", "w") as file:
            file.write("content")
        point = self.part(world, "file")
        world.service.mount("data", "c")
        try:
            with open(point.source) as file:
                assert file.read() == "content"
        finally:
            world.service.unmount("data", "c")
        world.service.remove("data")

    @pytest.mark.parametrize(("subpath", "message"), [
        ("out", "leads out of the volume"), ("nope", "no such file or directory"),
    ])  # fmt: skip
    def test_a_subpath_that_is_refused(self, world, subpath, message):
        data = world.service.create("data").mountpoint
        os.symlink("/etc", f"{data}/out")
        self.part(world, subpath)
        with pytest.raises(InvalidArgumentError, match=message):
            world.service.mount("data", "c")
        world.service.unmount("data", "c")

    def test_holders_do_not_outlive_the_mount(self, world):
        world.service.create("data", options={"type": "tmpfs", "device": "tmpfs"})
        world.service._store.hold("data", "c")
        world.service.reconcile()
        world.service.remove("data")

    def test_a_tmpfs(self, world):
        world.service.create("data", options={"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=1000"})
        path = world.service.mount("data", "c")
        try:
            assert (
                os.stat(path).st_uid == 1000 and os.statvfs(path).f_blocks * os.statvfs(path).f_frsize == 1 << 20
            )
        finally:
            world.service.unmount("data", "c")

    def test_a_mount_that_fails_says_why_and_hides_the_password(self, world):
        options = {"type": "none", "o": "bind,password=secret", "device": "/no/such"}
        world.service.create("data", options=options)
        with pytest.raises(InternalError) as caught:
            world.service.mount("data", "c")
        assert "failed to mount local volume: mount /no/such:" in str(caught.value)
        assert "flags: 0x1000, data: password=********: no such file or directory" in str(caught.value)
        world.service.remove("data")
