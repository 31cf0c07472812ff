# SPDX-License-Identifier: Apache-2.0
"""The whole stack for a test: containerd (ours or Debian's), orlopd and orlop-netd in places of their own.

    with Stack() as stack:
        stack.load("busybox")
        assert stack.docker("run", "--rm", "busybox", "echo", "hi").ok() == "hi\\n"

Directories are below /tmp, the network is a namespace of its own, the sockets are private. `remove` (the end of
the `with`) stops every process by its id and asserts that nothing is left: process, mount, namespace, cgroup.
"""

from __future__ import annotations

import contextlib
import glob
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from support import containerd, images
from support.containerd import Result, mounts_below, processes_about
from support.networks import ip
from support.pace import PACE

from orlop.unix.process import CLONE_NEWNET, setns, unshare

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DOCKER = "/usr/local/bin/docker"
_START_SECONDS = 30 * PACE


class Stack:
    """`kind` is containerd's: `orlop` or `original`; `runtime` orlopd's default runtime (`orlop`, `runc`);
    `configuration` its daemon.json, `program` how Python is told to run it."""

    def __init__(
        self,
        kind: str = "orlop",
        *,
        runtime: str = "orlop",
        flags: Sequence[str] = (),
        configuration: str = "{}",
        program: Sequence[str] = ("-m", "orlop.dockerd.main"),
    ) -> None:
        self.containerd = containerd.Daemon(kind)
        self.base = self.containerd.base
        self.data_root, self.exec_root = f"{self.base}/d", f"{self.base}/r"
        self.socket = f"{self.base}/docker.sock"
        self.host = f"unix://{self.socket}"
        self.log_path = f"{self.base}/orlopd.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.variables: dict[str, str] = {}
        self._runtime = runtime
        self._flags = list(flags)
        self.program = list(program)
        self._cgroup_parent = f"/orlop-test{self.base.replace('/', '-')}"
        self._netns = _new_netns()
        with open(f"{self.base}/daemon.json", "w", encoding="utf-8") as file:
            file.write(f"{configuration}\n")

    def __enter__(self) -> Stack:
        try:
            self.start_all()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is not None:
            sys.stderr.write(f"--- orlopd\n{self.log()}\n--- containerd\n{self.containerd.log()}\n")
        self.remove()

    # -- the daemons

    def start_containerd(self) -> None:
        """Start containerd in the stack's network namespace."""
        with self.network():
            self.containerd.start()

    def start(self, *flags: str) -> None:
        """Start orlopd, and wait until it says that it is ready."""
        command = [sys.executable, "-P", *self.program, "-H", self.host, "-D"]
        command += ["--config-file", f"{self.base}/daemon.json"]
        command += ["--data-root", self.data_root, "--exec-root", self.exec_root, "--group", ""]
        command += ["--containerd", self.containerd.address, "--containerd-namespace", self.containerd.namespace]
        command += ["--default-runtime", self._runtime, "--cgroup-parent", self._cgroup_parent]
        command += [*self._flags, *flags]
        path = f"{self.base}/notify-d"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, open(self.log_path, "ab") as log:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            ready.bind(path)
            ready.settimeout(0.1)
            variables = dict(os.environ, NOTIFY_SOCKET=path, **self.variables)
            with self.network():
                self.process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=variables
                )
            self._await_ready(ready)

    def _await_ready(self, ready: socket.socket) -> None:
        assert self.process is not None
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(TimeoutError):
                if b"READY=1" in ready.recv(4096):
                    return
            assert self.process.poll() is None, f"orlopd ended at its start:\n{self.log()}"
            assert time.monotonic() < deadline, f"orlopd is not ready:\n{self.log()}"

    def stop(self) -> int:
        """Stop orlopd gracefully: its exit status. Containers go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60 * PACE)
        self.process = None
        return status

    def start_again(self, *flags: str) -> None:
        """Stop orlopd, and start it with other flags."""
        assert self.stop() == 0
        self.start(*flags)

    def kill(self) -> None:
        """Let orlopd die at once. Containers go on."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(20 * PACE)
        self.process = None

    def kill_all(self) -> None:
        """Let orlopd and containerd die at once. Containers go on."""
        self.kill()
        self.containerd.kill()

    def start_all(self) -> None:
        """Start containerd, then orlopd."""
        self.start_containerd()
        self.start()

    def restart_containerd(self) -> None:
        """Let containerd die under orlopd, and start it again."""
        self.containerd.kill()
        self.start_containerd()

    def log(self) -> str:
        """What orlopd has written."""
        try:
            with open(self.log_path, encoding="utf-8", errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """Put the calling thread, and what it starts, into the stack's network namespace."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            setns(self._netns, CLONE_NEWNET)
            yield
        finally:
            setns(home, CLONE_NEWNET)
            os.close(home)

    # -- use

    def docker(self, *arguments: str, timeout: float = 60, stdin: str | None = None) -> Result:
        """Run the docker command against the daemon, to its end."""
        return containerd.run([DOCKER, *arguments], timeout=timeout, env=self.environment(), **_input(stdin))

    def popen(self, *arguments: str, **options: object) -> subprocess.Popen[bytes]:
        """Start the docker command; standard streams are pipes unless told otherwise."""
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen([DOCKER, *arguments], env=self.environment(), **streams)  # type: ignore[call-overload]

    def environment(self) -> dict[str, str]:
        """Variables by which a client finds the daemon."""
        return {**os.environ, "DOCKER_HOST": self.host, "DOCKER_CONFIG": f"{self.base}/client", "HOME": self.base}

    def load(self, *names: str) -> None:
        """Load images of `support.images`."""
        for name in names:
            self.docker("load", "-i", images.archive(name)).ok()

    # -- the end

    def remove(self) -> None:
        """Stop everything, remove all files, and see that nothing is left."""
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired, AssertionError):
                self._remove_containers()
            self.stop()
        self._stop_netd()
        with self.network():
            pinned = mounts_below(f"{self.exec_root}/netns")
        for point in pinned:  # of containers that a failed test left
            subprocess.run(["umount", "-l", point], check=False)
        os.close(self._netns)
        self.containerd.remove()
        assert not os.path.exists(self.base)
        left = _remove_cgroups(self._cgroup_parent)
        assert not left, f"cgroups left: {left}"

    def _remove_containers(self) -> None:
        ids = self.docker("ps", "-aq", timeout=20).out.split()
        if ids:
            self.docker("rm", "-fv", *ids, timeout=60)

    def _stop_netd(self) -> None:
        for pid, command in processes_about(self.base):
            if "orlop.netd.main" in command:
                try:
                    descriptor = os.pidfd_open(pid)
                except ProcessLookupError:
                    continue  # it has gone with the one before
                try:
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
                    containerd.wait_until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"))  # type: ignore[misc]
                finally:
                    os.close(descriptor)


def _input(text: str | None) -> dict[str, object]:
    return {"stdin": subprocess.DEVNULL} if text is None else {"input": text}


def _new_netns() -> int:
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        unshare(CLONE_NEWNET)
        ip("link set lo up")
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        setns(home, CLONE_NEWNET)
        os.close(home)


def _remove_cgroups(parent: str) -> list[str]:
    """Remove the stack's own cgroup in every hierarchy; what was left below it."""
    left = []
    for directory in glob.glob(f"/sys/fs/cgroup{parent}") + glob.glob(f"/sys/fs/cgroup/*{parent}"):
        for below in glob.glob(f"{directory}/*/"):
            left.append(below)
            with contextlib.suppress(OSError):
                os.rmdir(below)
        with contextlib.suppress(OSError):
            os.rmdir(directory)
    return left
