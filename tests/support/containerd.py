# SPDX-License-Identifier: Apache-2.0
"""Daemons to test against: orlop-containerd, or Debian's containerd, in directories of their own."""

from __future__ import annotations

import contextlib
import glob
import io
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator

from support import images
from support.pace import PACE

from orlop.codec import decode
from orlop.oci.image import Manifest

ORIGINAL = "/usr/bin/containerd"
RUNC_SHIM = "/usr/bin/containerd-shim-runc-v2"
CTR = "/usr/bin/ctr"

_ORIGINAL_CONFIG = """
version = 2
root = "{base}/root"
state = "{base}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "{base}/c.sock"
[debug]
  address = "{base}/debug.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{base}/opt"
"""


class Daemon:
    """A daemon and its directories. `kind` is `orlop` or `original`."""

    def __init__(self, kind: str = "orlop", base: str | None = None) -> None:
        self.kind = kind
        self.base = base or _directory()  # short: socket paths have 107 bytes at most
        self.address = f"{self.base}/c.sock"
        # runc keeps its state by namespace, the same for all daemons of the machine.
        self.namespace = os.path.basename(self.base)
        self.root, self.state = f"{self.base}/root", f"{self.base}/state"
        self.process: subprocess.Popen[bytes] | None = None
        self.log_path = f"{self.base}/log"

    def start(self, *flags: str, environment: dict[str, str] | None = None, by: tuple[str, ...] = ()) -> Daemon:
        """Start it (`by` a command that executes another), and wait until it says that it is ready."""
        if self.kind == "orlop":
            command = [sys.executable, "-P", "-m", "orlop.containerd.main"]
            command += ["--root", self.root, "--state", self.state, "-a", self.address, "-l", "debug", *flags]
        else:
            with open(f"{self.base}/config.toml", "w", encoding="utf-8") as file:
                file.write(_ORIGINAL_CONFIG.format(base=self.base))
            command = [ORIGINAL, "-c", f"{self.base}/config.toml", *flags]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, open(self.log_path, "ab") as log:
            path = f"{self.base}/notify"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            ready.bind(path)
            ready.settimeout(30 * PACE)
            variables = dict(os.environ, NOTIFY_SOCKET=path, **(environment or {}))
            self.process = subprocess.Popen(
                [*by, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=variables
            )
            ended = os.pidfd_open(self.process.pid)
            try:
                while True:
                    readable, _, _ = select.select([ready, ended], [], [], 30 * PACE)
                    if ready not in readable:
                        raise AssertionError(f"{self.kind} is not ready:\n{self.log()}")
                    if b"READY=1" in ready.recv(4096):
                        break
            finally:
                os.close(ended)
        return self

    def log(self) -> str:
        """What it has written."""
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def stop(self) -> int:
        """Stop it gracefully: the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(20 * PACE)
        self.process = None
        return status

    def kill(self) -> None:
        """Let it die."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(20 * PACE)
        self.process = None

    def ctr(self, *arguments: str, program: str = CTR, timeout: float = 30, **options: object) -> Result:
        """Run ctr (Debian's, or another) against it."""
        return run([program, "-a", self.address, "-n", self.namespace, *arguments], timeout=timeout, **options)

    def _remove_tasks(self) -> list[str]:
        """Remove what a failed test left running: the ids."""
        if self.process is None:
            return []
        tasks = self.ctr("tasks", "ls", "-q").ok().split()
        for id in tasks:
            self.ctr("tasks", "rm", "-f", id)
        return tasks

    def _remove_cgroups(self) -> list[str]:
        """Remove the parent of the tasks' control groups, which runtimes leave; what else is in it is told."""
        left = []
        for parent in glob.glob(f"/sys/fs/cgroup/*/{self.namespace}"):
            for directory, _, _ in os.walk(parent, topdown=False):
                if directory != parent:
                    left.append(directory)
                os.rmdir(directory)
        return left

    def remove(self) -> None:
        """Stop it if it runs, remove its directories, and see that nothing of it is left."""
        tasks = self._remove_tasks()
        if self.process is not None:
            self.stop()
        left = [f"{pid} {' '.join(command)}" for pid, command in processes_about(self.base)]
        mounts = mounts_below(self.base)
        for pid, _ in processes_about(self.base):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for point in reversed(mounts):
            subprocess.run(["umount", "-l", point], check=False)
        shutil.rmtree(self.base)
        cgroups = self._remove_cgroups()
        for states in ("/run/containerd/runc", "/run/orlop/runc"):
            shutil.rmtree(f"{states}/{self.namespace}", ignore_errors=True)
        assert not tasks, f"tasks left: {tasks}"
        assert not left, f"processes left: {left}"
        assert not mounts, f"mounts left: {mounts}"
        assert not cgroups, f"control groups left: {cgroups}"


def _directory() -> str:
    path = f"/tmp/oc{os.getpid()}-{time.monotonic_ns() % 10**9}"  # also a namespace: letters, digits, one dash
    os.mkdir(path, 0o700)
    return path


class Result:
    """What a command gave."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    def ok(self) -> str:
        """Its output; asserts that it succeeded."""
        assert self.status == 0, f"exit status {self.status}: {self.err or self.out}"
        return self.out


def run(command: list[str], timeout: float = 30, **options: object) -> Result:
    """Run a command to its end."""
    done = subprocess.run(  # type: ignore[call-overload]
        command, capture_output=True, timeout=timeout * PACE, text=True, check=False, **options
    )
    return Result(done.returncode, done.stdout, done.stderr)


def processes_about(path: str) -> Iterator[tuple[int, list[str]]]:
    """The processes whose command line or working directory names a path, zombies left out."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                command = file.read().decode(errors="replace").split("\0")
            directory = os.readlink(f"/proc/{entry}/cwd")
        except OSError:
            continue
        if any(path in word for word in command) or directory.startswith(path):
            found.append((int(entry), command))
    return iter(found)


def mounts_below(path: str) -> list[str]:
    """The mount points below a path."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        points = [line.split(" ")[4] for line in file]
    return [point for point in points if point.startswith(path + "/")]


def unpack_rootfs(directory: str) -> str:
    """The busybox root file system, as a directory."""
    image = images.busybox()
    layer = decode(image.blobs[image.target.digest], Manifest).layers[0]
    with tarfile.open(fileobj=io.BytesIO(image.blobs[layer.digest])) as tar:
        tar.extractall(directory)
    return directory


def wait_until(condition: object, timeout: float = 10) -> None:
    """Poll a condition of another program that gives no event to wait for."""
    deadline = time.monotonic() + timeout * PACE
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)
