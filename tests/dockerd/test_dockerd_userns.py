# SPDX-License-Identifier: Apache-2.0
"""`userns-remap`: containers' root is nobody on the host, and what was possible against that before."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.containerd import wait_until
from support.stack import DOCKER, Stack

from orlop.dockerd import userns
from orlop.engine.client import Client
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
    stack.docker("kill", "files").ok()
    command = [DOCKER, "export", "files"]
    exported = subprocess.run(command, env=stack.environment(), capture_output=True, check=True)
    owners = {member.name: member.uid for member in members(exported.stdout)}
    assert (owners["own"], owners["in"], owners["bin/busybox"]) == (5, 0, 0)
    stack.docker("rm", "-f", "files").ok()
    stack.docker("volume", "rm", "vol").ok()


def test_copies_into_what_does_not_run(stack: Stack) -> None:
    """What is written, what is copied up on the way, and mount points that are made: all are the container's."""
    stack.docker("create", "--name", "still", "-v", "vol:/made/here", "busybox", "sleep", "60").ok()
    Path(stack.base, "in").write_text("in")
    stack.docker("cp", f"{stack.base}/in", "still:/etc/in").ok()
    stack.docker("cp", f"{stack.base}/in", "still:/made/here/in").ok()
    stack.docker("cp", "-a", f"{stack.base}/in", "still:/bin/in").ok()
    stack.docker("start", "still").ok()
    paths = ["/", "/etc", "/etc/in", "/etc/passwd", "/bin", "/bin/in", "/bin/busybox", "/made", "/made/here/in"]
    owners = stack.docker("exec", "still", "stat", "-c", "%u:%g", *paths).ok().split()
    assert owners == ["0:0"] * len(paths)
    stack.docker("exec", "still", "sh", "-c", "echo more >> /etc/in; rm /made/here/in").ok()
    stack.docker("stop", "-t", "0", "still").ok()
    stack.docker("cp", f"{stack.base}/in", "still:/etc/again").ok()
    stack.docker("cp", "still:/etc/in", f"{stack.base}/out").ok()
    assert Path(stack.base, "out").read_text() == "inmore\n"
    stack.docker("rm", "-fv", "still").ok()
    stack.docker("create", "--name", "sealed", "--read-only", "busybox", "true").ok()
    refused = stack.docker("cp", f"{stack.base}/in", "sealed:/etc/in")
    assert "container rootfs is marked read-only" in refused.err
    stack.docker("rm", "sealed").ok()
    stack.docker("volume", "rm", "vol").ok()


@pytest.mark.parametrize("running", [True, False])
def test_commit(stack: Stack, running: bool) -> None:
    """The image has the container's ids: for a container with the host's, and for another one in a namespace."""
    script = (
        "mkdir -p /d/e; echo x > /d/f; chown 5:6 /d/f; chown -h 7:8 /d/e; ln -s f /d/l; rm /etc/group; sleep 60"
    )
    name = f"base-{running}".lower()
    stack.docker("run", "-d", "--name", name, "busybox", "sh", "-c", script).ok()
    wait_until(lambda: stack.docker("exec", name, "test", "!", "-e", "/etc/group").status == 0, 30)
    if not running:
        stack.docker("kill", name).ok()
    stack.docker("commit", name, f"made:{name}").ok()
    look = ["stat", "-c", "%u:%g %F", "/d", "/d/e", "/d/f", "/d/l", "/etc", "/bin/busybox"]
    expected = "0:0 directory|7:8 directory|5:6 regular file|0:0 symbolic link|0:0 directory|0:0 regular file"
    for mode in ([], ["--userns", "host"]):
        seen = stack.docker("run", "--rm", *mode, f"made:{name}", *look).ok()
        assert seen.strip().replace("\n", "|") == expected
        assert stack.docker("run", "--rm", *mode, f"made:{name}", "cat", "/etc/group").status == 1
    stack.docker("rm", "-f", name).ok()
    stack.docker("rmi", f"made:{name}").ok()


def test_its_network_is_its_own(stack: Stack) -> None:
    """What capabilities are worth in its network namespace, and that they are worth nothing in others."""
    configure = "ip addr add 10.9.9.9/24 dev lo && ip -o addr show dev lo | grep -c 10.9.9.9"
    stack.docker("network", "create", "wide").ok()
    for mode in ("bridge", "none", "wide"):
        capable = ["run", "--rm", "--cap-add", "NET_ADMIN", "--network", mode]
        assert stack.docker(*capable, "busybox", "sh", "-c", configure).ok() == "1\n"
        refused = stack.docker("run", "--rm", "--network", mode, "busybox", "sh", "-c", configure)
        assert refused.status != 0 and "Operation not permitted" in refused.err
    stack.docker(
        "run", "-d", "--name", "one", "--network", "wide", "--ipc", "shareable", "busybox", "sleep", "600"
    ).ok()
    stack.docker("network", "connect", "bridge", "one").ok()
    shared = ["run", "--rm", "--network", "container:one"]
    assert stack.docker(*shared, "--cap-add", "NET_ADMIN", "busybox", "sh", "-c", configure).ok() == "1\n"
    assert (
        " 0% packet loss" in stack.docker("run", "--rm", "--network", "wide", "busybox", "ping", "-c1", "one").ok()
    )
    forwarding = "/proc/sys/net/ipv4/ip_forward"
    assert (
        stack.docker("run", "--rm", "--sysctl", "net.ipv4.ip_forward=0", "busybox", "cat", forwarding).ok()
        == "0\n"
    )
    with stack.network():
        addresses = subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True, check=True).stdout
    assert "10.9.9.9" not in addresses
    for option in ("--pid", "--ipc"):
        joined = ["run", "--rm", option, "container:one", "--cap-add", "NET_ADMIN"]
        assert stack.docker(*joined, "busybox", "sh", "-c", configure).ok() == "1\n"
    stack.docker("restart", "-t", "0", "one").ok()
    stack.docker("rm", "-f", "one").ok()
    stack.docker("network", "rm", "wide").ok()


def test_a_mount_into_a_running_container(stack: Stack, tmp_path: Path) -> None:
    """Directories that are made for it are the container's root's."""
    stack.docker("run", "-d", "--name", "live", "busybox", "sleep", "600").ok()
    changes = {"MountsAdd": [{"Type": "bind", "Source": str(tmp_path), "Target": "/new/deep/place"}]}
    with contextlib.closing(Client(stack.host)) as client:
        client.post("/containers/live/update", None, changes)
    look = ["stat", "-c", "%u:%g", "/new", "/new/deep"]
    assert stack.docker("exec", "live", *look).ok() == "0:0\n0:0\n"
    stack.docker("exec", "live", "grep", "-q", " /new/deep/place ", "/proc/mounts").ok()
    stack.docker("rm", "-f", "live").ok()


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
