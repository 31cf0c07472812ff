# SPDX-License-Identifier: Apache-2.0
"""The system call wrappers, against the kernel."""

from __future__ import annotations

import errno
import os
import signal

import pytest

from orlop.unix import fs
from orlop.unix import mount as mnt
from orlop.unix import process as proc

pytestmark = pytest.mark.root


def _mounts() -> dict[str, tuple[str, set[str]]]:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        rows = [line.split(" ") for line in file]
    return {row[4]: (row[row.index("-") + 1], set(row[5].split(","))) for row in rows}


def test_options_are_sorted_and_the_later_wins() -> None:
    options = mnt.parse_options(["rbind", "ro", "rw", "nosuid", "noatime", "rro", "rslave", "size=1m", "defaults"])
    assert (options.bind, options.recursive) == (True, True)
    assert options.attr_set == mnt.MOUNT_ATTR_NOSUID | mnt.MOUNT_ATTR_NOATIME
    assert options.attr_clr == mnt.MOUNT_ATTR_RDONLY | mnt.MOUNT_ATTR_ATIME
    assert options.rec_set == mnt.MOUNT_ATTR_RDONLY
    assert options.propagation == [(mnt.MS_SLAVE, mnt.AT_RECURSIVE)]
    assert options.data == ["size=1m"]


def test_detached_mounts(alone, tmp_path) -> None:
    def body() -> None:
        def attach(fd: int, name: str) -> None:
            os.makedirs(f"{tmp_path}/{name}", exist_ok=True)
            target = os.open(f"{tmp_path}/{name}", os.O_PATH)
            mnt.attach(fd, target)

        attach(mnt.detached_mount("tmpfs", "tmpfs", ["size=1m", "nosuid", "ro"]), "t")
        attach(mnt.detached_mount("bind", "/etc", ["bind", "ro", "nodev"]), "b")
        os.mkdir(f"{tmp_path}/low:er")
        for name in ("lower", "upper", "work"):
            os.mkdir(f"{tmp_path}/{name}")
        with open(f"{tmp_path}/low:er/f", "w", encoding="utf-8") as file:
            file.write("x")
        lower = f"lowerdir={tmp_path}/low\\:er:{tmp_path}/lower"
        attach(
            mnt.detached_mount(
                "overlay", "overlay", [lower, f"upperdir={tmp_path}/upper", f"workdir={tmp_path}/work"]
            ),
            "o",
        )
        table = _mounts()
        assert table[f"{tmp_path}/t"] == ("tmpfs", {"ro", "nosuid", "relatime"})
        assert {"ro", "nodev"} <= table[f"{tmp_path}/b"][1]
        assert os.listdir(f"{tmp_path}/o") == ["f"]
        os.unlink(f"{tmp_path}/o/f")
        assert os.listdir(f"{tmp_path}/o") == []

    alone(body)


def test_long_overlay_layers_are_given_as_descriptors(alone, tmp_path) -> None:
    def body() -> None:
        long = f"{tmp_path}/" + "/".join(["x" * 200] * 2)
        os.makedirs(f"{long}/inside")
        os.mkdir(f"{tmp_path}/other")
        fd = mnt.detached_mount("overlay", "overlay", [f"lowerdir={long}:{tmp_path}/other"])
        assert "inside" in os.listdir(os.open(".", os.O_RDONLY, dir_fd=fd))

    alone(body)


def test_a_filesystem_says_what_it_does_not_like() -> None:
    with pytest.raises(OSError, match="Unknown parameter 'frob'") as caught:
        mnt.detached_mount("tmpfs", "tmpfs", ["frob=1"])
    assert caught.value.errno == errno.EINVAL


def test_openat2_stays_in_the_root(tmp_path) -> None:
    os.symlink("/etc/passwd", tmp_path / "link")
    root = os.open(tmp_path, os.O_PATH)
    try:
        for path in ("link", "../../../etc/passwd", "/etc/passwd"):
            with pytest.raises(FileNotFoundError):
                fs.openat2(root, path, os.O_RDONLY, fs.RESOLVE_IN_ROOT)
        with pytest.raises(OSError, match="Too many levels"):
            fs.openat2(root, "link", os.O_RDONLY, fs.RESOLVE_NO_SYMLINKS)
    finally:
        os.close(root)


def test_filesystem_types() -> None:
    for path, magic in (("/proc", fs.PROC_SUPER_MAGIC), ("/sys", fs.SYSFS_MAGIC)):
        fd = os.open(path, os.O_PATH)
        assert fs.filesystem_type(fd) == magic
        os.close(fd)


def test_clone3_makes_namespaces_and_a_pidfd() -> None:
    pid, pidfd = proc.clone3(proc.CLONE_NEWPID | proc.CLONE_NEWUTS)
    if pid == 0:
        proc.sethostname("inside")
        os._exit(17 if os.getpid() == 1 and os.uname().nodename == "inside" else 1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 17
    with pytest.raises(ProcessLookupError):
        proc.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)
    assert os.uname().nodename != "inside"


def test_clone3_reports_its_error() -> None:
    with pytest.raises(OSError, match="Invalid argument") as caught:
        proc.clone3(proc.CLONE_NEWNS | 0x00000200)  # with CLONE_FS, which contradicts it
    assert caught.value.filename == "clone3"


def test_capabilities(alone) -> None:
    def body() -> None:
        effective, permitted, inheritable = proc.capget()
        assert effective & 1
        proc.capset(effective & ~1, permitted, 1)
        assert proc.capget() == (effective & ~1, permitted, 1)
        with pytest.raises(PermissionError):
            os.chown("/proc/self", 1, 1)
        del inheritable

    alone(body)


def test_limits() -> None:
    soft, hard = proc.get_rlimit(0, 4)
    proc.prlimit(0, 4, 0, hard)
    assert proc.get_rlimit(0, 4) == (0, hard)
    proc.prlimit(0, 4, min(soft, hard), hard)


def test_reset_signals(alone) -> None:
    def body() -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
        proc.reset_signals()
        with open("/proc/thread-self/status", encoding="utf-8") as file:
            status = dict(line.split(":", 1) for line in file)
        # Handlers of others than Python (faulthandler's) end with the exec by themselves.
        assert [int(status[name], 16) for name in ("SigBlk", "SigIgn")] == [0, 0]

    alone(body, proc.CLONE_NEWUTS)


def test_close_range_and_names(alone) -> None:
    def body() -> None:
        first = os.dup(0)
        os.set_inheritable(first, True)
        proc.close_range(first, flags=proc.CLOSE_RANGE_CLOEXEC)
        assert not os.get_inheritable(first)
        proc.close_range(first)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(first)
        proc.setdomainname("sea")
        proc.setgroups([3, 4])
        assert sorted(os.getgroups()) == [3, 4]
        key = proc.keyctl_join_session_keyring("orlop-test")
        assert proc.keyctl_describe(key).endswith(";orlop-test")

    alone(body)
