# SPDX-License-Identifier: Apache-2.0
"""Attacks on container runtimes replayed: each test is named after what it keeps from happening again."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading

import pytest
from support.bundles import COMMANDS, Bundle, Runtime, eventually

pytestmark = pytest.mark.root


def _interpreter_digest() -> str:
    with open(os.path.realpath(sys.executable), "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


@pytest.mark.parametrize("where", ["proc", "sys"])
def test_proc_and_sys_go_on_ordinary_directories(ours: Runtime, bundle: Bundle, where: str) -> None:
    """CVE-2019-19921, CVE-2023-27561, CVE-2023-28642: /proc or /sys of an image is a link."""
    os.rmdir(f"{bundle.rootfs}/{where}")
    os.mkdir(f"{bundle.rootfs}/elsewhere")
    os.symlink("elsewhere", f"{bundle.rootfs}/{where}")
    result = ours.run(bundle.args("true", ""))
    assert result.status == 1
    assert "must be mounted on ordinary directory" in result.message


def test_nothing_is_mounted_over_proc_by_way_of_a_link(ours: Runtime, bundle: Bundle, tmp_path) -> None:
    """CVE-2019-16884: an image's volume lands on /proc/self/attr."""
    os.symlink("/proc/self/attr", f"{bundle.rootfs}/volume")
    bundle.mount("/volume", "bind", str(tmp_path), "bind")
    result = ours.run(bundle.args("true", ""))
    assert result.status == 1
    assert "cannot be mounted because it is inside /proc" in result.message


def test_a_dev_that_is_a_link_stays_inside(ours: Runtime, bundle: Bundle, tmp_path) -> None:
    """CVE-2026-41579: /dev of an image is an absolute link to a directory of the host."""
    outside = tmp_path / "outside"
    outside.mkdir()
    os.rmdir(f"{bundle.rootfs}/dev")
    os.symlink(str(outside), f"{bundle.rootfs}/dev")
    bundle.spec["mounts"] = [m for m in bundle.spec["mounts"] if not m["destination"].startswith("/dev")]
    ours.run(bundle.args("true", ""))
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("target", ["/proc/sys/kernel/core_pattern", "/etc/passwd"])
def test_masks_are_the_real_null_device(ours: Runtime, bundle: Bundle, target: str) -> None:
    """CVE-2025-31133: /dev/null of an image is a link, and masking binds what it points to."""
    bundle.spec["mounts"] = [m for m in bundle.spec["mounts"] if not m["destination"].startswith("/dev")]
    os.symlink(target, f"{bundle.rootfs}/dev/null")
    result = ours.run(bundle.args("true", ""))
    assert result.status == 1
    assert "container's /dev/null is invalid" in result.message


def test_a_console_that_is_a_link_is_refused(ours: Runtime, bundle: Bundle) -> None:
    """CVE-2025-52565."""
    bundle.process["terminal"] = True
    bundle.spec["mounts"] = [
        m for m in bundle.spec["mounts"] if not m["destination"].startswith("/dev") or m["type"] == "devpts"
    ]
    os.symlink("/proc/sys/kernel/core_pattern", f"{bundle.rootfs}/dev/console")
    result = ours.run(bundle.args("true", ""))
    assert result.status == 1
    assert "/dev/console of the container is a symbolic link" in result.message


def test_no_directory_of_the_host_is_reachable_through_descriptors(runtime: Runtime, bundle: Bundle) -> None:
    """CVE-2024-21626: cwd=/proc/self/fd/N."""
    for number in range(3, 16):
        bundle.process["cwd"] = f"/proc/self/fd/{number}"
        result = runtime.run(bundle.args("readlink", "/proc/self/cwd"))
        assert result.status != 0, result.out


def test_exec_with_a_leaked_working_directory(runtime: Runtime, bundle: Bundle) -> None:
    """CVE-2024-21626, by exec --cwd."""
    container = runtime.start(bundle.args("sleep", "100"))
    for number in range(3, 16):
        assert runtime("exec", "--cwd", f"/proc/self/fd/{number}", container, "true").status != 0


def test_init_shows_nothing_of_the_host(ours: Runtime, bundle: Bundle) -> None:
    """CVE-2016-9962: what a process that shares the PID namespace sees of one that is entering."""
    first = ours.start(bundle.args("sleep", "100"))
    pid = ours.state(first)["pid"]
    waiting = ours.bundle().args("sleep", "200")
    for namespace in waiting.linux["namespaces"]:
        if namespace["type"] == "pid":
            namespace["path"] = f"/proc/{pid}/ns/pid"
    created = ours.create(waiting)
    script = """
    for p in /proc/[0-9]*; do
        test "$(readlink $p/ns/mnt)" = "$(readlink /proc/1/ns/mnt)" && continue
        ls $p/fd; readlink $p/exe; ls $p/root; cat $p/environ
    done 2>&1
    """
    out = ours("exec", first, "sh", "-c", script).out
    assert created
    assert "Permission denied" in out
    assert "python" not in out


def test_the_interpreter_is_not_open_to_the_container(ours: Runtime, bundle: Bundle) -> None:
    """CVE-2019-5736: the entrypoint is a script whose interpreter is /proc/self/exe."""
    before = _interpreter_digest()
    with open(f"{bundle.rootfs}/bin/trick", "w", encoding="utf-8") as file:
        file.write("#!/proc/self/exe\n")
    os.chmod(f"{bundle.rootfs}/bin/trick", 0o755)
    container = ours.start(bundle.args("sleep", "100"))
    script = (
        "for i in 1 2 3 4 5 6 7 8; do for p in /proc/[0-9]*; do echo x >> $p/exe; done; done 2>/dev/null; true"
    )
    writer = threading.Thread(target=lambda: ours("exec", container, "sh", "-c", script))
    writer.start()
    for _ in range(3):
        result = ours("exec", container, "/bin/trick")
        assert result.status == 126, "what ran until then is the trampoline, which refuses"
    writer.join()
    assert _interpreter_digest() == before


def test_supplementary_groups_are_the_specs_only(runtime: Runtime, bundle: Bundle) -> None:
    """no group of the caller's is inherited."""
    bundle.process["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [1234]}
    done_before = os.getgroups()
    os.setgroups([4321])
    try:
        out = runtime.run(bundle.args("grep", "^Groups:", "/proc/self/status")).ok()
    finally:
        os.setgroups(done_before)
    assert "4321" not in out
    assert "1234" in out


def test_a_huge_property_is_refused_or_kept_whole(ours: Runtime, bundle: Bundle) -> None:
    """CVE-2021-43784: a field longer than 64 KiB."""
    bundle.linux["namespaces"][0]["path"] = "/" + "x" * 70_000
    assert ours.run(bundle.args("true", "")).status == 1
    del bundle.linux["namespaces"][0]["path"]
    bundle.process["env"].append("BIG=" + "y" * 100_000)
    assert ours.run(bundle.args("echo ${#BIG}")).ok() == "100000\n"


def test_a_mount_point_that_is_swapped_never_leads_outside(ours: Runtime, bundle: Bundle, tmp_path) -> None:
    """CVE-2021-30465, CVE-2024-45310: a directory on a shared volume is exchanged for a link, over and over."""
    outside = tmp_path / "outside"
    outside.mkdir()
    volume = tmp_path / "volume"
    volume.mkdir()
    os.mkdir(volume / "dir")
    os.symlink(str(outside), volume / "link")
    swapper = (
        "import ctypes,os,sys; libc=ctypes.CDLL(None); a,b=(os.fsencode(p) for p in sys.argv[1:])\n"
        "while True: libc.renameat2(-100,a,-100,b,2)"
    )
    process = subprocess.Popen([sys.executable, "-c", swapper, str(volume / "dir"), str(volume / "link")])
    try:
        bundle.mount("/volume", "bind", str(volume), "bind")
        bundle.mount("/volume/dir/deep/er", "tmpfs", "tmpfs", "mode=777")
        bundle.args("touch /volume/dir/deep/er/x; true")
        for _ in range(15):
            ours.run(bundle)
            assert list(outside.iterdir()) == []
    finally:
        process.kill()
        process.wait()


def test_a_shared_proc_is_not_swapped(ours: Runtime, bundle: Bundle, tmp_path) -> None:
    """CVE-2025-52881: sysctls are written to a procfs of the runtime's own, whatever covers /proc/sys."""
    (tmp_path / "sys" / "net" / "ipv4").mkdir(parents=True)
    decoy = tmp_path / "sys" / "net" / "ipv4" / "ip_forward"
    decoy.write_text("decoy")
    script = f"""mount --bind {tmp_path}/sys /proc/sys
    exec {COMMANDS["orlop-runc"]} --root {ours.root} run -b {bundle.path} "$1" """
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1"}
    bundle.args("cat", "/proc/sys/net/ipv4/ip_forward")
    container = ours.new_id(bundle)
    bundle.write()
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", script, "sh", container], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("1\n", 0), done.stderr
    assert decoy.read_text() == "decoy"


def test_a_container_cannot_write_its_control_groups(runtime: Runtime, bundle: Bundle) -> None:
    """CVE-2023-25809."""
    script = "for f in /sys/fs/cgroup/*/cgroup.procs; do { echo 1 > $f; } 2>&1; done; mkdir /sys/fs/cgroup/pids/x"
    result = runtime.run(bundle.args(script))
    assert result.status != 0
    assert "Read-only file system" in result.out + result.err
    assert not os.path.exists(f"/sys/fs/cgroup/pids/orlop-oci/{runtime.ids[-1]}/x")


def test_state_is_not_readable_by_others(ours: Runtime, bundle: Bundle) -> None:
    container = ours.start(bundle.args("sleep", "100"))
    assert os.stat(ours.root).st_mode & 0o077 == 0
    assert os.stat(f"{ours.root}/{container}/state.json").st_mode & 0o077 == 0


def test_a_reused_pid_is_not_the_container(ours: Runtime, bundle: Bundle) -> None:
    """What is in state.json by number only must not be killed by number only."""
    container = ours.start(bundle.args("sleep", "100"))
    path = f"{ours.root}/{container}/state.json"
    with open(path, encoding="utf-8") as file:
        record = json.load(file)
    ours("kill", container, "KILL").ok()
    ours.await_status(container, "stopped")
    innocent = subprocess.Popen(["sleep", "100"])
    try:
        record["initPid"] = innocent.pid
        with open(path, "w", encoding="utf-8") as file:
            json.dump(record, file)
        assert ours.state(container)["status"] == "stopped"
        ours("kill", container, "KILL")
        ours("delete", "--force", container).ok()
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


def test_a_killed_runtime_leaves_what_delete_removes(ours: Runtime, bundle: Bundle) -> None:
    """SIGKILL in the middle of a creation."""
    hook = f"{bundle.path}/hook"
    with open(hook, "w", encoding="utf-8") as file:
        file.write(f"#!/bin/sh\ntouch {bundle.path}/up\nexec sleep 100\n")
    os.chmod(hook, 0o755)
    bundle.spec["hooks"] = {"createRuntime": [{"path": hook, "env": ["PATH=/bin:/usr/bin"]}]}
    container = ours.new_id(bundle.args("sleep", "100"))
    bundle.write()
    process = subprocess.Popen(
        [COMMANDS["orlop-runc"], "--root", ours.root, "create", "-b", bundle.path, container],
        process_group=0,
    )
    eventually(lambda: os.path.exists(f"{bundle.path}/up"), "the hook does not run")
    os.killpg(process.pid, 9)
    process.wait()
    assert ours.state(container)["status"] in ("creating", "stopped")
    ours("delete", "--force", container).ok()
    assert ours("state", container).status == 1
