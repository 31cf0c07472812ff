# SPDX-License-Identifier: Apache-2.0
"""A firewalld for a test: it governs the network namespace of the test, on a message bus of its own.

Nothing of it is seen outside: the bus is a socket in the test's directory, which the variable
DBUS_SYSTEM_BUS_ADDRESS leads to, and so are the settings that it keeps.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from support.pace import PACE

if TYPE_CHECKING:
    from collections.abc import Iterator

_PLACE = Path(__file__).parents[2] / ".venv"
UNPACKED = {"distribution": _PLACE / "firewalld", "2": _PLACE / "firewalld2"}
"""As tools/setup leaves them, not installed: one would become this machine's firewall. "2" is Debian 13's."""
_BUS = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={path}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
    <allow user="*"/>
  </policy>
</busconfig>
"""


class Firewalld:
    """Started and stopped by the test, as often as it likes."""

    def __init__(self, directory: Path, unpacked: Path) -> None:
        self._directory = directory
        self._unpacked = unpacked
        self._processes: list[subprocess.Popen[bytes]] = []
        self.settings = directory / "firewalld"
        shutil.copytree(unpacked / "etc/firewalld", self.settings)
        self._environment = {**os.environ, "PYTHONPATH": str(unpacked / "usr/lib/python3/dist-packages")}

    def start_bus(self) -> None:
        """Start the message bus, and wait until it listens."""
        (self._directory / "bus.conf").write_text(_BUS.format(path=self._directory / "bus"))
        address = f"unix:path={self._directory}/bus"
        os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = self._environment["DBUS_SYSTEM_BUS_ADDRESS"] = address
        argv = ["dbus-daemon", f"--config-file={self._directory}/bus.conf", "--nofork", "--print-address=1"]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self._processes.append(process)
        assert process.stdout and process.stdout.readline().startswith(b"unix:path="), "the bus does not start"

    def start(self) -> None:
        """Start firewalld, and wait until it answers."""
        argv = [
            "/usr/bin/python3",
            str(self._unpacked / "usr/sbin/firewalld"),
            "--nofork",
            "--nopid",
            "--system-config",
            str(self.settings),
        ]
        argv += ["--default-config", str(self._unpacked / "usr/lib/firewalld")]
        argv += ["--log-file", str(self._directory / "firewalld.log")]
        process = subprocess.Popen(
            argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self._environment
        )
        self._processes.append(process)
        deadline = time.monotonic() + 30 * PACE
        while self._ask("--state").returncode:
            assert time.monotonic() < deadline, (self._directory / "firewalld.log").read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        """End the newest process: firewalld, which takes its rules away, or else the bus."""
        process = self._processes.pop()
        process.terminate()
        process.wait(30 * PACE)
        if process.stdout is not None:
            process.stdout.close()

    def __call__(self, *arguments: str) -> str:
        """What `firewall-cmd` prints."""
        result = self._ask(*arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def _ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/usr/bin/python3", str(self._unpacked / "usr/bin/firewall-cmd"), *arguments],
            capture_output=True, text=True, check=False, timeout=60 * PACE, env=self._environment,
        )  # fmt: skip

    def close(self) -> None:
        """End everything."""
        while self._processes:
            self.stop()


@contextlib.contextmanager
def running_firewalld(directory: Path, unpacked: Path) -> Iterator[Firewalld]:
    """A firewalld of the test's network namespace, which answers."""
    before = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS")
    daemon = Firewalld(directory, unpacked)
    try:
        daemon.start_bus()
        daemon.start()
        yield daemon
    finally:
        daemon.close()
        if before is None:
            os.environ.pop("DBUS_SYSTEM_BUS_ADDRESS", None)
        else:
            os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = before
