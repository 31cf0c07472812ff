# SPDX-License-Identifier: Apache-2.0
"""The examples run, and say what they are there to say."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from support.containerd import Daemon
from support.users import UserRuntime

_DIRECTORY = os.path.join(os.path.dirname(__file__), "../../examples")


def _run(name: str, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, f"{_DIRECTORY}/{name}.py", *args], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


_LIFE = """\
after create: created
its output: started
after start: running
found again: ['example']
exec: exit code 3 as process 2
"""
_LIMITS = "after pause: paused\nprocesses: 2 of 32\n"
_END = "after the signal: stopped with exit code 7\nafter delete: []\n"


def _without_numbers(text: str) -> str:
    # Which number the second process gets, and whether init's sleep is counted, is a matter of timing.
    words = {"exec:": 6, "processes:": 1}
    lines = []
    for line in text.splitlines():
        parts = line.split()
        if parts[0] in words:
            parts[words[parts[0]]] = "N"
        lines.append(" ".join(parts))
    return "\n".join(lines)


@pytest.mark.root
def test_the_life_of_a_container(tmp_path) -> None:
    out = _run("life_of_a_container", str(tmp_path / "bundle"))
    assert _without_numbers(out) == _without_numbers(_LIFE + _LIMITS + _END)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.root
def test_the_life_of_an_ordinary_users_container() -> None:
    user = UserRuntime("orlop-runc")
    try:
        command = user.as_user(sys.executable, f"{_DIRECTORY}/life_of_a_container.py", f"{user.root}/bundle")
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert _without_numbers(done.stdout) == _without_numbers(_LIFE + _END), done.stderr
    finally:
        user.close()


def test_a_plan_of_a_root_filesystem(tmp_path) -> None:
    lines = _run("rootfs_plan").splitlines()
    assert lines[0] == "root /bundle/rootfs read-only"
    assert "mount /dev tmpfs tmpfs mode=755,size=65536k" in lines
    assert "mount /sys/fs/cgroup cgroup2 cgroup -" in lines
    assert "node /dev/null crw-rw-rw- 1:3" in lines
    assert "mask /proc/kcore" in lines
    spec = {
        "ociVersion": "1.0.2",
        "root": {"path": "/image"},
        "linux": {},
        "mounts": [{"destination": "/data", "type": "bind", "source": "/srv", "options": ["rbind"]}],
    }
    (tmp_path / "config.json").write_text(json.dumps(spec))
    lines = _run("rootfs_plan", str(tmp_path / "config.json")).splitlines()
    assert lines[:2] == ["root /image writable", "mount /data bind /srv -"]


def test_a_seccomp_program() -> None:
    first, *lines = _run("seccomp_program").splitlines()
    assert first == f"{len(lines)} instructions"
    text = [line.split(maxsplit=1)[1] for line in lines]
    assert text[0] == "ld   architecture"
    assert any(line.startswith("jeq  0xc000003e") for line in text), "x86_64 by its audit number"
    assert {"ret  0x50001", "ret  0x7fff0000"} <= set(text), "EPERM and allow"


def test_writes_to_control_groups(tmp_path) -> None:
    lines = _run("cgroup_writes").splitlines()
    assert "v1 memory memory.limit_in_bytes 67108864" in lines
    assert "v2 memory memory.max 67108864" in lines
    assert "v2 memory memory.swap.max 67108864" in lines, "swap alone, where version 1 has memory and swap"
    assert "v2 cpu cpu.max 50000 100000" in lines
    assert [line for line in lines if "pids.max" in line] == ["v1 pids pids.max 100", "v2 pids pids.max 100"]
    (tmp_path / "resources.json").write_text('{"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]}')
    out = _run("cgroup_writes", str(tmp_path / "resources.json"))
    assert "v2 hugetlb hugetlb.2MB.max 4194304" in out


@pytest.mark.root
@pytest.mark.parametrize("kind", ["orlop", pytest.param("original", marks=pytest.mark.original)])
def test_the_client_of_containerd(kind: str) -> None:
    daemon = Daemon(kind).start()
    try:
        assert _run("containerd_client", daemon.address, daemon.namespace).splitlines() == [
            "images: ['example.com/busybox:1']",
            "tasks: ['example']",
            "exec: exit code 3",
            "event: second exited with code 3",
            "event: example exited with code 7",
            "deleted: exit code 7",
        ]
    finally:
        daemon.remove()
