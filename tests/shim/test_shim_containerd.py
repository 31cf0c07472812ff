# SPDX-License-Identifier: Apache-2.0
"""Our shim under Debian's containerd, driven by ctr, and the original shim to prove the suite."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.shims import eventually

pytestmark = [
    pytest.mark.root,
    pytest.mark.original,
    pytest.mark.skipif(shutil.which("containerd") is None, reason="containerd is not installed"),
]
ORIGINAL = "original"


class Containerd:
    """Debian's containerd on private paths, which finds our shim in PATH and may be killed and started again."""

    def __init__(self, directory: Path, rootfs: Path, runtime: str) -> None:
        self.directory = directory
        self.rootfs = rootfs
        self.socket = directory / "c.sock"
        plugins = ["cri", "btrfs", "zfs", "aufs", "devmapper"]
        kinds = {"cri": "grpc"}
        names = [f'"io.containerd.{kinds.get(name, "snapshotter")}.v1.{name}"' for name in plugins]
        (directory / "config.toml").write_text(
            f'version = 2\nroot = "{directory}/root"\nstate = "{directory}/state"\n'
            f"disabled_plugins = [{', '.join(names)}]\n"
            f'[grpc]\naddress = "{self.socket}"\n[debug]\nlevel = "debug"\n'
        )
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "ORLOP_SHIM_RUNTIME": runtime,
            "ORLOP_SHIM_RUNTIME_ROOT": str(directory / "runtime"),
        }
        self.original = runtime == ORIGINAL
        self.flags = ("--runtime", "io.containerd.orlop.v2")
        if self.original:
            self.flags = ("--runtime", "io.containerd.runc.v2", "--runc-root", str(directory / "runtime"))
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                ["containerd", "-c", self.directory / "config.toml"], env=self.environment, stderr=log, stdout=log
            )
        eventually(lambda: self.ctr("version").returncode == 0)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def ctr(self, *words: object, data: bytes = b"", timeout: float = 60) -> subprocess.CompletedProcess[bytes]:
        command = ["ctr", "-a", str(self.socket), *map(str, words)]
        return subprocess.run(command, input=data, capture_output=True, timeout=timeout, check=False)

    def run(
        self, name: str, *args: str, flags: tuple[str, ...] = ("--rm",), data: bytes = b""
    ) -> tuple[int, bytes]:
        words = ("run", *flags, *self.flags, "--rootfs", self.rootfs, name, *args)
        done = self.ctr(*words, data=data)
        return done.returncode, done.stdout + done.stderr

    def status(self, name: str) -> str:
        for line in self.ctr("task", "ls").stdout.decode().splitlines():
            if line.split()[0] == name:
                return line.split()[2]
        return ""

    def pid(self, name: str) -> int:
        for line in self.ctr("task", "ls").stdout.decode().splitlines():
            if line.split()[0] == name:
                return int(line.split()[1])
        raise AssertionError(f"no task {name}")

    def remove(self, name: str) -> None:
        if self.status(name) in ("RUNNING", "PAUSED", "CREATED"):
            self.ctr("task", "kill", "-s", "KILL", name)
            eventually(lambda: self.status(name) == "STOPPED")
        self.ctr("task", "rm", name)
        assert self.ctr("containers", "rm", name).returncode == 0

    def shims(self) -> list[int]:
        """The shims of this containerd that run now."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if str(self.socket).encode() in words and b"shim" in words and b"containerd\0-c" not in words:
                found.append(int(pid))
        return found

    def close(self) -> None:
        self.kill()
        for pid in self.shims():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(params=["", "runc", ORIGINAL], ids=lambda name: name or "in-process")
def containerd(request: pytest.FixtureRequest, short_dir: Path, rootfs: Path) -> Iterator[Containerd]:
    daemon = Containerd(short_dir, rootfs, request.param)
    try:
        yield daemon
        assert eventually(lambda: not daemon.shims()) is True
    finally:
        daemon.close()


def test_run(containerd: Containerd) -> None:
    assert containerd.run("a", "/bin/echo", "hello") == (0, b"hello\n")
    assert containerd.run("a", "/bin/sh", "-c", "exit 37")[0] == 37
    if not containerd.original:  # with the original, ctr may read the end of its input too early to pass it on
        assert containerd.run("a", "/bin/cat", data=b"from stdin\n") == (0, b"from stdin\n")
    code, text = containerd.run("a", "/bin/sh", "-c", "echo out; echo err >&2")
    assert (code, sorted(text.split())) == (0, [b"err", b"out"])
    code, text = containerd.run("a", "/no/such/program")
    assert code != 0
    assert b"OCI runtime create failed" in text
    assert b"no such file or directory" in text


def test_terminal(containerd: Containerd) -> None:
    flags = " ".join(containerd.flags)
    command = f"ctr -a {containerd.socket} run --rm -t {flags} --rootfs {containerd.rootfs} t /bin/tty"
    done = subprocess.run(["script", "-qec", command, "/dev/null"], capture_output=True, timeout=60, check=False)
    assert re.search(rb"/dev/(pts/\d+|console)", done.stdout)
    assert done.returncode == 0


def test_exec_kill_pause_metrics_and_log(containerd: Containerd) -> None:
    log = containerd.directory / "out.log"
    code, text = containerd.run(
        "a", "/bin/sh", "-c", "echo started; sleep 1000", flags=("-d", "--log-uri", f"file://{log}")
    )
    assert code == 0, text
    assert containerd.status("a") == "RUNNING"
    done = containerd.ctr("task", "exec", "--exec-id", "e", "a", "/bin/sh", "-c", "echo out; exit 3")
    assert (done.returncode, done.stdout) == (3, b"out\n")
    if not containerd.original:
        done = containerd.ctr("task", "exec", "--exec-id", "f", "a", "/bin/cat", data=b"piped\n")
        assert (done.returncode, done.stdout) == (0, b"piped\n")
    assert b"pids.current" in containerd.ctr("task", "metrics", "a").stdout
    assert str(containerd.pid("a")).encode() in containerd.ctr("task", "ps", "a").stdout
    containerd.ctr("task", "pause", "a")
    assert containerd.status("a") == "PAUSED"
    containerd.ctr("task", "resume", "a")
    assert containerd.status("a") == "RUNNING"
    eventually(lambda: log.read_bytes() == b"started\n")
    containerd.remove("a")


def test_container_survives_containerd(containerd: Containerd) -> None:
    containerd.run("a", "/bin/sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.05; done", flags=("-d",))
    containerd.run("b", "/bin/sleep", "0.3", flags=("-d",))
    pid, [*shims] = containerd.pid("a"), containerd.shims()
    containerd.kill()
    time.sleep(0.5)  # b ends while nobody is there
    os.kill(pid, 0)
    containerd.start()
    assert sorted(containerd.shims()) == sorted(shims)
    assert (containerd.status("a"), containerd.pid("a")) == ("RUNNING", pid)
    assert containerd.status("b") == "STOPPED"
    assert containerd.ctr("task", "exec", "--exec-id", "x", "a", "/bin/true").returncode == 0
    containerd.ctr("task", "kill", "-s", "TERM", "a")
    eventually(lambda: containerd.status("a") == "STOPPED")
    assert b"exit code 9" in containerd.ctr("task", "rm", "a").stderr
    containerd.remove("b")
    assert containerd.ctr("containers", "rm", "a").returncode == 0


def test_dead_shim_is_cleaned_up(containerd: Containerd) -> None:
    containerd.run("a", "/bin/sleep", "1000", flags=("-d",))
    [shim], pid = containerd.shims(), containerd.pid("a")
    os.kill(shim, signal.SIGKILL)
    eventually(lambda: containerd.status("a") in ("", "STOPPED"))
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))
    containerd.remove("a")
    assert not list((containerd.directory / "runtime/default").iterdir())
    assert str(containerd.directory) not in Path("/proc/mounts").read_text()


def test_no_line_is_lost_or_doubled_while_containerd_dies(containerd: Containerd) -> None:
    if containerd.original:
        return  # it has no log of its own
    many = 3 if containerd.environment["ORLOP_SHIM_RUNTIME"] else 20
    names = [f"n{number}" for number in range(many)]
    for name in names:
        log = f"json-file://{containerd.directory}/{name}.log"
        code, text = containerd.run(
            name, "/bin/sh", "-c", "seq 1 20000; sleep 0.5; seq 20001 40000", flags=("-d", "--log-uri", log)
        )
        assert code == 0, text
    containerd.kill()
    expected = [f"{number}\\n" for number in range(1, 40001)]
    for name in names:
        path = containerd.directory / f"{name}.log"
        eventually(lambda path=path: path.read_bytes().count(b"\n") >= 40000, within=30)  # type: ignore[misc]
        assert re.findall(r'"log":"([^"]*)"', path.read_text()) == expected
    containerd.start()
    for name in names:
        containerd.remove(name)
