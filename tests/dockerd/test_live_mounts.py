# SPDX-License-Identifier: Apache-2.0
"""Mounts that come to a container and go while it runs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import containerd

if TYPE_CHECKING:
    from support.stack import Stack

pytestmark = pytest.mark.root
ORLOP = str(Path(sys.executable).with_name("orlop"))


def update(stack: Stack, *flags: str) -> containerd.Result:
    return containerd.run([ORLOP, "update", *flags, "box"], env=stack.environment())


def inspect(stack: Stack) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(stack.docker("inspect", "box").ok())[0]
    return found


def in_box(stack: Stack, script: str) -> str:
    return stack.docker("exec", "box", "sh", "-c", script).ok().strip()


def start(stack: Stack, *options: str) -> None:
    stack.docker("run", "-d", "--name", "box", *options, "busybox", "sleep", "1000").ok()


def mounts_inside(stack: Stack) -> set[str]:
    return set(in_box(stack, "cut -d' ' -f5 /proc/self/mountinfo").split())


def test_a_bind_comes_and_goes(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host")
    start(stack)
    before = mounts_inside(stack)
    update(stack, "--mount-add", f"type=bind,src={tmp_path},dst=/new/deep").ok()
    assert in_box(stack, "cat /new/deep/file; echo inside > /new/deep/made") == "from the host"
    assert (tmp_path / "made").read_text() == "inside\n"
    shown = inspect(stack)
    assert [(m["Type"], m["Source"], m["Destination"], m["RW"]) for m in shown["Mounts"]] == [
        ("bind", str(tmp_path), "/new/deep", True)
    ]
    assert shown["HostConfig"]["Mounts"][0]["Target"] == "/new/deep"
    stack.docker("restart", "-t", "0", "box").ok()
    assert in_box(stack, "cat /new/deep/file") == "from the host"
    update(stack, "--mount-rm", "/new/deep").ok()
    assert in_box(stack, "ls /new/deep") == ""
    assert mounts_inside(stack) == before
    assert inspect(stack)["Mounts"] == []


def test_read_only_volumes_and_files(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("1")
    start(stack)
    update(
        stack,
        "--mount-add", "type=volume,src=data,dst=/data",
        "--mount-add", f"type=bind,src={tmp_path}/one,dst=/etc/one,readonly",
    ).ok()  # fmt: skip
    in_box(stack, "echo kept > /data/x")
    assert in_box(stack, "cat /etc/one") == "1"
    assert stack.docker("exec", "box", "sh", "-c", "echo 2 > /etc/one").status != 0
    assert stack.docker("volume", "rm", "data").status != 0
    update(stack, "--mount-rm", "/data", "--mount-rm", "/etc/one").ok()
    stack.docker("volume", "rm", "data").ok()


def test_mounts_of_a_stopped_container(stack: Stack, tmp_path: Path) -> None:
    stack.docker("create", "--name", "box", "-v", f"{tmp_path}:/gone", "busybox", "ls", "/gone", "/come").ok()
    (tmp_path / "seen").touch()
    update(stack, "--mount-rm", "/gone", "--mount-add", f"type=bind,src={tmp_path},dst=/come").ok()
    started = stack.docker("start", "-a", "box")
    assert "seen" in started.out
    assert "/gone" in started.err
    assert inspect(stack)["HostConfig"]["Binds"] in ([], None)


@pytest.mark.parametrize(("flags", "message"), [
    (("--mount-add", "type=bind,src=/nothing/here,dst=/x"), "bind source path does not exist: /nothing/here"),
    (("--mount-add", "type=bind,src=/tmp,dst=/taken"), "Duplicate mount point: /taken"),
    (("--mount-add", "type=tmpfs,dst=/x"), "mount /x: type tmpfs: expected bind or volume"),
    (("--mount-add", "type=bind,src=/tmp,dst=/x,uid=5"), "/x: uid and gid: only `create` and `run` take them"),
    (("--mount-add", "type=bind,src=/tmp,dst=/etc/passwd/x"), "at /etc/passwd/x: not a directory"),
    (("--mount-rm", "/nowhere"), "has no mount at /nowhere"),
])  # fmt: skip
def test_what_is_refused_leaves_nothing(
    stack: Stack, tmp_path: Path, flags: tuple[str, ...], message: str
) -> None:
    start(stack, "-v", f"{tmp_path}:/taken")
    before, shown = mounts_inside(stack), inspect(stack)["Mounts"]
    refused = update(stack, "--mount-add", "type=volume,src=other,dst=/other", *flags)
    assert refused.status == 1
    assert message in refused.err
    assert "\n" not in refused.err.strip()
    after = mounts_inside(stack)
    assert after - {"/other"} == before
    if "--mount-add" in flags:
        assert after == before
        assert inspect(stack)["Mounts"] == shown


def test_a_link_in_the_container_leads_nowhere_else(stack: Stack, tmp_path: Path) -> None:
    start(stack)
    in_box(stack, "ln -s ../../../../../../../run /way; ln -s /proc/1/root/etc /magic")
    update(stack, "--mount-add", f"type=bind,src={tmp_path},dst=/way/x").ok()
    refused = update(stack, "--mount-add", f"type=bind,src={tmp_path},dst=/magic/x")
    assert refused.status == 1
    assert "/run/x" in mounts_inside(stack)
    assert not any(line.split()[4] == "/run/x" for line in Path("/proc/self/mountinfo").read_text().splitlines())
    assert not os.path.exists("/run/x")
    assert os.listdir(tmp_path) == []
    update(stack, "--mount-rm", "/way/x").ok()
    assert "/run/x" not in mounts_inside(stack)


def test_docker_s_own_command_still_updates(stack: Stack) -> None:
    start(stack)
    stack.docker("update", "--memory", "64m", "--memory-swap", "64m", "box").ok()
    assert inspect(stack)["HostConfig"]["Memory"] == 64 << 20
    assert containerd.run([ORLOP, "update", "--help"]).ok().count("mount-") == 2
