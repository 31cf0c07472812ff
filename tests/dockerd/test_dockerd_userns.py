# SPDX-License-Identifier: Apache-2.0
"""`userns-remap`: containers' root is nobody on the host, and what was possible against that before."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.stack import DOCKER, Stack

from orlop.dockerd import userns
from orlop.errdefs import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root
FIRST, COUNT = 230000, 65536
PROGRAM = """
import pathlib, sys
from orlop.dockerd import main, userns
userns._SUBUID = userns._SUBGID = pathlib.Path({ids!r})
sys.exit(main.main())
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A daemon that maps to ids of nobody, out of a database of ids that is the test's own."""
    ids = tmp_path_factory.mktemp("ids") / "ids"
    ids.write_text(f"nobody:{FIRST}:{COUNT}\nnogroup:{FIRST}:{COUNT}\n")
    program = ["-c", PROGRAM.format(ids=str(ids))]
    with Stack(flags=["--userns-remap", "nobody:nogroup"], program=program) as running:
        os.chmod(running.base, 0o711)  # where containers are has to be reached by their root
        running.load("busybox")
        yield running


def as_user(uid: int, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as somebody of the host."""
    return subprocess.run(
        command, user=uid, group=uid, extra_groups=[], capture_output=True, text=True, check=False, cwd="/"
    )


def members(archive: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return opened.getmembers()


def test_root_is_nobody_on_the_host(stack: Stack) -> None:
    script = "id -u; cat /proc/self/uid_map; touch /etc/new; stat -c %u /bin /etc /etc/new /etc/hosts; "
    script += "echo out > /dev/stdout"
    lines = stack.docker("run", "--rm", "busybox", "sh", "-c", script).ok().split("\n")
    assert lines[0] == "0"
    assert lines[1].split() == ["0", str(FIRST), str(COUNT)]
    assert lines[2:7] == ["0", "0", "0", "0", "out"]
    stack.docker("run", "-d", "--name", "seen", "busybox", "sleep", "60").ok()
    pid = stack.docker("inspect", "-f", "{{.State.Pid}}", "seen").ok().strip()
    assert f"Uid:\t{FIRST}\t" in Path(f"/proc/{pid}/status").read_text()
    assert stack.docker("exec", "-u", "1000", "seen", "id", "-u").ok() == "1000\n"
    stack.docker("restart", "-t", "0", "seen").ok()
    shared = stack.docker("run", "--rm", "--pid", "container:seen", "busybox", "ps")
    assert "sleep 60" in shared.ok()
    assert "name=userns" in stack.docker("info", "-f", "{{.SecurityOptions}}").ok()
    root = stack.docker("info", "-f", "{{.DockerRootDir}}").ok().strip()
    assert root == f"{stack.data_root}/{FIRST}.{FIRST}"
    stack.docker("rm", "-f", "seen").ok()


def test_without_and_against(stack: Stack) -> None:
    own = stack.docker("run", "--rm", "--userns", "host", "busybox", "cat", "/proc/self/uid_map")
    assert own.ok().split() == ["0", "0", "4294967295"]
    for flags, words in (
        (["--privileged"], "privileged mode is incompatible with user namespaces"),
        (["--network", "host"], "cannot share the host's network namespace when user namespaces are enabled"),
        (["--pid", "host"], "cannot share the host PID namespace when user namespaces are enabled"),
    ):
        assert words in stack.docker("run", "--rm", *flags, "busybox", "true").err
    stack.docker("run", "--rm", "--privileged", "--userns", "host", "busybox", "true").ok()
    assert stack.docker("ps", "-aq").out == ""


def test_volumes_and_copies_have_the_containers_ids(stack: Stack) -> None:
    script = "echo x > /v/f; sleep 60"
    stack.docker("run", "-d", "--name", "files", "-v", "vol:/v", "busybox", "sh", "-c", script).ok()
    data = Path(stack.docker("volume", "inspect", "-f", "{{.Mountpoint}}", "vol").ok().strip())
    assert (data.stat().st_uid, data.stat().st_gid) == (FIRST, FIRST)
    stack.docker("exec", "files", "sh", "-c", "echo y > /own; chown 5:6 /own").ok()
    command = [DOCKER, "cp", "files:/own", "-"]
    raw = subprocess.run(command, env=stack.environment(), capture_output=True, check=True).stdout
    (member,) = members(raw)
    assert (member.uid, member.gid) == (5, 6)
    Path(stack.base, "in").write_text("in")
    stack.docker("cp", f"{stack.base}/in", "files:/in").ok()
    assert stack.docker("exec", "files", "stat", "-c", "%u:%g", "/in").ok() == "0:0\n"
    assert "is in a user namespace" in stack.docker("commit", "files").err
    stack.docker("kill", "files").ok()
    assert "files can be copied into it while it runs" in stack.docker("cp", f"{stack.base}/in", "files:/in").err
    command = [DOCKER, "export", "files"]
    exported = subprocess.run(command, env=stack.environment(), capture_output=True, check=True)
    owners = {member.name: member.uid for member in members(exported.stdout)}
    assert (owners["own"], owners["in"], owners["bin/busybox"]) == (5, 0, 0)
    stack.docker("rm", "-f", "files").ok()
    stack.docker("volume", "rm", "vol").ok()


def test_the_data_root_is_not_the_containers(stack: Stack) -> None:
    """CVE-2021-21284: the containers' root could change, and CVE-2021-41091: anybody enter, the data root."""
    root = f"{stack.data_root}/{FIRST}.{FIRST}"
    stack.docker("run", "-d", "--name", "here", "busybox", "sleep", "60").ok()
    for directory in (stack.data_root, root, f"{root}/containers", f"{root}/volumes"):
        status = os.stat(directory)
        assert status.st_uid == 0
        assert status.st_mode & 0o027 == 0, f"{directory}: {status.st_mode:o}"
    for uid in (FIRST, 65534):
        for place in (root, f"{root}/containers", stack.containerd.root):
            denied = as_user(uid, "ls", place)
            assert denied.returncode != 0
            assert "ermission denied" in denied.stderr
        refused = as_user(uid, "sh", "-c", f"mv {root} {root}x; touch {root}/x; ln -s /etc {root}/y")
        assert refused.returncode != 0
    assert not os.path.lexists(f"{root}/y")
    stack.docker("rm", "-f", "here").ok()


def test_where_mappings_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subuid, subgid = tmp_path / "subuid", tmp_path / "subgid"
    monkeypatch.setattr(userns, "_SUBUID", subuid)
    monkeypatch.setattr(userns, "_SUBGID", subgid)
    assert userns.resolve("") is None
    with pytest.raises(InvalidArgumentError, match=r'no subuid ranges found for user "nobody"'):
        userns.resolve("nobody:nogroup")
    subuid.write_text("other:1:2\nnobody:100000:1000\nbroken\nnobody:x:1\n65534:300000:2000\n")
    subgid.write_text("nogroup:400000:3000\n")
    for setting in ("nobody:nogroup", "65534:65534", "nobody:65534"):
        found = userns.resolve(setting)
        assert found is not None
        assert [(one.container_id, one.host_id, one.size) for one in found.uids] == [
            (0, 100000, 1000),
            (1000, 300000, 2000),
        ]
        assert found.root == (100000, 400000)
    assert found.outside(1500, 7) == (300500, 400007)
    assert found.inside(300500, 400007) == (1500, 7)
    assert found.inside(5, 5) == (5, 5)
    for setting, words in (
        ("nosuch", "no such user"),
        ("nobody:nosuch", "no such group"),
        ("99999999999", "no such"),
    ):
        with pytest.raises(InvalidArgumentError, match=words):
            userns.resolve(setting)
