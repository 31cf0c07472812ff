# SPDX-License-Identifier: Apache-2.0
"""Reading a root filesystem that is mounted nowhere, and users in it."""

import os
import time
from types import SimpleNamespace

import pytest

from orlop.dockerd import rootfs
from orlop.dockerd.users import Users
from orlop.errdefs import InvalidArgumentError

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.getuid() != 0, reason="needs root")]

PASSWD = """root:x:0:0:root:/root:/bin/sh
# a comment
1000:x:0:0::/:
app:x:500:600::/:
broken:x:abc:1::/:
huge:x:4294967296:0::/:
twice:x:7:7::/:
twice:x:8:8::/:
"""
GROUP = """root:x:0:root
app:x:600:
wheel:x:10:root,app
video:x:44:app
1000:x:0:
"""


@pytest.fixture
def image(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text(PASSWD)
    (tmp_path / "etc" / "group").write_text(GROUP)
    return tmp_path


@pytest.fixture
def root(image):
    fd = os.open(image, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(("user", "expected"), [
    ("", (0, 0, [0, 10])),
    ("root", (0, 0, [0, 10])),
    ("0", (0, 0, [0, 10])),
    ("app", (500, 600, [600, 10, 44])),
    ("500", (500, 600, [600, 10, 44])),
    ("1000", (1000, 0, [0])),
    ("+1000", (1000, 0, [0])),
    ("1000:1000", (1000, 1000, [1000])),
    ("app:video", (500, 44, [44])),
    ("app:7", (500, 7, [7])),
    (":44", (0, 44, [44])),
    ("500:", (500, 600, [600, 10, 44])),
    ("twice", (7, 7, [7])),
])  # fmt: skip
def test_users(root, user, expected):
    found = rootfs.resolve_user(root, user)
    assert (found.uid, found.gid, found.additional_gids) == expected


@pytest.mark.parametrize(("user", "message"), [
    ("nobody", "^unable to find user nobody: no matching entries in passwd file$"),
    (" 1", "unable to find user  1: no matching entries"),
    ("broken", "unable to find user broken"),
    ("app:nope", "^unable to find group nope: no matching entries in group file$"),
    ("2147483648", "uids and gids must be in range 0-2147483647"),
    ("4294967296", "uids and gids must be in range"),
    ("99999999999999999999999", "uids and gids must be in range"),
    ("-1", "uids and gids must be in range"),
    ("0:2147483648", "uids and gids must be in range"),
    ("huge", "uids and gids must be in range"),
])  # fmt: skip
def test_users_that_are_refused(root, user, message):
    with pytest.raises(InvalidArgumentError, match=message):
        rootfs.resolve_user(root, user)


def test_added_groups(root):
    assert rootfs.resolve_user(root, "app", ["video", "9", "wheel"]).additional_gids == [600, 10, 44, 9]
    assert rootfs.resolve_user(root, "1:1", ["1000"]).additional_gids == [1, 1000]
    with pytest.raises(InvalidArgumentError, match="unable to find group nope: no matching entries in group file"):
        rootfs.resolve_user(root, "", ["nope"])


def test_when_the_image_need_not_be_read():
    assert not rootfs.needs_rootfs("5:6", None) and not rootfs.needs_rootfs("5:6", ["7"])
    assert rootfs.needs_rootfs("", None) and rootfs.needs_rootfs("5", None) and rootfs.needs_rootfs("5:6", ["x"])
    assert rootfs.resolve_user(None, "5:6", ["7"]).additional_gids == [6, 7]


def test_an_image_without_users(tmp_path):
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        assert rootfs.resolve_user(fd, "").additional_gids == [0]
        assert rootfs.resolve_user(fd, "7").uid == 7
        with pytest.raises(InvalidArgumentError, match="unable to find user app: no matching entries in passwd"):
            rootfs.resolve_user(fd, "app")
    finally:
        os.close(fd)


def test_databases_that_are_traps(image, root):
    path = image / "etc" / "passwd"
    path.unlink()
    os.mkfifo(path)
    assert rootfs.resolve_user(root, "5").gid == 0
    path.unlink()
    os.symlink("/etc/passwd", path)
    with pytest.raises(InvalidArgumentError, match="unable to find user daemon"):
        rootfs.resolve_user(root, "daemon")  # the host has one
    path.unlink()
    os.symlink("/proc/self/root/etc/passwd", path)
    with pytest.raises(InvalidArgumentError, match="unable to find user daemon"):
        rootfs.resolve_user(root, "daemon")
    path.unlink()
    os.mknod(path, 0o20666, os.makedev(1, 5))
    started = time.monotonic()
    assert rootfs.resolve_user(root, "5").gid == 0
    path.unlink()
    with open(path, "wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(InvalidArgumentError, match="/etc/passwd of the image is larger than 8 MiB"):
        rootfs.resolve_user(root, "app")
    assert time.monotonic() - started < 5


def overlay(tmp_path, count):
    layers = []
    for number in range(count):
        layer = tmp_path / f"layer-with-a-long-name-{number}"
        (layer / "etc").mkdir(parents=True)
        (layer / "etc" / f"file{number}").write_text(str(number))
        layers.append(layer)
    (layers[-1] / "etc" / "passwd").write_text(PASSWD)
    upper = tmp_path / "upper"
    upper.mkdir()
    lower = ":".join(str(layer) for layer in layers)
    options = ["index=off", f"workdir={tmp_path}/work", f"upperdir={upper}", f"lowerdir={lower}"]
    return upper, SimpleNamespace(type="overlay", source="overlay", options=options)


def mounts_of(path):
    with open("/proc/self/mountinfo") as file:
        return [line for line in file if str(path) in line]


@pytest.mark.parametrize("count", [1, 3, 40])
def test_an_overlay_is_read_without_being_mounted(tmp_path, count):
    upper, snapshot = overlay(tmp_path, count)
    (upper / "etc").mkdir()
    (upper / "etc" / "own").write_text("")
    if count > 1:
        os.mknod(upper / "etc" / "file1", 0o20000, 0)  # a whiteout
    with rootfs.opened([snapshot]) as root:
        assert mounts_of(tmp_path) == []
        names = _names(root, "etc")
        assert names == {"passwd", "own", *(f"file{n}" for n in range(count) if n != 1)}
        assert rootfs.resolve_user(root, "app").gid == 600
        with pytest.raises(OSError, match="Read-only"):
            os.mkdir("x", dir_fd=root)
    assert mounts_of(tmp_path) == [] and sorted(os.listdir(upper)) == ["etc"]


def _names(root, path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY, dir_fd=root)
    try:
        return set(os.listdir(fd))
    finally:
        os.close(fd)


def test_a_bind(image):
    os.mknod(image / "null", 0o20666, os.makedev(1, 3))
    with rootfs.opened([SimpleNamespace(type="bind", source=str(image), options=["rbind", "rw"])]) as root:
        assert rootfs.resolve_user(root, "app").uid == 500
        with pytest.raises(PermissionError):
            os.open("null", os.O_RDONLY, dir_fd=root)
        with pytest.raises(OSError, match="Read-only"):
            os.mkdir("x", dir_fd=root)


def test_other_mounts_are_refused():
    other = SimpleNamespace(type="zfs", source="x", options=[])
    with pytest.raises(InvalidArgumentError, match="of type 'zfs' are not supported"), rootfs.opened([other]):
        pass
    with pytest.raises(InvalidArgumentError, match="one mount expected, not 0"), rootfs.opened([]):
        pass


def test_layers_of_an_overlay():
    assert rootfs.overlay_layers(["lowerdir=/a\\:b:/c", "upperdir=/u"]) == ["/u", "/a:b", "/c"]


async def test_users_of_an_image_are_remembered(tmp_path, monkeypatch):
    """Until the container has written something, and not beyond layers that were made anew."""
    users, opened = Users(), []
    original = rootfs.opened
    monkeypatch.setattr(rootfs, "opened", lambda mounts: opened.append(1) or original(mounts))
    upper, snapshot = overlay(tmp_path, 2)

    async def gid(user="app", groups=None):
        return (await users.resolve([snapshot], user, groups)).additional_gids

    first = await gid()
    first.append(7)  # whoever gets it may change it
    assert await gid() == first[:-1] and len(opened) == 1
    assert await gid(groups=["44"]) == [*first[:-1], 44] and len(opened) == 2
    assert (await users.resolve([snapshot], "5:6", None)).gid == 6 and len(opened) == 2
    with pytest.raises(InvalidArgumentError, match="unable to find user nobody-here"):
        await gid("nobody-here")
    layer = tmp_path / "layer-with-a-long-name-1"
    layer.rename(tmp_path / "old")
    (layer / "etc").mkdir(parents=True)
    (layer / "etc" / "passwd").write_text("app:x:500:601::/:\n")
    assert await gid() == [601]
    (upper / "etc").mkdir()
    (upper / "etc" / "passwd").write_text("app:x:500:602::/:\n")
    assert await gid() == [602]
    (upper / "etc" / "passwd").write_text("app:x:500:603::/:\n")
    assert await gid() == [603]
