# SPDX-License-Identifier: Apache-2.0
"""orlop's daemons in a systemd of `support.systemd`, installed there or to be installed by a test."""

from __future__ import annotations

import sys
from pathlib import Path

from support.bundles import Result
from support.systemd import Systemd

BIN = Path(sys.executable).parent


class Machine:
    """A systemd with room for orlop's state, which cannot be on the overlay that it runs on."""

    def __init__(self, systemd: Systemd) -> None:
        self.systemd = systemd
        systemd("sh", "-c", "mkdir -p /var/lib/orlop && mount -t tmpfs tmpfs /var/lib/orlop")

    def __call__(self, *command: str, check: bool = True) -> Result:
        return self.systemd(*command, check=check)

    def orlop(self, *words: str, check: bool = True) -> Result:
        return self.systemd(str(BIN / "orlop"), *words, check=check)

    def state(self, unit: str) -> str:
        return self.systemd.show(unit, "ActiveState")["ActiveState"]

    def pid(self, unit: str) -> int:
        return int(self.systemd.show(unit, "MainPID")["MainPID"])

    def load_busybox(self) -> None:
        self("sh", "-c", f"{sys.executable} -m orlop.oci.busybox | {BIN}/orlop load -q")
