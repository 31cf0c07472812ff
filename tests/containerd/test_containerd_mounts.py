# SPDX-License-Identifier: Apache-2.0
"""The Mounts service: mounts that the daemon makes, with templates and directories, and how they end."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.containerd import Daemon, mounts_below, wait_until

from orlop.api.types_pb2 import ActivationInfo
from orlop.api.types_pb2 import Mount as MountMessage
from orlop.containerd.client import Client
from orlop.containerd.core.mount import Mount
from orlop.containerd.plugins.mount_plan import Active, Directory, count_ours, transformed
from orlop.errdefs import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    NotImplementedByUsError,
)
from orlop.unix.mount import umount2

TMPFS = MountMessage(type="tmpfs", source="tmpfs", options=["size=1m"])


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    daemon = Daemon("orlop").start()
    yield daemon
    daemon.remove()


@pytest.fixture
async def client(shared: Daemon) -> AsyncIterator[Client]:
    async with Client(shared.address, shared.namespace) as client:
        yield client
        assert [info.name async for info in client.mounts.list()] == []
        assert mounts_below(shared.state) == []
        assert os.listdir(f"{shared.state}/io.containerd.mount-manager.v1") == []


@pytest.mark.root
async def test_temporary(client: Client, shared: Daemon, tmp_path: object) -> None:
    bind = MountMessage(type="bind", source=str(tmp_path), options=["rbind", "ro"])
    info = await client.mounts.activate("t", [TMPFS, bind], {"a": "b"}, temporary=True)
    first, second = info.active
    assert mounts_below(shared.state) == [first.mount_point, second.mount_point]
    assert first.mounted_at.seconds > 0
    (system,) = info.system
    assert (system.type, system.source) == ("bind", second.mount_point)
    with pytest.raises(OSError, match="Read-only"):
        os.mkdir(f"{second.mount_point}/x")
    assert await client.mounts.info("t") == info
    with pytest.raises(AlreadyExistsError):
        await client.mounts.activate("t", [TMPFS], temporary=True)
    changed = await client.mounts.update(ActivationInfo(name="t", labels={"c": "d"}), "labels.c")
    assert dict(changed.labels) == {"a": "b", "c": "d"}
    assert [one.name async for one in client.mounts.list("labels.c==d")] == ["t"]
    assert [one.name async for one in client.mounts.list("labels.c==x")] == []
    held = os.open(first.mount_point, os.O_RDONLY)
    try:
        with pytest.raises(FailedPreconditionError, match="busy"):
            await client.mounts.deactivate("t")
    finally:
        os.close(held)
    await client.mounts.deactivate("t")
    for call in (client.mounts.deactivate("t"), client.mounts.info("t"), client.mounts.update(info)):
        with pytest.raises(NotFoundError):
            await call


@pytest.mark.root
async def test_overlay_of_mounts(client: Client) -> None:
    """As snapshotters of file systems in files ask for it: the daemon mounts layers, the shim the overlay."""
    overlay = MountMessage(
        type="format/mkdir/overlay",
        source="overlay",
        options=[
            "X-containerd.mkdir.path={{ mount 1 }}/upper:0755",
            "X-containerd.mkdir.path={{ mount 1 }}/work",
            "lowerdir={{ overlay 0 0 }}",
            "upperdir={{ mount 1 }}/upper",
            "workdir={{ mount 1 }}/work",
        ],
    )
    info = await client.mounts.activate("o", [TMPFS, TMPFS, overlay])
    first, second = (one.mount_point for one in info.active)
    (system,) = info.system
    assert (system.type, list(system.options)) == (
        "overlay",
        [f"lowerdir={first}", f"upperdir={second}/upper", f"workdir={second}/work"],
    )
    assert os.stat(f"{second}/upper").st_mode & 0o777 == 0o755
    await client.mounts.deactivate("o")
    named = f"{os.getcwd()}/like a path"  # as ctr names them
    await client.mounts.activate(named, [TMPFS], temporary=True)
    await client.mounts.deactivate(named)


@pytest.mark.root
@pytest.mark.skipif(shutil.which("mkfs.ext4", path="/usr/sbin:/sbin") is None, reason="mkfs.ext4 is not installed")
@pytest.mark.skipif(not os.path.exists("/dev/loop-control"), reason="there are no loop devices")
async def test_a_file_system_is_made(client: Client, shared: Daemon) -> None:
    """As the snapshotter of EROFS asks for it: a file with a file system, and a directory in there."""
    image = f"{shared.root}/made.img"
    uuid = "01234567-89ab-cdef-0123-456789abcdef"
    options = ["X-containerd.mkfs.size=16MiB", f"X-containerd.mkfs.uuid={uuid}", "rw", "loop"]
    mounts = [
        MountMessage(type="mkfs/ext4", source=image, options=options),
        MountMessage(
            type="format/mkdir/bind",
            source="{{ mount 0 }}/upper",
            options=["X-containerd.mkdir.path={{ mount 0 }}/upper:0755", "rw", "rbind"],
        ),
    ]
    info = await client.mounts.activate("f", mounts)
    (active,) = info.active
    assert os.stat(f"{active.mount_point}/upper").st_mode & 0o777 == 0o755
    assert os.statvfs(active.mount_point).f_blocks * os.statvfs(active.mount_point).f_frsize < 16 << 20
    with open(image, "rb") as file:
        file.seek(1024 + 0x68)  # s_uuid of the superblock
        assert file.read(16).hex() == uuid.replace("-", "")
    Path(f"{active.mount_point}/upper/kept").touch()
    await client.mounts.deactivate("f")
    (active,) = (await client.mounts.activate("f", mounts)).active  # what is there stays
    assert os.path.exists(f"{active.mount_point}/upper/kept")
    await client.mounts.deactivate("f")
    os.unlink(image)
    for source, changed, match in (
        (f"{shared.base}/out.img", options, "expected a file below"),
        (f"{shared.root}/../out.img", options, "expected a file below"),
        (image, ["X-containerd.mkfs.fs=vfat", *options], "fs: expected one of ext2"),
        (image, options[1:], "size: expected bytes"),
        (image, ["X-containerd.mkfs.color=red", *options], "color: expected size, fs or uuid"),
        (image, ["X-containerd.mkfs.size=1", "loop"], "mkfs.ext4: "),
    ):
        with pytest.raises((InvalidArgumentError, FailedPreconditionError), match=match):
            await client.mounts.activate("f", [MountMessage(type="mkfs/ext4", source=source, options=changed)])
    assert not [name for name in os.listdir(shared.root) if "img" in name]


@pytest.mark.root
async def test_lease(client: Client, shared: Daemon) -> None:
    await client.leases.create("l")
    await client.with_lease("l").mounts.activate("under", [TMPFS], temporary=True)
    assert len(mounts_below(shared.state)) == 1
    await client.leases.delete("l", sync=True)
    with pytest.raises(NotFoundError):
        await client.mounts.info("under")
    wait_until(lambda: mounts_below(shared.state) == [])
    wait_until(lambda: os.listdir(f"{shared.state}/io.containerd.mount-manager.v1") == [])
    with pytest.raises(NotFoundError, match="lease"):
        await client.with_lease("l").mounts.activate("under", [TMPFS], temporary=True)


@pytest.mark.root
async def test_refusals(client: Client, shared: Daemon) -> None:
    with pytest.raises(NotImplementedByUsError, match="needs the mount manager"):
        await client.mounts.activate("x", [TMPFS])
    bad_mkdir = [TMPFS, MountMessage(type="mkdir/bind", source="/", options=["X-containerd.mkdir.path=/etc/x"])]
    out = [
        TMPFS,
        MountMessage(type="format/mkdir/bind", options=["X-containerd.mkdir.path={{ mount 0 }}/../../x"]),
    ]
    for name, mounts, match in (
        ("x", [MountMessage(type="nonsense", source="x")], "No such device"),
        ("x", [TMPFS, MountMessage(type="bind", source="/none")], "No such file"),
        ("x", bad_mkdir, "in none of the mounts"),
        ("x", out, "cross-device link"),
        ("", [TMPFS], "mount name"),
        ("x", [TMPFS] * 200, "more than 128"),
    ):
        with pytest.raises(InvalidArgumentError, match=match):
            await client.mounts.activate(name, mounts, temporary=mounts not in (bad_mkdir, out))
    assert not os.path.exists(f"{shared.state}/x")


@pytest.mark.root
async def test_links_do_not_lead_out(client: Client, tmp_path: object) -> None:
    """A directory asked for behind a link in a mounted tree is refused: the tree is an image's."""
    os.mkdir(f"{tmp_path}/tree")
    os.symlink(str(tmp_path), f"{tmp_path}/tree/link")
    bind = MountMessage(type="bind", source=f"{tmp_path}/tree", options=["rbind"])
    asked = MountMessage(type="format/mkdir/bind", options=["X-containerd.mkdir.path={{ mount 0 }}/link/made"])
    with pytest.raises(InvalidArgumentError, match="Too many levels of symbolic links"):
        await client.mounts.activate("x", [bind, asked])
    assert os.listdir(str(tmp_path)) == ["tree"]


@pytest.mark.root
async def test_restart() -> None:
    daemon = Daemon("orlop").start()
    async with Client(daemon.address, daemon.namespace) as client:
        kept = await client.mounts.activate("kept", [TMPFS], temporary=True)
        await client.mounts.activate("lost", [TMPFS], temporary=True)
        daemon.kill()
        lost = next(point for point in mounts_below(daemon.state) if point != kept.active[0].mount_point)
        umount2(lost)
        daemon.start()
        assert [info.name async for info in client.mounts.list()] == ["kept"]
        await client.mounts.deactivate("kept")
    assert mounts_below(daemon.state) == []
    daemon.remove()


ACTIVE = [Active(Mount("ext4", "/dev/a", (), "/t"), "/m/0"), Active(Mount("ext4", "/dev/b"), "/m/1")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ source 0 }}", "/dev/a"),
        ("{{target 0}}", "/t"),
        ("a{{ mount 1 }}b", "a/m/1b"),
        ("{{ overlay 0 1 }}", "/m/0:/m/1"),
        ("{{ overlay 1 0 }}", "/m/1:/m/0"),
        ("plain", "plain"),
    ],
)
def test_templates(text: str, expected: str) -> None:
    made, _ = transformed(Mount("format/bind", text, (f"o={text}",)), ACTIVE)
    assert (made.type, made.source, made.options) == ("bind", expected, (f"o={expected}",))


@pytest.mark.parametrize(
    "text", ["{{ mount 2 }}", "{{ nothing 0 }}", "{{ mount }}", "{{ source 0 1 }}", "{{ overlay 0 5 }}"]
)
def test_bad_templates(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="mount template"):
        transformed(Mount("format/bind", text), ACTIVE)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("path=/a", Directory("/a")),
        ("path=/a:755", Directory("/a", 0o755)),
        ("path=/a:700:5:6", Directory("/a", 0o700, 5, 6)),
        ("path=/a:9", None),
        ("path=/a:4755", None),
        ("path=/a:700:5", None),
        ("path=a", None),
        ("size=1", None),
    ],
)
def test_directories(value: str, expected: Directory | None) -> None:
    mount = Mount("mkdir/bind", "/", ("ro", f"X-containerd.mkdir.{value}"))
    if expected is None:
        with pytest.raises(InvalidArgumentError, match=r"X-containerd\.mkdir"):
            transformed(mount, ())
        return
    assert transformed(mount, ()) == (Mount("bind", "/", ("ro",)), [expected])


def test_whose_mounts() -> None:
    plain, formatted = Mount("bind", "/"), Mount("format/bind", "/")
    assert count_ours([plain, plain], temporary=False) is None
    assert count_ours([plain, plain], temporary=True) == 2
    assert count_ours([plain, formatted, plain], temporary=False) == 1
    assert count_ours([formatted], temporary=False) == 0
