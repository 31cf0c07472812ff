# SPDX-License-Identifier: Apache-2.0
"""Limits of containers from the command line to the control group, of whichever version this machine has."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.e2e import Cli
from support.limits import is_unified, limits_of

pytestmark = pytest.mark.root
MIB = 1 << 20
Made = Callable[..., str]


@pytest.fixture
def container(cli: Cli) -> Iterator[Made]:
    """Makes detached containers of busybox that are removed at the end: container("-m", "64m")."""
    made: list[str] = []

    def make(*options: str) -> str:
        made.append(ok(cli, "run", "-d", *options, "busybox", "sleep", "1000").strip())
        return made[-1]

    yield make
    if made:
        ok(cli, "rm", "-f", *made)


def ok(cli: Cli, *arguments: str) -> str:
    """What a command prints that has to succeed."""
    result = cli(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def pid_of(cli: Cli, name: str) -> int:
    return int(ok(cli, "inspect", "-f", "{{.State.Pid}}", name))


def test_every_limit_is_set(cli: Cli, container: Made) -> None:
    name = container(
        *("-m", "64m", "--memory-swap", "96m", "--cpus", "0.5", "--pids-limit", "7", "--cpuset-cpus", "0"),
        *("--cpu-shares", "512"),
    )
    found = limits_of(pid_of(cli, name))
    assert (found.memory, found.memory_and_swap) == (64 * MIB, 96 * MIB)
    assert (found.cpus, found.pids, found.cpuset) == (0.5, 7, "0")
    # 1024 shares are a weight of 100 (the curve of runc 1.3: half of them are 59).
    assert found.weight == (59 if is_unified() else 512)
    forks = cli("exec", name, "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 5 & done")
    assert "can't fork" in forks.stderr


def test_update_of_a_running_container(cli: Cli, container: Made) -> None:
    name = container("-m", "64m", "--memory-swap", "64m", "--cpus", "0.5", "--pids-limit", "7")
    given = ["-m", "80m", "--memory-swap", "96m", "--cpus", "1.5", "--pids-limit", "50", "--cpuset-cpus", "0"]
    assert ok(cli, "update", *given, name) == f"{name}\n"
    found = limits_of(pid_of(cli, name))
    assert (found.memory, found.memory_and_swap) == (80 * MIB, 96 * MIB)
    assert (found.cpus, found.pids, found.cpuset) == (1.5, 50, "0")
    ok(cli, "update", "--pids-limit", "-1", name)
    assert limits_of(pid_of(cli, name)).pids is None


def test_throttled_devices(cli: Cli, container: Made) -> None:
    disk = next(
        (path for path in Path("/sys/block").iterdir() if path.name.startswith(("vd", "sd", "nvme"))), None
    )
    if disk is None:
        pytest.skip("no disk here")
    name = container("--device-read-bps", f"/dev/{disk.name}:1mb")
    number = (disk / "dev").read_text().strip()
    limit = f"{number} rbps={MIB}" if is_unified() else f"{number} {MIB}"
    assert limits_of(pid_of(cli, name)).read_bps.startswith(limit)


def test_block_weight_is_set_or_refused_with_a_warning(cli: Cli) -> None:
    result = cli("run", "--rm", "--blkio-weight", "300", "busybox", "true")
    assert result.returncode == 0, result.stderr
    group = "/sys/fs/cgroup/docker" if is_unified() else "/sys/fs/cgroup/blkio"
    files = ("io.weight", "io.bfq.weight", "blkio.weight", "blkio.bfq.weight")
    known = any(Path(group, name).exists() for name in files)
    assert ("Weight discarded" in result.stderr) is not known


def test_stats_count_against_the_limits(cli: Cli, container: Made) -> None:
    name = container("-m", "64m", "--pids-limit", "20")
    ok(cli, "exec", name, "dd", "if=/dev/zero", "of=/dev/shm/x", "bs=1M", "count=8")
    shown = ok(cli, "stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", name)
    used, unit, limit, pids = re.fullmatch(r"([\d.]+)(\w+) / (\S+) (\d+)\n", shown).groups()  # type: ignore[union-attr]
    assert (unit, limit, pids) == ("MiB", "64MiB", "1")
    assert 8 <= float(used) < 32


def test_a_paused_container_does_nothing(cli: Cli, container: Made) -> None:
    name = container()
    ok(cli, "pause", name)
    assert ok(cli, "inspect", "-f", "{{.State.Status}} {{.State.Paused}}", name) == "paused true\n"
    assert "is paused, unpause the container before exec" in cli("exec", name, "true").stderr
    ok(cli, "unpause", name)
    assert ok(cli, "exec", name, "echo", "on") == "on\n"
    ok(cli, "pause", name)
    ok(cli, "kill", name)
    assert ok(cli, "wait", name) == "137\n"


def test_the_view_of_control_groups_from_inside(cli: Cli) -> None:
    """Docker gives a namespace of its own by default on version 2, the host's on version 1."""
    show = ("busybox", "cat", "/proc/self/cgroup")
    private = {line.split(":")[2] for line in ok(cli, "run", "--rm", "--cgroupns", "private", *show).splitlines()}
    assert private == {"/"}
    assert "/docker/" in ok(cli, "run", "--rm", "--cgroupns", "host", *show)
    default = ok(cli, "run", "--rm", *show)
    if is_unified():
        assert default == "0::/\n"
    else:
        assert "/docker/" in default


def test_devices_are_closed_but_those_given(cli: Cli, container: Made) -> None:
    """By a program of eBPF on version 2; /dev/fuse is 10:229."""
    opened = ["sh", "-c", "mknod /fuse c 10 229 && exec 3</fuse"]
    closed = cli("run", "--rm", "busybox", *opened)
    assert closed.returncode != 0 and "Operation not permitted" in closed.stderr
    ok(cli, "run", "--rm", "--device-cgroup-rule", "c 10:229 r", "busybox", *opened)
    ok(cli, "run", "--rm", "--privileged", "busybox", *opened)


def test_a_container_ends_with_all_its_processes(cli: Cli, container: Made) -> None:
    name = container("--pid", "host")  # nothing but the group tells which processes are its own
    ok(cli, "exec", "-d", name, "sleep", "2000")
    pids = [int(line.split()[0]) for line in ok(cli, "top", name, "-o", "pid").splitlines()[1:]]
    assert len(pids) == 2
    ok(cli, "kill", name)
    ok(cli, "wait", name)
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
