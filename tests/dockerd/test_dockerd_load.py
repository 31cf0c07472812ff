# SPDX-License-Identifier: Apache-2.0
"""Many clients at once while containers come and go: no request, line, sample or event is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

_PROGRAM = Path(__file__).parent.parent.parent / "bench" / "load.py"


def put_load(seconds: int, containers: int, clients: int, timeout: float) -> None:
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"  # where the daemons' commands are
    numbers = [f"--seconds={seconds}", f"--containers={containers}", f"--clients={clients}"]
    done = subprocess.run(
        [sys.executable, str(_PROGRAM), *numbers],
        capture_output=True, text=True, timeout=timeout, env={**os.environ, "PATH": path}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failures: 0" in done.stdout


@pytest.mark.timeout(300)
def test_a_small_load() -> None:
    put_load(4, 8, 6, 280)


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_a_large_load() -> None:
    put_load(120, 100, 50, 1400)
