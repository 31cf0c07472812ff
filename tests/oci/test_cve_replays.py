# SPDX-License-Identifier: Apache-2.0
"""Known attacks on runtimes, replayed: races on shared directories, kernel files, user databases, odd users."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.bundles import Bundle, Runtime, eventually

pytestmark = pytest.mark.root

_SWAP = """
import os, sys
directory, name, target = sys.argv[1:]
os.chdir(directory)
while True:
    try:
        os.symlink(target, "x")
        os.rename("x", name)
        os.unlink(name)
        if name == "null":
            os.mknod(name, 0o20666, os.makedev(1, 3))
        else:
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
    except OSError:
        pass
"""


@contextmanager
def _swapping(directory: str, name: str, target: str) -> Iterator[None]:
    """Another container's process on a shared volume: a file becomes a link and a file again, without end."""
    racer = subprocess.Popen([sys.executable, "-c", _SWAP, directory, name, target])
    try:
        yield
    finally:
        racer.kill()
        racer.wait()


def _shared_dev(bundle: Bundle) -> str:
    """/dev of the container on a directory that somebody else writes to as well."""
    bundle.spec["mounts"] = [m for m in bundle.spec["mounts"] if not m["destination"].startswith("/dev")]
    return f"{bundle.rootfs}/dev"


def test_the_console_is_swapped_for_a_link(ours: Runtime, bundle: Bundle, tmp_path) -> None:
    """CVE-2025-52565: the terminal lands on the console that was proven, or the creation fails."""
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    bundle.process["terminal"] = True
    directory = _shared_dev(bundle)
    bundle.mount("/dev/pts", "devpts", "devpts", "newinstance", "ptmxmode=0666")
    os.mkdir(f"{directory}/pts")
    bundle.args("test -t 0 && echo terminal")
    with _swapping(directory, "console", str(outside)):
        results = [ours.run(bundle) for _ in range(12)]
    for result in results:
        if result.status == 0:
            assert "terminal" in result.out
        else:
            assert "console" in result.message
    assert outside.read_text() == "untouched"
    assert str(outside) not in _mounts()


def test_the_null_device_is_swapped_for_a_link(ours: Runtime, bundle: Bundle) -> None:
    """CVE-2025-31133, as a race: what masks a path is the null device, or the creation fails."""
    directory = _shared_dev(bundle)
    bundle.linux["maskedPaths"] = ["/etc/passwd", "/proc/timer_list"]
    bundle.args("cat /etc/passwd; echo open > /proc/sys/kernel/core_pattern && echo written; true")
    before = _core_pattern()
    with _swapping(directory, "null", "/proc/sys/kernel/core_pattern"):
        results = [ours.run(bundle) for _ in range(20)]
    for result in results:
        if result.status == 0:
            assert result.out == ""
        else:
            assert "null" in result.message or "can't mask paths" in result.message
    assert _core_pattern() == before


def _mounts() -> str:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return file.read()


def _core_pattern() -> str:
    with open("/proc/sys/kernel/core_pattern", encoding="utf-8") as file:
        return file.read()


_KERNEL_FILES = (
    "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sysrq-trigger",
    "/sys/kernel/uevent_helper", "/proc/sys/fs/binfmt_misc/register", "/sys/fs/cgroup/memory/release_agent",
    "/sys/fs/cgroup/memory/notify_on_release",
)  # fmt: skip


def test_files_that_run_programs_of_the_host_are_not_writable(runtime: Runtime, bundle: Bundle) -> None:
    """The class of core_pattern, sysrq-trigger, uevent_helper, release_agent."""
    bundle.process["capabilities"] = {}
    lines = [f"if (echo x > {path}) 2>/dev/null; then echo {path}; fi" for path in _KERNEL_FILES]
    assert runtime.run(bundle.args("; ".join([*lines, "true"]))).ok() == ""


def test_release_agent_by_way_of_a_user_namespace(runtime: Runtime, bundle: Bundle) -> None:
    """CVE-2022-0492: a user namespace of one's own gives no way to the agent."""
    script = (
        "busybox unshare -U -r -m -C sh -c '"
        "mkdir -p /tmp/c && mount -t cgroup -o memory cgroup /tmp/c && echo /x > /tmp/c/release_agent"
        "' 2>/dev/null && echo set; true"
    )
    before = _release_agents()
    assert "set" not in runtime.run(bundle.args(script)).ok()
    assert _release_agents() == before


def _release_agents() -> list[str]:
    found = []
    for name in sorted(os.listdir("/sys/fs/cgroup")):
        path = f"/sys/fs/cgroup/{name}/release_agent"
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                found.append(file.read())
    return found


@pytest.mark.parametrize("kind", ["huge", "one line", "fifo", "device", "directory", "link to fifo"])
def test_a_user_database_costs_neither_memory_nor_time(ours: Runtime, bundle: Bundle, kind: str) -> None:
    """CVE-2026-47262: /etc/passwd without end, or that never answers."""
    path = f"{bundle.rootfs}/etc/passwd"
    os.unlink(path)
    if kind in ("huge", "one line"):
        with open(path, "wb") as file:
            file.write(b"x:x:0:0::/x:/bin/sh\n" if kind == "huge" else b"x")
            file.truncate(4 << 30)  # sparse
    elif kind == "device":
        os.mknod(path, 0o20666, os.makedev(1, 5))
    elif kind == "directory":
        os.mkdir(path)
    else:
        os.mkfifo(f"{path}.fifo" if kind == "link to fifo" else path)
        if kind == "link to fifo":
            os.symlink("passwd.fifo", path)
    bundle.process["rlimits"] = [{"type": "RLIMIT_AS", "hard": 1 << 30, "soft": 1 << 30}]
    bundle.linux["resources"]["memory"] = {"limit": 64 << 20}
    started = time.monotonic()
    out = ours.run(bundle.args("echo $HOME")).ok()
    assert time.monotonic() - started < 5
    assert out.strip() in ("/", "/x")


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("1", "1 0"), ("1:", "1 0"), ("1:2", "1 2"), ("01", "1 0"), ("4294967294", "4294967294 0"),
        ("+1", None), (" 1", None), ("1 ", None), ("-1", None), ("4294967295", None), ("4294967296", None),
        ("99999999999999999999", None), ("1:x", None),
        ("1:2:3", None), ("jo", None), ("0x1", None), ("\uff11", None), ("\u00b2", None),
    ],
)  # fmt: skip
def test_exec_runs_as_exactly_that_user_or_not_at_all(
    ours: Runtime, bundle: Bundle, user: str, expected: str | None
) -> None:
    """CVE-2026-30892, CVE-2024-40635, CVE-2026-46680: odd forms of a user are not root."""
    container = ours.start(bundle.args("sleep", "100"))
    result = ours("exec", "--user", user, container, "sh", "-c", "echo $(id -u) $(id -g)")
    if expected is None:
        assert result.status == 255
        assert result.out == ""
        assert "uid" in result.message or "gid" in result.message
    else:
        assert result.ok().strip() == expected


def test_a_user_who_is_not_root_has_no_capabilities(runtime: Runtime, bundle: Bundle) -> None:
    """CVE-2016-8867."""
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    out = runtime.run(bundle.args("grep -E 'Cap(Inh|Prm|Eff|Amb)' /proc/self/status")).ok()
    assert {line.split()[1] for line in out.splitlines()} == {"0000000000000000"}


def test_a_user_namespace_stays_in_its_control_group(runtime: Runtime, bundle: Bundle) -> None:
    """CVE-2025-47291."""
    bundle.linux["namespaces"].append({"type": "user"})
    for kind in ("uidMappings", "gidMappings"):
        bundle.linux[kind] = [{"containerID": 0, "hostID": 0, "size": 65536}]
    container = runtime.start(bundle.args("sleep", "100"))
    pid = runtime.state(container)["pid"]
    with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
        groups = [line.rstrip("\n").split(":", 2) for line in file]
    assert [path for _, names, path in groups if names and not path.endswith(f"/orlop-oci/{container}")] == []


def test_the_program_that_runs_is_not_the_runtimes_file(ours: Runtime, bundle: Bundle) -> None:
    """CVE-2019-5736: a process of the container tries to write what its init is, while it is made and after."""
    container = ours.create(bundle.args("sleep", "100"))
    pid = ours.state(container)["pid"]
    # Until its exec init is the interpreter, non-dumpable: only privilege over the host's user namespace opens it.
    script = f"try:\n open('/proc/{pid}/exe', 'rb')\nexcept PermissionError:\n print('refused')"
    done = subprocess.run(
        ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", sys.executable, "-c", script],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.stdout == "refused\n", done.stderr
    ours("start", container).ok()
    eventually(lambda: "busybox" in os.readlink(f"/proc/{pid}/exe"), "the program does not run")


def test_masked_paths_of_the_default_spec(runtime: Runtime, bundle: Bundle) -> None:
    """CVE-2015-3630: what tells of the host's work is covered."""
    bundle.args(
        "for p in /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug; do "
        "if test -e $p; then cat $p 2>/dev/null | wc -c; fi; done; "
        "for p in /sys/firmware /proc/scsi; do if test -e $p; then ls $p | wc -l; fi; done"
    )
    assert set(runtime.run(bundle).ok().split()) == {"0"}
