# SPDX-License-Identifier: Apache-2.0
"""Debian's podman on orlop-runc: its service is the daemon above, conmon what containers live under."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import signal
import socket
import subprocess
import tempfile

from support.containerd import mounts_below, processes_about, wait_until

PODMAN = "/usr/bin/podman"

_CONFIG = """
[containers]
cgroups = "enabled"
# Less than the usual, which only a machine with CAP_SYS_RESOURCE allows.
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
runtime = "under-test"
static_dir = "{base}/static"
tmp_dir = "{base}/tmp"
volume_path = "{base}/volumes"
[engine.runtimes]
under-test = ["{runtime}"]
"""


class Podman:
    """`podman system service` with everything of it in a directory of its own."""

    def __init__(self, runtime: str) -> None:
        self.base = tempfile.mkdtemp(prefix="op", dir="/tmp")
        self._cgroup_parent = f"/{os.path.basename(self.base)}"
        self.flags = ["--cgroup-parent", self._cgroup_parent]
        self.socket = f"{self.base}/s"
        self.client = [PODMAN, "--remote", "--url", f"unix://{self.socket}"]
        with open(f"{self.base}/containers.conf", "w", encoding="ascii") as file:
            file.write(_CONFIG.format(base=self.base, runtime=runtime))
        self._process: subprocess.Popen[bytes] | None = None
        self.start_all()

    def environment(self) -> dict[str, str]:
        """Variables for the service and the client."""
        return {**os.environ, "CONTAINERS_CONF": f"{self.base}/containers.conf", "HOME": self.base}

    def start_all(self) -> None:
        """Start the service, and wait until it listens."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket)
        command = [PODMAN, "--root", f"{self.base}/root", "--runroot", f"{self.base}/run"]
        command += ["--storage-driver", "overlay", "system", "service", "--time", "0", f"unix://{self.socket}"]
        with open(f"{self.base}/log", "ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment()
            )
        wait_until(self._listens, 30)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            return sock.connect_ex(self.socket) == 0

    def kill_all(self) -> None:
        """Let the service die."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(20)

    def restart_containerd(self) -> None:
        """There is none."""
        raise NotImplementedError

    def remove(self) -> None:
        """Stop it, remove its files, and see that nothing is left."""
        self.kill_all()
        for pid, command in processes_about(self.base):
            if "--exit-delay" in command:  # of an exec that has ended: it would remember that for five minutes
                os.kill(pid, signal.SIGKILL)
        # The last container's conmon runs a clean-up when the container is gone already.
        wait_until(lambda: not list(processes_about(self.base)))
        own = f"{self.base}/root/overlay"
        mounts = [point for point in mounts_below(self.base) if point != own]
        for point in [*reversed(mounts), own]:
            subprocess.run(["umount", "-l", point], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(self.base)
        left = _remove_cgroups(self._cgroup_parent)
        assert not mounts, f"mounts left: {mounts}"
        assert not left, f"control groups left: {left}"


def _remove_cgroups(parent: str) -> list[str]:
    """Remove the parent of all containers and podman's own group in it; what else is there is told."""
    left = []
    for top in glob.glob(f"/sys/fs/cgroup/*{parent}"):
        for directory, _, _ in os.walk(top, topdown=False):
            if directory != top and os.path.basename(directory) != "conmon":
                left.append(directory)
            with contextlib.suppress(OSError):
                os.rmdir(directory)
    return left
