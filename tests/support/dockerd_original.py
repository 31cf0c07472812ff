# SPDX-License-Identifier: Apache-2.0
"""Debian's dockerd for a test, over a containerd of either kind, without a network."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Sequence

from support.containerd import Daemon

DOCKERD = "/usr/sbin/dockerd"


class OriginalDockerd:
    """Runs in the directory of its containerd; containers live on when it dies."""

    def __init__(self, containerd: str, flags: Sequence[str] = ()) -> None:
        """`containerd` is `orlop` or `original`."""
        self.containerd = Daemon(containerd)
        self.containerd.namespace = f"d{self.containerd.namespace}"
        self.base = f"{self.containerd.base}/docker"
        self.host = f"unix://{self.base}/s"
        self._flags = list(flags)
        self.process: subprocess.Popen[bytes] | None = None
        os.mkdir(self.base)
        with open(f"{self.base}/daemon.json", "w", encoding="ascii") as file:
            file.write("{}")
        try:
            self.start_all()
        except BaseException:
            self.remove()
            raise

    def environment(self) -> dict[str, str]:
        """Variables by which a client finds it."""
        return {**os.environ, "DOCKER_HOST": self.host, "DOCKER_CONFIG": f"{self.base}/client", "HOME": self.base}

    def start_all(self) -> None:
        """Start containerd, then dockerd."""
        self.containerd.start()
        self.start()

    def start(self) -> None:
        """Start dockerd, and wait until it listens."""
        command = [DOCKERD, "--config-file", f"{self.base}/daemon.json", "-H", self.host, "--live-restore"]
        command += ["--pidfile", f"{self.base}/pid", "--data-root", f"{self.base}/data"]
        command += ["--exec-root", f"{self.base}/exec", "--containerd", self.containerd.address]
        command += ["--containerd-namespace", self.containerd.namespace]
        command += ["--containerd-plugins-namespace", f"p{self.containerd.namespace}"]
        command += ["--cgroup-parent", f"/{self.containerd.namespace}"]
        command += ["--bridge=none", "--iptables=false", "--ip6tables=false", *self._flags]
        log_path = f"{self.base}/log"
        with open(log_path, "ab") as log:
            written = log.tell()
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        ended = os.pidfd_open(self.process.pid)
        try:
            while True:
                with open(log_path, "rb") as file:
                    file.seek(written)
                    text = file.read()
                if b"API listen on" in text:
                    return
                # It tells nobody that it is ready but its log.
                assert not select.select([ended], [], [], 0.05)[0], f"dockerd is not ready: {text.decode()}"
        finally:
            os.close(ended)

    def kill_all(self) -> None:
        """Let dockerd and containerd die."""
        self.kill()
        self.containerd.kill()

    def restart_containerd(self) -> None:
        """Let containerd die under dockerd, and start it again."""
        self.containerd.kill()
        self.containerd.start()

    def kill(self) -> None:
        """Let dockerd die."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(20)
        self.process = None

    def remove(self) -> None:
        """Stop both, remove their files, and see that nothing is left."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(40)
        for point in (f"{self.base}/data/overlay2", f"{self.base}/data", f"{self.base}/exec/netns/default"):
            subprocess.run(["umount", "-l", point], check=False, stderr=subprocess.DEVNULL)
        self.containerd.remove()
