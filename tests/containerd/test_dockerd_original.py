# SPDX-License-Identifier: Apache-2.0
"""Debian's dockerd on orlop-containerd: the seam between the two is the original's."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Iterator

import pytest
from support import images
from support.containerd import Daemon, Result, run

pytestmark = [pytest.mark.root, pytest.mark.original]

DOCKERD = "/usr/sbin/dockerd"
DOCKER = "/usr/local/bin/docker"


@pytest.fixture(scope="module")
def containerd() -> Iterator[Daemon]:
    daemon = Daemon("orlop")
    daemon.namespace = "moby"  # dockerd's
    daemon.start()
    yield daemon
    daemon.remove()


@pytest.fixture(scope="module")
def docker(containerd: Daemon) -> Iterator[list[str]]:
    """The docker command, pointed at a dockerd that has the image busybox."""
    base = f"{containerd.base}/docker"
    os.mkdir(base)
    with open(f"{base}/daemon.json", "w", encoding="ascii") as file:
        file.write("{}")
    command = [
        DOCKERD,
        "--config-file",
        f"{base}/daemon.json",
        "-H",
        f"unix://{base}/s",
        "--pidfile",
        f"{base}/pid",
    ]
    command += ["--data-root", f"{base}/data", "--exec-root", f"{base}/exec", "--containerd", containerd.address]
    command += ["--bridge=none", "--iptables=false", "--ip6tables=false"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, bufsize=0) as process:
        assert process.stderr is not None
        log = b""
        while b"API listen on" not in log:
            ready, _, _ = select.select([process.stderr], [], [], 30)
            data = process.stderr.read(65536) if ready else b""
            assert data, f"dockerd is not ready: {log.decode()}"
            log += data
        made = [DOCKER, "-H", f"unix://{base}/s"]
        run([*made, "load", "-i", images.archive("busybox")]).ok()
        yield made
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        process.wait(30)
    subprocess.run(["umount", "-l", f"{base}/data/overlay2"], check=False, stderr=subprocess.DEVNULL)


def _docker(docker: list[str], *arguments: str, **options: object) -> Result:
    return run([*docker, *arguments], **options)


def test_run(docker: list[str]) -> None:
    done = _docker(docker, "run", "--rm", "--network", "none", "busybox", "sh", "-c", "echo out; exit 7")
    assert (done.status, done.out) == (7, "out\n")


def test_input(docker: list[str]) -> None:
    done = _docker(docker, "run", "--rm", "-i", "--network", "none", "busybox", "cat", input="through\n")
    assert (done.status, done.out) == (0, "through\n")


def test_life(docker: list[str]) -> None:
    _docker(docker, "run", "-d", "--name", "life", "--network", "none", "busybox", "sleep", "100").ok()
    assert _docker(docker, "exec", "life", "echo", "inside").ok() == "inside\n"
    assert _docker(docker, "exec", "life", "sh", "-c", "exit 4").status == 4
    assert "sleep 100" in _docker(docker, "top", "life").ok()
    _docker(docker, "pause", "life").ok()
    assert "(Paused)" in _docker(docker, "ps").ok()
    _docker(docker, "unpause", "life").ok()
    _docker(docker, "update", "--memory", "100m", "--memory-swap", "100m", "life").ok()
    limit = _docker(docker, "stats", "--no-stream", "--format", "{{.MemUsage}}", "life").ok()
    assert limit.strip().endswith("/ 100MiB")
    _docker(docker, "kill", "life").ok()
    assert _docker(docker, "wait", "life").ok() == "137\n"
    _docker(docker, "start", "life").ok()
    _docker(docker, "rm", "-f", "life").ok()


def test_containerd_dies(docker: list[str], containerd: Daemon) -> None:
    _docker(docker, "run", "-d", "--name", "stays", "--network", "none", "busybox", "sleep", "100").ok()
    pid = _docker(docker, "inspect", "-f", "{{.State.Pid}}", "stays").ok()
    containerd.kill()
    containerd.start()
    assert _docker(docker, "inspect", "-f", "{{.State.Pid}}", "stays").ok() == pid
    assert os.path.exists(f"/proc/{pid.strip()}")
    for _ in range(100):  # dockerd's connection comes back by itself within a second or two
        if _docker(docker, "exec", "stays", "true").status == 0:
            break
    assert _docker(docker, "exec", "stays", "echo", "inside").ok() == "inside\n"
    _docker(docker, "rm", "-f", "stays").ok()
