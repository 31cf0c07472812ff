# SPDX-License-Identifier: Apache-2.0
"""Debian's ctr and ours, on our containerd and Debian's: each command line a user would type."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support import images
from support.containerd import CTR, Daemon, Result, run, wait_until
from support.registry import Registry, registry

__all__ = ["registry"]

pytestmark = pytest.mark.root

IMAGE = "docker.io/library/busybox:latest"
OWN_SHIM = "io.containerd.orlop.v2"
ORLOP = [sys.executable, "-P", "-m", "orlop.ctr.main"]


class Client:
    """A ctr pointed at a daemon."""

    def __init__(self, command: list[str], daemon: Daemon) -> None:
        self.base = [*command, "-a", daemon.address, "-n", daemon.namespace]
        self.daemon = daemon
        self.ours = command is ORLOP

    def __call__(self, *arguments: str, **options: object) -> Result:
        return run([*self.base, *arguments], **options)

    def at_terminal(self, *arguments: str, typed: bytes = b"") -> tuple[int, bytes]:
        """Run it at a terminal of its own: the exit status and what it showed."""
        pid, fd = pty.fork()
        if pid == 0:
            os.execv(self.base[0], [*self.base, *arguments])
        shown = b""
        while True:
            ready, _, _ = select.select([fd], [], [], 30)
            assert ready, f"nothing more after {shown!r}"
            try:
                data = os.read(fd, 4096)
            except OSError:  # the terminal's end
                break
            if not data:
                break
            shown += data
            if typed and b"ready" in shown:
                os.write(fd, typed)
                typed = b""
        os.close(fd)
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status), shown


@pytest.fixture(
    scope="module",
    params=[
        ("orlop", "orlop"),
        pytest.param(("original", "orlop"), marks=pytest.mark.original),
        # On Debian's daemon the two are compared in tests/ctr, and asked the same in tests/swap.
        pytest.param(("orlop", "original"), marks=[pytest.mark.original, pytest.mark.long]),
        pytest.param(("original", "original"), marks=[pytest.mark.original, pytest.mark.long]),
    ],
    ids=lambda pair: f"{pair[0]}-ctr-on-{pair[1]}",
)
def ctr(request: pytest.FixtureRequest) -> Iterator[Client]:
    """Each ctr on each containerd, the image imported."""
    client, daemon = request.param
    # The original looks for shims in PATH.
    running = Daemon(daemon).start(environment={"PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"})
    made = Client(ORLOP if client == "orlop" else [CTR], running)
    made("images", "import", images.archive("busybox")).ok()
    yield made
    made("images", "rm", "--sync", IMAGE).ok()
    running.remove()


def test_images(ctr: Client) -> None:
    digest = images.busybox().target.digest
    assert ctr("images", "ls", "-q").ok().split() == [IMAGE]
    header, row = ctr("i", "ls").ok().splitlines()
    assert header.split() == ["REF", "TYPE", "DIGEST", "SIZE", "PLATFORMS", "LABELS"]
    assert row.split()[:3] == [IMAGE, "application/vnd.oci.image.manifest.v1+json", digest]
    assert "linux/amd64" in row
    ctr("images", "tag", IMAGE, "example.com/other:1").ok()
    assert ctr("images", "tag", IMAGE, "example.com/other:1").status == 1
    ctr("images", "tag", "--force", IMAGE, "example.com/other:1").ok()
    assert ctr("images", "label", "example.com/other:1", "a=b").ok().strip() == "a=b"
    ctr("images", "rm", "example.com/other:1").ok()
    assert ctr("images", "ls", "-q").ok().split() == [IMAGE]
    assert ctr("images", "rm", "example.com/other:1").status in (0, 1)
    assert digest in ctr("content", "ls", "-q").ok().split()
    assert "Committed" in ctr("snapshots", "ls").ok()


def test_export(ctr: Client, tmp_path: object) -> None:
    path = f"{tmp_path}/image.tar"
    ctr("images", "export", path, IMAGE).ok()
    listing = run(["tar", "tf", path]).ok().split()
    digest = images.busybox().target.digest.removeprefix("sha256:")
    assert f"blobs/sha256/{digest}" in listing
    assert {"index.json", "oci-layout"} <= set(listing)


@pytest.mark.parametrize("source", ["image", "rootfs"])
def test_run(ctr: Client, rootfs: str, source: str) -> None:
    what = [IMAGE] if source == "image" else ["--rootfs", rootfs]
    script = "echo out; echo err >&2; echo $X; exit 7"
    done = ctr("run", "--rm", "--env", "X=of-flag", *what, "r", "/bin/sh", "-c", script)
    assert (done.status, done.out) == (7, "out\nof-flag\n")
    assert "err" in done.err
    assert ctr("containers", "ls", "-q").ok() == ""
    assert ctr("snapshots", "ls").ok().count("Active") == 0


def test_our_runtime(ctr: Client) -> None:
    """The shim that orlop's daemon forks from its zygote, and the original finds as a program."""
    flags = ["--rm", "--runtime", OWN_SHIM]
    done = ctr("run", *flags, IMAGE, "o", "sh", "-c", "cat; echo err >&2; exit 7", input="in\n")
    assert (done.status, done.out) == (7, "in\n")
    assert "err" in done.err
    status, shown = ctr.at_terminal("run", "-t", *flags, IMAGE, "o", "sh", "-c", "tty; exit 3")
    assert (status, b"/dev/pts/0" in shown) == (3, True)
    ctr("run", "-d", "--null-io", "--runtime", OWN_SHIM, IMAGE, "o", "sleep", "100").ok()
    assert ctr("tasks", "exec", "--exec-id", "e", "o", "echo", "inside").ok() == "inside\n"
    ctr("tasks", "rm", "-f", "o")
    ctr("containers", "rm", "o").ok()
    assert ctr("tasks", "ls", "-q").ok() == ""


def test_run_input(ctr: Client) -> None:
    text = "".join(f"line {number}\n" for number in range(20_000))
    done = ctr("run", "--rm", IMAGE, "r", "cat", input=text)
    assert (done.status, done.out) == (0, text)


def test_run_at_a_terminal(ctr: Client) -> None:
    script = "tty; stty size; echo ready; read x; echo got $x; exit 3"
    status, shown = ctr.at_terminal("run", "-t", "--rm", IMAGE, "r", "sh", "-c", script, typed=b"typed\r")
    assert status == 3
    assert b"/dev/pts/0" in shown
    assert b"got typed" in shown


def test_run_options(ctr: Client, tmp_path: object) -> None:
    with open(f"{tmp_path}/file", "w", encoding="ascii") as file:
        file.write("mounted")
    os.chmod(str(tmp_path), 0o755)
    flags = ["--mount", f"type=bind,src={tmp_path},dst=/mnt,options=rbind:ro", "--cwd", "/tmp"]
    flags += ["--hostname", "named"] if ctr.ours else []
    flags += ["--user", "5:6"] if ctr.ours else []  # newer than Debian's ctr
    flags += ["--memory-limit", "50000000", "--cpus", "0.5", "--read-only", "--label", "a=b"]
    script = "cat /mnt/file; pwd; id -u; id -g; hostname; echo x > /x || echo read-only"
    done = ctr("run", "--rm", *flags, IMAGE, "r", "sh", "-c", script)
    user, host = ("5\n6", "named") if ctr.ours else ("0\n0", os.uname().nodename)
    assert done.out == f"mounted/tmp\n{user}\n{host}\nread-only\n"


def test_net_host(ctr: Client) -> None:
    inside = ctr("run", "--rm", "--net-host", IMAGE, "r", "readlink", "/proc/self/ns/net").ok()
    assert inside.strip() == os.readlink("/proc/self/ns/net")


def test_log_uri(ctr: Client, tmp_path: object) -> None:
    ctr(
        "run", "--rm", "--log-uri", f"file://{tmp_path}/log", IMAGE, "r", "echo", "a"
    ).ok()  # Debian's shim writes errors over it
    with open(f"{tmp_path}/log", encoding="ascii") as file:
        assert file.read() == "a\n"


def test_detached_task(ctr: Client) -> None:
    ctr("run", "-d", "--null-io", IMAGE, "d", "sleep", "100").ok()
    header, row = ctr("tasks", "ls").ok().splitlines()
    assert header.split() == ["TASK", "PID", "STATUS"]
    id, pid, status = row.split()
    assert (id, status) == ("d", "RUNNING")
    assert ctr("tasks", "ps", "d").ok().splitlines()[1].split()[0] == pid
    done = ctr("tasks", "exec", "--exec-id", "e", "d", "sh", "-c", "echo inside; exit 9")
    assert (done.status, done.out) == (9, "inside\n")
    status_, shown = ctr.at_terminal("tasks", "exec", "-t", "--exec-id", "e2", "d", "tty")
    assert (status_, b"/dev/pts/" in shown) == (0, True)
    ctr("tasks", "pause", "d").ok()
    assert "PAUSED" in ctr("tasks", "ls").ok()
    ctr("tasks", "resume", "d").ok()
    metrics = ctr("tasks", "metrics", "d").ok()
    assert "pids.current" in metrics
    assert json.loads(ctr("tasks", "metrics", "--format", "json", "d").ok())["pids"]
    info = json.loads(ctr("containers", "info", "d").ok())
    assert (info["ID"], info["Image"], info["Spec"]["process"]["args"]) == ("d", IMAGE, ["sleep", "100"])
    assert ctr("containers", "rm", "d").status == 1
    ctr("tasks", "kill", "-s", "KILL", "d").ok()
    wait_until(lambda: "STOPPED" in ctr("tasks", "ls").ok())
    assert "exit code 137" in ctr("tasks", "rm", "d").err
    ctr("containers", "rm", "d").ok()
    assert ctr("containers", "ls", "-q").ok() == ""


def test_created_container(ctr: Client) -> None:
    ctr("containers", "create", IMAGE, "c", "pwd").ok()
    assert ctr("c", "ls").ok().splitlines()[1].split() == ["c", IMAGE, "io.containerd.runc.v2"]
    assert ctr("c", "label", "c", "x=y").ok().strip() == "x=y" or "x" in ctr("c", "info", "c").ok()
    done = ctr("tasks", "start", "c")
    assert (done.status, done.out) == (0, "/\n")
    ctr("containers", "delete", "c").ok()


def test_task_delete_by_force(ctr: Client) -> None:
    ctr("run", "-d", "--null-io", IMAGE, "f", "sleep", "100").ok()
    ctr("tasks", "rm", "-f", "f")
    assert ctr("tasks", "ls", "-q").ok() == ""
    ctr("containers", "rm", "f").ok()


def test_namespaces(ctr: Client) -> None:
    ctr("namespaces", "create", "extra", "a=b").ok()
    rows = [row.split() for row in ctr("ns", "ls").ok().splitlines()]
    assert ["extra", "a=b"] in rows
    ctr("ns", "label", "extra", "a=c").ok()
    assert "a=c" in ctr("ns", "ls").ok()
    assert ctr("ns", "rm", "extra").ok().strip() == "extra"
    assert "extra" not in ctr("ns", "ls").ok()


def test_leases(ctr: Client) -> None:
    id = ctr("leases", "create", "--id", "mine", "a=b").ok().strip()
    assert id == "mine"
    assert "mine" in ctr("leases", "ls").ok()
    ctr("leases", "rm", "mine").ok()
    assert "mine" not in ctr("leases", "ls").ok()


def test_pull(ctr: Client, registry: Registry) -> None:
    name = registry.push(images.layers(), "test/ctr:pulled")
    ctr("images", "pull", "--plain-http", name).ok()
    assert name in ctr("images", "ls", "-q").ok().split()
    done = ctr("run", "--rm", name, "p", "cat", "/changed")
    assert (done.status, done.out) == (0, "two\n")
    ctr("images", "rm", "--sync", name).ok()
    assert images.layers().target.digest not in ctr("content", "ls", "-q").ok()


def test_events(ctr: Client) -> None:
    with subprocess.Popen([*ctr.base, "events"], stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        # Neither program says when it has subscribed: make events until one is seen.
        ready: list[object] = []
        for number in range(50):
            ctr("namespaces", "create", f"seen{number}").ok()
            ctr("namespaces", "rm", f"seen{number}").ok()
            ready, _, _ = select.select([watching.stdout], [], [], 0.1)
            if ready:
                break
        assert ready
        ctr("run", "--rm", "--null-io", IMAGE, "e", "true").ok()
        topics = []
        while "/containers/delete" not in topics:
            line = watching.stdout.readline()
            # 2026-01-02 03:04:05.6 +0000 UTC NAMESPACE TOPIC EVENT
            words = line.split(" ", 6)
            if words[4] == ctr.daemon.namespace:
                topics.append(words[5])
                assert isinstance(json.loads(words[6]), dict)
        watching.terminate()
    tasks = [topic for topic in topics if topic.startswith("/tasks/")]
    assert tasks == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    assert "/snapshot/prepare" in topics


def test_version_and_plugins(ctr: Client) -> None:
    assert "Server:" in ctr("version").ok()
    listing = ctr("plugins", "ls").ok()
    assert "io.containerd.snapshotter.v1" in listing
    assert "overlayfs" in listing


def test_errors(ctr: Client) -> None:
    done = ctr("run", "--rm", "example.com/none:1", "n")
    assert done.status == 1
    assert "not found" in done.err
    done = ctr("run", "--rm", IMAGE, "n", "/no/such/program")
    assert done.status == 1
    assert "no such file" in done.err
    assert ctr("containers", "ls", "-q").ok() == ""
    assert ctr("tasks", "ls", "-q").ok() == ""
    assert ctr("tasks", "kill", "none").status == 1
