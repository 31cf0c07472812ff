# SPDX-License-Identifier: Apache-2.0
"""orlopd alone, without a containerd behind it: its command line, its start, requests over its socket."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.containerd import mounts_below, processes_about, wait_until
from support.networks import fresh_netns

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = (sys.executable, "-P", "-m", "orlop.dockerd.main")


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """A short directory, and a network namespace, that are gone afterwards, as is all that they were used by."""
    base = tempfile.mkdtemp(prefix="od-", dir="/tmp")
    with fresh_netns():
        yield Path(base)
    for pid, command in processes_about(base):
        if "orlop.netd.main" in command:
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"))  # type: ignore[misc]
    assert not list(processes_about(base))
    assert not mounts_below(base)
    shutil.rmtree(base)


def flags(base: Path, *more: str) -> list[str]:
    """Flags for a daemon that has all its places below `base`, with an empty daemon.json."""
    (base / "daemon.json").write_text("{}")
    found = ["--config-file", f"{base}/daemon.json", "--data-root", f"{base}/d", "--exec-root", f"{base}/r"]
    return [*found, "--containerd", f"{base}/nobody.sock", "--group", "", *more]


class Daemon:
    """A running orlopd."""

    def __init__(self, process: subprocess.Popen[bytes], ready: socket.socket) -> None:
        self.process = process
        self._ready = ready

    def reload(self) -> None:
        """Send SIGHUP, and wait until it is dealt with."""
        self.process.send_signal(signal.SIGHUP)
        assert self._ready.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert self._ready.recv(100) == b"READY=1"


@contextlib.contextmanager
def running(base: Path, command: list[str], **options: Any) -> Iterator[Daemon]:
    """The daemon, ready; ended by SIGTERM with status 0."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(f"{base}/notify")
        ready.settimeout(30)
        environment = {**os.environ, "NOTIFY_SOCKET": f"{base}/notify"}
        process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, **options)
        try:
            assert ready.recv(100) == b"READY=1"
            yield Daemon(process, ready)
            process.send_signal(signal.SIGTERM)
            process.wait(10)
            assert ready.recv(100).startswith(b"STOPPING=1\nEXTEND_TIMEOUT_USEC=")
            assert process.returncode == 0
        finally:
            process.kill()
            process.communicate()
            os.unlink(f"{base}/notify")


def get(path: str, target: str) -> tuple[int, Any]:
    """Status and body (parsed, if it is JSON or lines of it) of a GET over a Unix socket."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.connect(path)
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        body = answer.read()
        if answer.headers["Content-Type"] == "application/jsonl":
            return answer.status, [json.loads(line) for line in body.splitlines()]
        return answer.status, json.loads(body) if body[:1] in (b"{", b"[") else body
    finally:
        connection.close()
