# SPDX-License-Identifier: Apache-2.0
"""Resolving in a hostile root, the plan of a root filesystem, writing to /proc."""

from __future__ import annotations

import os
import stat

import pytest

from orlop.errdefs import InvalidArgumentError
from orlop.libcontainer import sync
from orlop.libcontainer.procfs import open_procfs, sysctl_path, write_proc
from orlop.libcontainer.rootfs.copy import copy_tree
from orlop.libcontainer.rootfs.plan import plan_rootfs
from orlop.libcontainer.rootfs.resolve import make_directories, make_file, open_parent
from orlop.oci.runtime import Device, Linux, Mount, Root, Spec
from orlop.unix import mount as mnt


def _spec(*mounts: Mount, **linux: object) -> Spec:
    return Spec(oci_version="1.0.2", root=Root(path="rootfs"), mounts=list(mounts), linux=Linux(**linux))


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    fd = os.open(tmp_path / "root", os.O_PATH)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("links", "path", "made"),
    [
        ({}, "/a/b/c", "a/b/c"),
        ({}, "../../a/./b//c/", "a/b/c"),
        ({"x": "/y/z"}, "/x/c", "y/z/c"),
        ({"x": "../../../y"}, "x/c", "y/c"),
        ({"x": "y", "y": "z"}, "x/c", "z/c"),
        ({"x": "."}, "x/x/c", "c"),
    ],
)
def test_directories_are_made_inside(root: int, tmp_path, links: dict[str, str], path: str, made: str) -> None:
    for name, target in links.items():
        os.symlink(target, tmp_path / "root" / name)
    fd = make_directories(root, path)
    assert os.readlink(f"/proc/self/fd/{fd}") == str(tmp_path / "root" / made)
    os.close(fd)
    assert os.listdir(tmp_path) == ["root"]


def test_a_loop_of_links_is_an_error(root: int, tmp_path) -> None:
    os.symlink("b", tmp_path / "root" / "a")
    os.symlink("a", tmp_path / "root" / "b")
    with pytest.raises(OSError, match="levels"):
        make_directories(root, "/a/c")


def test_files_and_parents(root: int, tmp_path) -> None:
    os.close(make_file(root, "/etc/deep/file"))
    assert stat.S_ISREG(os.stat(tmp_path / "root/etc/deep/file").st_mode)
    fd, name = open_parent(root, "/dev/sub/null")
    assert name == "null"
    os.close(fd)
    with pytest.raises(ValueError, match="names no file"):
        open_parent(root, "/..")


def test_a_plan_is_data() -> None:
    plan = plan_rootfs(
        _spec(
            Mount(destination="proc", type="proc", source="proc"),
            Mount(destination="/dev", type="tmpfs", source="tmpfs", options=["ro", "mode=755"]),
            Mount(destination="/data", source="/src", options=["rbind", "ro", "rslave"]),
            Mount(destination="/cg", type="cgroup", source="cgroup", options=["ro"]),
            masked_paths=["/proc/kcore"],
        ),
        "/bundle",
        {
            "cpu": "/sys/fs/cgroup/cpu,cpuacct/x",
            "cpuacct": "/sys/fs/cgroup/cpu,cpuacct/x",
            "": "/sys/fs/cgroup/unified/x",
        },
    )
    assert [(s.destination, s.fstype, s.seal) for s in plan.mounts] == [
        ("/proc", "proc", False),
        ("/dev", "tmpfs", True),
        ("/data", "bind", False),
        ("/cg", "tmpfs", True),
        ("/cg/cpu,cpuacct", "bind", False),
        ("/cg/unified", "bind", False),
    ]
    assert plan.path == "/bundle/rootfs"
    assert plan.masked == ["/proc/kcore"]
    assert plan.mounts[2].options.propagation == [(mnt.MS_SLAVE, mnt.AT_RECURSIVE)]
    assert [device.path for device in plan.devices][:2] == ["/dev/null", "/dev/zero"]


def test_the_unified_hierarchy_is_one_mount() -> None:
    entry = Mount(destination="/sys/fs/cgroup", type="cgroup", source="cgroup", options=["ro"])
    (step,) = plan_rootfs(_spec(entry), "/b", {"": "/sys/fs/cgroup/x"}).mounts
    assert (step.fstype, step.options.attr_set) == ("cgroup2", mnt.MOUNT_ATTR_RDONLY)


def test_a_bound_dev_is_left_alone() -> None:
    plan = plan_rootfs(_spec(Mount(destination="/dev", source="/dev", options=["rbind"])), "/b", {})
    assert (plan.makes_dev, plan.devices) == (False, [])


@pytest.mark.parametrize(
    ("mount", "text"),
    [
        (Mount(destination="/", type="tmpfs"), "top of the root filesystem"),
        (Mount(destination="/a/..", type="tmpfs"), "top of the root filesystem"),
        (Mount(destination="/x"), "no type"),
        (Mount(destination="/proc", type="tmpfs"), "not of type proc"),
        (Mount(destination="/proc/self/attr", source="/y", options=["bind"]), "inside /proc"),
        (Mount(destination="/x\0y", type="tmpfs"), "null byte"),
    ],
)
def test_what_cannot_be_planned(mount: Mount, text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=text):
        plan_rootfs(_spec(mount), "/b", {})


def test_a_bind_mount_ignores_filesystem_options(monkeypatch) -> None:
    heard: list[str] = []
    monkeypatch.setattr("orlop.libcontainer.journal._sink", heard.append)
    entry = Mount(destination="/x", source="/y", options=["bind", "ro", "size=1", "mode=755"])
    (step,) = plan_rootfs(_spec(entry), "/b", {}).mounts
    assert (step.options.data, step.options.attr_set) == ([], mnt.MOUNT_ATTR_RDONLY)
    assert heard == ["mounts: /x: a bind mount takes no filesystem options: ignoring size=1,mode=755"]


def test_devices_of_unknown_type() -> None:
    with pytest.raises(InvalidArgumentError, match="expected c, b, u or p"):
        plan_rootfs(_spec(devices=[Device(path="/dev/x", type="z")]), "/b", {})


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.ip_forward", "sys/net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.1/forwarding", "sys/net/ipv4/conf/eth0.1/forwarding"),
        ("net.ipv4.conf.eth0/1.forwarding", "sys/net/ipv4/conf/eth0.1/forwarding"),
    ],
)
def test_sysctl_names(name: str, path: str) -> None:
    assert sysctl_path(name) == path


@pytest.mark.root
def test_procfs_cannot_be_covered(alone, tmp_path) -> None:
    def body() -> None:
        mnt.mount(str(tmp_path), "/proc", flags=mnt.MS_BIND)
        (tmp_path / "sys").mkdir()
        procfs = open_procfs()
        write_proc(procfs, "sys/kernel/shmmax", "4096")
        for bad in ("self/attr/exec", "../etc/passwd", "nonexistent"):
            with pytest.raises(OSError):
                write_proc(procfs, bad, "x")
        assert list((tmp_path / "sys").iterdir()) == []

    alone(body)


@pytest.mark.root
def test_copying_a_tree(tmp_path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for path in (source, source / "dir", target):
        path.mkdir()
    (source / "dir" / "file").write_bytes(b"x" * 3_000_000)
    os.chmod(source / "dir" / "file", 0o4711)
    os.chown(source / "dir", 3, 4)
    os.symlink("/etc/passwd", source / "link")
    os.mkfifo(source / "pipe", 0o620)
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (source, target)]
    copy_tree(*fds)
    for fd in fds:
        os.close(fd)
    assert (target / "dir" / "file").read_bytes() == b"x" * 3_000_000
    assert stat.S_IMODE(os.stat(target / "dir" / "file").st_mode) == 0o4711
    assert (os.stat(target / "dir").st_uid, os.stat(target / "dir").st_gid) == (3, 4)
    assert os.readlink(target / "link") == "/etc/passwd"
    assert stat.S_ISFIFO(os.stat(target / "pipe").st_mode)


def test_the_last_words_of_a_child_that_did_not_listen() -> None:
    ours, theirs = sync.pair()
    ours.go()
    theirs.send(sync.ERROR, b"InternalError\nwhy")
    theirs.close()  # with GO unread, which resets the connection
    assert ours.receive() == (sync.ERROR, b"InternalError\nwhy", -1)
    assert ours.receive()[0] == b""
    ours.go()
    ours.close()


def test_a_message_with_a_descriptor() -> None:
    ours, theirs = sync.pair()
    theirs.send(sync.CONSOLE, b"x", fd=0)
    kind, argument, fd = ours.receive()
    assert (kind, argument) == (sync.CONSOLE, b"x")
    assert os.fstat(fd).st_ino == os.fstat(0).st_ino
    assert not os.get_inheritable(fd)
    for end in (ours, theirs):
        end.close()
    os.close(fd)
