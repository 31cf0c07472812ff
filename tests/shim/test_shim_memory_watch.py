# SPDX-License-Identifier: Apache-2.0
"""An out-of-memory kill is told though the group that counted it is gone, as systemd's are at once."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from support.pace import PACE

from orlop import cgroups
from orlop.oci.runtime import Memory, Resources
from orlop.shim.metrics import OOMWatch

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(cgroups.mode() == "v2", reason="version 2 does not tell of removals"),
]
_MIB = 1 << 20
_EAT = "import os; os.read(0, 1); b'x' * (64 << 20)"
_DIE = "import os; os.read(0, 1); os.kill(os.getpid(), 9)"


class _Loop:
    """Of the shim's, which does not come to it here."""

    def add(self, fd: int, *_: Any) -> None:
        self.fd = fd

    def remove(self, fd: int) -> None:
        assert fd == self.fd


@pytest.fixture
def group() -> Iterator[cgroups.Manager]:
    made = cgroups.new_manager(f"/orlop-oom-{os.getpid()}")
    made.create()
    made.apply(Resources(memory=Memory(limit=16 * _MIB, swap=16 * _MIB)))
    yield made
    made.destroy()


def _run(group: cgroups.Manager, script: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
    assert process.stdin is not None
    group.add(process.pid)
    process.stdin.write(b"x")
    process.stdin.close()
    assert process.wait(30 * PACE) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("script", "gone", "known", "told"),
    [
        pytest.param(_EAT, False, False, 1, id="the group is there"),
        pytest.param(_EAT, True, False, 1, id="the group is gone"),
        pytest.param(_DIE, False, False, 0, id="another kill, the group is there"),
        pytest.param(_DIE, True, False, 0, id="another kill, the group is gone"),
        pytest.param(_DIE, True, True, 0, id="another kill, and the removal has been told"),
    ],
)
def test_kills_and_removals(group: cgroups.Manager, script: str, gone: bool, known: bool, told: int) -> None:
    """`known`: the shim is so late that the kernel has told of the removal."""
    calls: list[None] = []
    loop = _Loop()
    watch = OOMWatch(loop, cgroups.load_manager(group.paths()), lambda: calls.append(None))  # type: ignore[arg-type]
    try:
        _run(group, script)
        if gone:
            group.destroy()
        if known:
            assert select.select([loop.fd], [], [], 30 * PACE)[0]
        watch.check()
        watch.check()
        assert len(calls) == told
    finally:
        watch.close()
